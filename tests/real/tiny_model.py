"""Write a tiny model with random weights: `python tests/real/tiny_model.py FILE.gguf`.

It runs in the environment of `make real`, which has the package `gguf`. The same file is written each time.
The text is nonsense, but the tokens are what servers find hard: single bytes, pieces of words, and whole
characters of several bytes.
"""

import string
import sys
from pathlib import Path

import gguf
import numpy as np

CONTEXT_TOKENS = 65536
EMBEDDING_SIZE = 64
FEED_FORWARD_SIZE = 128
HEADS = 4
LAYERS = 2
BYTE_TOKEN_SCALE = 0.6
"""Scale of the output weights of byte tokens. With 1, nearly no text would be valid UTF-8."""

CONTROL = ["<s>", "</s>", "<|im_start|>", "<|im_end|>"]
ENDS = ["<|endoftext|>", "<|end|>", "<|eot_id|>", "<|return|>", "<end_of_turn>", "<eos>", "<EOT>"]
"""More tokens that end an answer: with one alone, a random model hardly ever ends."""
TAGS = ["<think>", "</think>", "<tool_call>", "</tool_call>"]
PIECES = ["\u2581", *string.ascii_letters, *string.digits, *string.punctuation, *"äéß漢🍐"]
WORDS = ["the", "and", "pear", "apple", "is", "of", "wire", "token", "ing", "er", "un", "re"]


def vocabulary() -> list[tuple[str, gguf.TokenType]]:
    """Return the tokens. A byte token `<0x0A>` stands for one byte, which need not be a whole character."""
    return [
        ("<unk>", gguf.TokenType.UNKNOWN),
        *((token, gguf.TokenType.CONTROL) for token in CONTROL + ENDS),
        *((token, gguf.TokenType.USER_DEFINED) for token in TAGS),
        *((f"<0x{byte:02X}>", gguf.TokenType.BYTE) for byte in range(256)),
        *((token, gguf.TokenType.NORMAL) for token in PIECES + WORDS),
        *(("\u2581" + token, gguf.TokenType.NORMAL) for token in WORDS),
    ]


def tensors(tokens: list[tuple[str, gguf.TokenType]]) -> dict[str, np.ndarray]:
    chance = np.random.default_rng(20)

    def random(rows: int, columns: int) -> np.ndarray:
        return (chance.standard_normal((rows, columns)) / np.sqrt(columns)).astype(np.float32)

    ones = np.ones(EMBEDDING_SIZE, dtype=np.float32)
    output = random(len(tokens), EMBEDDING_SIZE)
    is_byte = np.array([kind == gguf.TokenType.BYTE for _, kind in tokens])
    output[is_byte] *= BYTE_TOKEN_SCALE
    weights = {
        "token_embd.weight": random(len(tokens), EMBEDDING_SIZE),
        "output_norm.weight": ones,
        "output.weight": output,
    }
    for layer in range(LAYERS):
        weights |= {
            f"blk.{layer}.{name}.weight": random(*size)
            for name, size in {
                "attn_q": (EMBEDDING_SIZE, EMBEDDING_SIZE),
                "attn_k": (EMBEDDING_SIZE, EMBEDDING_SIZE),
                "attn_v": (EMBEDDING_SIZE, EMBEDDING_SIZE),
                "attn_output": (EMBEDDING_SIZE, EMBEDDING_SIZE),
                "ffn_gate": (FEED_FORWARD_SIZE, EMBEDDING_SIZE),
                "ffn_up": (FEED_FORWARD_SIZE, EMBEDDING_SIZE),
                "ffn_down": (EMBEDDING_SIZE, FEED_FORWARD_SIZE),
            }.items()
        }
        weights |= {f"blk.{layer}.{name}_norm.weight": ones for name in ("attn", "ffn")}
    return weights


def write(path: Path) -> None:
    tokens = vocabulary()
    names = [token for token, _ in tokens]
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name("tiny")
    writer.add_context_length(CONTEXT_TOKENS)
    writer.add_embedding_length(EMBEDDING_SIZE)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(FEED_FORWARD_SIZE)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(HEADS)
    writer.add_rope_dimension_count(EMBEDDING_SIZE // HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("llama")
    writer.add_token_list([token.encode() for token in names])
    writer.add_token_scores([float(-number) for number in range(len(tokens))])
    writer.add_token_types([int(kind) for _, kind in tokens])
    writer.add_bos_token_id(names.index("<s>"))
    writer.add_eos_token_id(names.index("</s>"))
    writer.add_eot_token_id(names.index("<|im_end|>"))
    writer.add_unk_token_id(names.index("<unk>"))
    writer.add_add_bos_token(True)
    writer.add_add_space_prefix(False)
    for name, tensor in tensors(tokens).items():
        writer.add_tensor(name, tensor)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


if __name__ == "__main__":
    write(Path(sys.argv[1]))
