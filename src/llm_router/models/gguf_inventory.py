"""What a GGUF file holds, counted: its parameters, and whether its end has arrived. Reads no tensor.

Counterpart: `header`, which reads the list. Sizes of types after ggml's `type_traits` (ggml.c, b11434).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from llm_router.models import header
from llm_router.models.header import Header

# By ggml's number of the type: elements in a block, and the block's bytes.
BLOCKS = {
    0: (1, 4), 1: (1, 2), 2: (32, 18), 3: (32, 20), 6: (32, 22), 7: (32, 24), 8: (32, 34), 9: (32, 40), 10: (256, 84),
    11: (256, 110), 12: (256, 144), 13: (256, 176), 14: (256, 210), 15: (256, 292), 16: (256, 66), 17: (256, 74),
    18: (256, 98), 19: (256, 50), 20: (32, 18), 21: (256, 110), 22: (256, 82), 23: (256, 136), 24: (1, 1), 25: (1, 2),
    26: (1, 4), 27: (1, 8), 28: (1, 8), 29: (256, 56), 30: (1, 2), 34: (256, 54), 35: (256, 66), 39: (32, 17),
    40: (64, 36), 41: (128, 18),
}  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Inventory:
    """`parameters`: elements of all tensors. `missing_bytes`: what the file lacks at its end, as far as the types of
    its tensors are known."""

    header: Header
    parameters: int
    missing_bytes: int


def read(path: Path) -> Inventory:
    """Raises: NotGguf; OSError where the file can't be read."""
    described, start, tensors = header.read_places(path)
    end = max((start + one.offset + _bytes(one.elements, one.kind) for one in tensors), default=0)
    return Inventory(
        header=described,
        parameters=sum(one.elements for one in tensors),
        missing_bytes=max(0, end - path.stat().st_size),
    )


def _bytes(elements: int, kind: int) -> int:
    block, size = BLOCKS.get(kind, (1, 0))
    return -(-elements // block) * size
