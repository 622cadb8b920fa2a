"""GGUF files of any architecture, with holes where the weights would be: what counts is what their headers say."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import gguf
import numpy as np

Fields = Mapping[str, int | float | bool | str | Sequence[int] | Sequence[bool]]
Shapes = Mapping[str, tuple[int, ...]]


def write(path: Path, architecture: str, fields: Fields, shapes: Shapes) -> Path:
    """`fields` without the architecture's name in front. `shapes`: rows before columns; matrices are f16, the others
    f32. Sparse: a file of 40 GB costs some kilobytes."""
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_tokenizer_model("no_vocab")
    for key, value in fields.items():
        _add(writer, f"{architecture}.{key}", value)
    size = 0
    for name, shape in shapes.items():
        kind = np.dtype(np.float16 if len(shape) > 1 else np.float32)
        bytes_ = math.prod(shape) * kind.itemsize
        writer.add_tensor_info(name, shape, kind, bytes_)
        size += -(-bytes_ // 32) * 32
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    writer.close()
    header = -(-path.stat().st_size // 32) * 32
    os.truncate(path, header + size)
    return path


def _add(writer: gguf.GGUFWriter, key: str, value: object) -> None:
    if isinstance(value, bool):
        writer.add_bool(key, value)
    elif isinstance(value, int):
        writer.add_uint32(key, value)
    elif isinstance(value, float):
        writer.add_float32(key, value)
    elif isinstance(value, str):
        writer.add_string(key, value)
    else:
        assert isinstance(value, Sequence)
        writer.add_array(key, list(value))


def attention(width: int, queries: int, keys: int, values: int, feed_forward: int) -> dict[str, tuple[int, ...]]:
    """The tensors of one ordinary layer, named without its number."""
    return {
        "attn_norm": (width,),
        "attn_q": (queries, width),
        "attn_k": (keys, width),
        "attn_v": (values, width),
        "attn_output": (width, queries),
        "ffn_norm": (width,),
        "ffn_gate": (feed_forward, width),
        "ffn_up": (feed_forward, width),
        "ffn_down": (width, feed_forward),
    }


def whole(
    width: int, vocabulary: int, layers: Sequence[Mapping[str, tuple[int, ...]]], *, tied: bool = False
) -> Shapes:
    """The tensors of a model from those of its layers."""
    shapes: dict[str, tuple[int, ...]] = {"token_embd.weight": (vocabulary, width), "output_norm.weight": (width,)}
    if not tied:
        shapes["output.weight"] = (vocabulary, width)
    for number, layer in enumerate(layers):
        for name, shape in layer.items():
            shapes[f"blk.{number}.{name if '.' in name else name + '.weight'}"] = shape
    return shapes
