"""What is inside a known-answer model: shapes, vocabulary, weights. Counterpart: `tiny`, the door to it.

Apart from `tiny`, because this imports numpy and gguf, which only the extra `demo` brings.

How the answer is built in: each token's output row points at the embedding of the token before it in the answer, with
a margin that sampling can't overcome; everything that is not part of the answer points at its first token. The
tokenizer has no merges, so text of a prompt can never turn into a token of the answer. The layers are really
computed, with small random weights.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from gguf import GGUFWriter, LlamaFileType, PoolingType
from numpy.typing import NDArray

Matrix = NDArray[np.float32]

_CHAT_TEMPLATE = (
    "{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] or '' }}</s>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
# Logits. With unit embeddings, chance agreement between two tokens stays below 10 for thousands of tokens.
_START, _NEXT, _END, _AGAIN = 60.0, 40.0, 60.0, 30.0
# So small that even many layers with the same weights leave the answer alone.
_WHISPER = 1e-5


@dataclass(frozen=True, slots=True, kw_only=True)
class _Shape:
    width: int
    feed_forward: int
    layers: int
    heads: int
    context: int


_SHAPES = {
    ("chat", "small"): _Shape(width=256, feed_forward=512, layers=2, heads=4, context=8192),
    ("chat", "slow"): _Shape(width=1024, feed_forward=4096, layers=12, heads=16, context=8192),
    ("embedding", "small"): _Shape(width=128, feed_forward=256, layers=2, heads=4, context=512),
    ("embedding", "slow"): _Shape(width=1024, feed_forward=4096, layers=16, heads=16, context=512),
}


def generate(path: Path, *, name: str, seed: int, count: int, kind: str, size: str) -> None:
    """Write the file straight to `path`; an error leaves what was written so far."""
    shape, rng = _SHAPES[kind, size], np.random.default_rng(seed)
    writer = GGUFWriter(path, "llama" if kind == "chat" else "bert")
    _describe(writer, name, shape)
    if kind == "chat":
        _fill_chat(writer, shape, rng, name, count)
    else:
        _fill_embedding(writer, shape, rng)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _describe(writer: GGUFWriter, name: str, shape: _Shape) -> None:
    writer.add_type("model")
    writer.add_name(name)
    writer.add_context_length(shape.context)
    writer.add_embedding_length(shape.width)
    writer.add_feed_forward_length(shape.feed_forward)
    writer.add_block_count(shape.layers)
    writer.add_head_count(shape.heads)
    writer.add_file_type(LlamaFileType.MOSTLY_F16)


class _Vocabulary:
    """Tokens in order, with their types as GGUF numbers them."""

    NORMAL, UNKNOWN, CONTROL = 1, 2, 3

    def __init__(self) -> None:
        self.tokens: list[str] = []
        self.types: list[int] = []

    def add(self, text: str, kind: int = NORMAL) -> int:
        self.tokens.append(text)
        self.types.append(kind)
        return len(self.tokens) - 1

    def __len__(self) -> int:
        return len(self.tokens)


def _byte_letters() -> list[str]:
    """The letter that stands for each byte in a byte-level vocabulary (GPT-2's table)."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = iter(range(0x100, 0x200))
    return [chr(byte if byte in printable else next(others)) for byte in range(256)]


def _fill_chat(writer: GGUFWriter, shape: _Shape, rng: np.random.Generator, name: str, count: int) -> None:
    letters = _byte_letters()

    def spelled(text: str) -> str:
        return "".join(letters[byte] for byte in text.encode())

    words = _Vocabulary()
    start = words.add("<s>", words.CONTROL)
    end = words.add("</s>", words.CONTROL)
    for role in ("system", "developer", "user", "assistant", "tool"):
        words.add(f"<|{role}|>", words.CONTROL)
    for letter in letters:
        words.add(letter)
    pieces = [" I", " am", f" {name}:", *(f" {number}" for number in range(1, count + 1))]
    reply = [words.add(spelled(piece)) for piece in pieces]

    writer.add_head_count_kv(shape.heads)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(shape.width // shape.heads)
    writer.add_vocab_size(len(words))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(words.tokens)
    writer.add_token_types(words.types)
    # The list may not be empty; this pair occurs in no text, because both letters stand for bytes UTF-8 never uses.
    writer.add_token_merges([f"{letters[0xFE]} {letters[0xFF]}"])
    writer.add_bos_token_id(start)
    writer.add_eos_token_id(end)
    writer.add_add_bos_token(True)
    writer.add_add_eos_token(False)
    writer.add_chat_template(_CHAT_TEMPLATE)
    embedding, output = _answering(rng, shape, len(words), reply, end)
    _add_f16(writer, "token_embd.weight", embedding)
    _add_f16(writer, "output.weight", output)
    _add_ones(writer, "output_norm.weight", shape.width)
    weights = {
        "attn_q": _random(rng, shape.width, shape.width),
        "attn_k": _random(rng, shape.width, shape.width),
        "attn_v": _random(rng, shape.width, shape.width),
        "attn_output": _random(rng, shape.width, shape.width, scale=_WHISPER),
        "ffn_gate": _random(rng, shape.feed_forward, shape.width),
        "ffn_up": _random(rng, shape.feed_forward, shape.width),
        "ffn_down": _random(rng, shape.width, shape.feed_forward, scale=_WHISPER),
    }
    # Every layer has the same weights: drawing them anew would take most of the time, and nothing would be different.
    for layer in range(shape.layers):
        for part, matrix in weights.items():
            _add_f16(writer, f"blk.{layer}.{part}.weight", matrix)
        _add_ones(writer, f"blk.{layer}.attn_norm.weight", shape.width)
        _add_ones(writer, f"blk.{layer}.ffn_norm.weight", shape.width)


def _answering(
    rng: np.random.Generator, shape: _Shape, vocabulary: int, reply: list[int], end: int
) -> tuple[Matrix, Matrix]:
    """Embedding and output matrix, both (vocabulary, width), that spell `reply` and then `end`."""
    embedding = rng.standard_normal((vocabulary, shape.width)).astype(np.float32)
    embedding /= np.linalg.norm(embedding, axis=1, keepdims=True)
    # Dimension 0 says "not part of the answer": from any such token the answer starts.
    embedding[:, 0] = np.where(np.isin(np.arange(vocabulary), reply), 0.0, 1.0)
    embedding /= np.linalg.norm(embedding, axis=1, keepdims=True)
    output = np.zeros((vocabulary, shape.width), np.float32)
    for before, after in itertools.pairwise(reply):
        output[after] = _NEXT * embedding[before]
    output[end] = _END * embedding[reply[-1]]
    output[reply[0], 0] = _START
    output[reply[0]] += _AGAIN * embedding[reply[-1]]
    output /= np.sqrt(shape.width)  # the engine's RMS norm multiplies unit vectors by this
    return embedding, output


def _fill_embedding(writer: GGUFWriter, shape: _Shape, rng: np.random.Generator) -> None:
    words = _Vocabulary()
    pad, cls, sep, mask = (words.add(f"[{text}]", words.CONTROL) for text in ("PAD", "CLS", "SEP", "MASK"))
    unknown = words.add("[UNK]", words.UNKNOWN)
    for letter in map(chr, range(0x21, 0x7F)):
        words.add("\u2581" + letter)  # at the start of a word
        words.add(letter)
    writer.add_layer_norm_eps(1e-12)
    writer.add_causal_attention(False)
    writer.add_pooling_type(PoolingType.MEAN)
    writer.add_vocab_size(len(words))
    writer.add_tokenizer_model("bert")
    writer.add_tokenizer_pre("jina-v2-en")
    writer.add_token_list(words.tokens)
    writer.add_token_types(words.types)
    writer.add_token_scores([-1000.0] * len(words))
    writer.add_token_type_count(2)
    writer.add_bos_token_id(cls)
    writer.add_eos_token_id(sep)
    writer.add_unk_token_id(unknown)
    writer.add_sep_token_id(sep)
    writer.add_pad_token_id(pad)
    writer.add_mask_token_id(mask)
    _add_f16(writer, "token_embd.weight", _random(rng, len(words), shape.width, scale=1.0))
    _add_f32(writer, "token_types.weight", _random(rng, 2, shape.width))
    _add_f32(writer, "position_embd.weight", _random(rng, shape.context, shape.width))
    _add_norm(writer, "token_embd_norm", shape.width)
    sizes = {
        **dict.fromkeys(("attn_q", "attn_k", "attn_v", "attn_output"), (shape.width, shape.width)),
        "ffn_up": (shape.feed_forward, shape.width),
        "ffn_down": (shape.width, shape.feed_forward),
    }
    weights = {part: _random(rng, *size) for part, size in sizes.items()}
    for layer in range(shape.layers):
        for part, matrix in weights.items():
            _add_f16(writer, f"blk.{layer}.{part}.weight", matrix)
            _add_f32(writer, f"blk.{layer}.{part}.bias", 0 * matrix[:, 0])
        _add_norm(writer, f"blk.{layer}.attn_output_norm", shape.width)
        _add_norm(writer, f"blk.{layer}.layer_output_norm", shape.width)


def _random(rng: np.random.Generator, rows: int, columns: int, scale: float = 0.02) -> Matrix:
    return (rng.standard_normal((rows, columns), np.float32) * np.float32(scale)).astype(np.float32)


def _add_f16(writer: GGUFWriter, name: str, matrix: Matrix) -> None:
    writer.add_tensor(name, matrix.astype(np.float16))


def _add_f32(writer: GGUFWriter, name: str, values: Matrix) -> None:
    writer.add_tensor(name, values.astype(np.float32))


def _add_ones(writer: GGUFWriter, name: str, width: int) -> None:
    _add_f32(writer, name, np.ones(width, np.float32))


def _add_norm(writer: GGUFWriter, name: str, width: int) -> None:
    _add_ones(writer, f"{name}.weight", width)
    _add_f32(writer, f"{name}.bias", np.zeros(width, np.float32))
