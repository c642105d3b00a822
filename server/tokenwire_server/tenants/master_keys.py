"""The master keys, which encrypt the provider keys of tenants. They are read from the environment."""

from __future__ import annotations

import base64
import binascii
import hashlib
import os
from collections.abc import Mapping, Sequence

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from ..config import ConfigError

VARIABLE = "TOKENWIRE_ENCRYPTION_KEYS"
KEY_BYTES = 32
_NONCE_BYTES = 12
"""The size for which GCM is specified. Random nonces may be used for 2**32 encryptions with one key."""


class Encrypted(msgspec.Struct, frozen=True):
    """An encrypted text, and the id of the master key that decrypts it."""

    master_key_id: str
    ciphertext: bytes
    """The nonce, followed by the output of AES-256-GCM."""


class Undecryptable(Exception):
    """A text cannot be decrypted. The message is one line for the operator, without secrets."""


class MasterKeys:
    """Encrypts with the first key, and decrypts with any of them. Without keys, both raise an error.

    `repr` does not show the keys.
    """

    def __init__(self, keys: Sequence[bytes] = ()) -> None:
        """Each key has KEY_BYTES bytes."""
        self._ciphers = {_id_of(key): AESGCM(key) for key in keys}

    @classmethod
    def of(cls, environ: Mapping[str, str]) -> MasterKeys:
        """Read the keys from VARIABLE: base64, separated by commas or spaces. Raises ConfigError."""
        texts = environ.get(VARIABLE, "").replace(",", " ").split()
        return cls([_decoded(text, number) for number, text in enumerate(texts, start=1)])

    @property
    def first_id(self) -> str:
        """The id of the key that encrypts: 8 hex digits that do not reveal it. Raises ConfigError."""
        for key_id in self._ciphers:
            return key_id
        raise ConfigError(
            f"{VARIABLE} is not set: provider keys are stored encrypted; create a key with "
            "`openssl rand -base64 32`"
        )

    def encrypt(self, text: str, context: str) -> Encrypted:
        """Encrypt a text. It can be decrypted only with the same context. Raises ConfigError."""
        key_id = self.first_id
        nonce = os.urandom(_NONCE_BYTES)
        ciphertext = self._ciphers[key_id].encrypt(nonce, text.encode(), context.encode())
        return Encrypted(key_id, nonce + ciphertext)

    def decrypt(self, encrypted: Encrypted, context: str) -> str:
        """Return the text. Raises Undecryptable."""
        cipher = self._ciphers.get(encrypted.master_key_id)
        if cipher is None:
            raise Undecryptable(f"{VARIABLE} does not have the key {encrypted.master_key_id}")
        nonce = encrypted.ciphertext[:_NONCE_BYTES]
        try:
            text = cipher.decrypt(nonce, encrypted.ciphertext[_NONCE_BYTES:], context.encode())
            return text.decode()
        except (InvalidTag, TypeError, ValueError):
            raise Undecryptable("its ciphertext is damaged, or belongs to another row") from None


def _id_of(key: bytes) -> str:
    return hashlib.sha256(b"tokenwire master key\0" + key).hexdigest()[:8]


def _decoded(text: str, number: int) -> bytes:
    """Return the key in a text, which errors do not repeat."""
    try:
        key = base64.b64decode(text.translate(str.maketrans("-_", "+/")), validate=True)
    except (binascii.Error, ValueError):
        key = b""
    if len(key) != KEY_BYTES:
        raise ConfigError(
            f"{VARIABLE}: key {number} is not {KEY_BYTES} bytes in base64; create one with "
            "`openssl rand -base64 32`"
        )
    return key
