"""Certificates of authorities that are created for one test run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import trustme


@dataclass(frozen=True)
class Files:
    """A certificate with its chain, and its private key, in files."""

    cert: Path
    key: Path


class Authority:
    """Issues certificates and writes them to a folder."""

    def __init__(self, folder: Path) -> None:
        self._authority = trustme.CA()
        self._folder = folder
        folder.mkdir()
        self.ca = folder / "ca.pem"
        self._authority.cert_pem.write_to_path(self.ca)

    def issue(self, *names: str, **fields: Any) -> Files:
        """A new certificate for these names."""
        leaf = self._authority.issue_cert(*names, **fields)
        count = len(list(self._folder.iterdir()))
        files = Files(self._folder / f"cert{count}.pem", self._folder / f"key{count}.pem")
        for pem in leaf.cert_chain_pems:
            pem.write_to_path(files.cert, append=True)
        leaf.private_key_pem.write_to_path(files.key)
        return files


def server_credentials(files: Files, client_ca: Path | None = None) -> grpc.ServerCredentials:
    """Return a server's credentials. With `client_ca`, it requires a certificate of that authority."""
    return grpc.ssl_server_credentials(
        [(files.key.read_bytes(), files.cert.read_bytes())],
        root_certificates=None if client_ca is None else client_ca.read_bytes(),
        require_client_auth=client_ca is not None,
    )
