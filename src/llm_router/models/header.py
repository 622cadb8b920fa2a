"""Reads the header of a GGUF file: its metadata, and where its tensors lie. Reads no tensors and checks none.

Counterparts: `local`, which judges a file by it, and `gguf_memory`, which says what it will take. Layout after ggml's
docs/gguf.md: magic, version, tensor count, field count; key, type and value of each field; name, shape, type and
place of each tensor.
"""

from __future__ import annotations

import itertools
import math
import mmap
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

_FORMATS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY = 8, 9
_MOST_FIELDS = 10_000
_MOST_TENSORS = 1_000_000
_MOST_DIMENSIONS = 16  # ggml has 4
_LONGEST_ARRAY = 1024  # one entry a layer, and llama.cpp allows 512 of them; vocabularies are longer
_MOST_ENTRIES, _LONGEST_TEXT, _DEEPEST = 10_000_000, 2**26, 4  # beyond these it isn't a header but chance

Value = str | int | float | bool


class NotGguf(Exception):
    """The file is no GGUF of version 2 or later, or its header is cut off."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """`fields`: every scalar and text by its key, such as `general.architecture`. `arrays`: those of numbers that may
    have one entry for each layer."""

    tensors: int
    fields: dict[str, Value]
    arrays: dict[str, tuple[float, ...]] = field(default_factory=dict)

    @property
    def architecture(self) -> str:
        return str(self.fields.get("general.architecture", ""))

    def of_architecture(self, key: str) -> Value | None:
        """A field whose key starts with the architecture's name, as `bert.pooling_type` does."""
        return self.fields.get(f"{self.architecture}.{key}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Of a tensor. `offset`: in bytes, from where the tensors begin. `kind`: ggml's number of its type."""

    elements: int
    kind: int
    offset: int


def read(path: Path) -> Header:
    """Raises: NotGguf; OSError where the file can't be read."""
    with _reader(path) as reader:
        return reader.header()


def read_tensors(path: Path) -> tuple[Header, dict[str, int]]:
    """The header, and the bytes that each tensor takes in the file. Raises: as `read`."""
    with _reader(path) as reader:
        header = reader.header()
        return header, reader.tensors(header)


def read_places(path: Path) -> tuple[Header, int, list[Place]]:
    """The header, where in the file its tensors begin, and each one's place. A file that ends too early is no error
    here. Raises: as `read`."""
    with _reader(path) as reader:
        header = reader.header()
        places = reader.places(header)
        return header, reader.start(header), [place for _, place in places]


@contextmanager
def _reader(path: Path) -> Iterator[_Reader]:
    with path.open("rb") as file:
        if file.read(4) != b"GGUF":
            raise NotGguf(f"{path} doesn't start with the letters GGUF")
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            try:
                yield _Reader(content)
            except (struct.error, IndexError, KeyError, UnicodeDecodeError, OverflowError) as error:
                raise NotGguf(f"the header of {path} is damaged") from error


class _Reader:
    def __init__(self, content: mmap.mmap) -> None:
        self._content = content
        self._at = 4

    def header(self) -> Header:
        version = self._number("I")
        if not 2 <= version < 2**16:  # 1 had other lengths; a huge one is big-endian
            raise NotGguf(f"GGUF version {version} is not supported")
        tensors, count = self._number("Q"), self._number("Q")
        if count > _MOST_FIELDS:
            raise NotGguf(f"{count} fields are too many to be true")
        header = Header(tensors=tensors, fields={}, arrays={})
        for _ in range(count):
            key, kind = self._text(), self._number("I")
            if kind == _ARRAY:
                numbers = self._array()
                if numbers is not None:
                    header.arrays[key] = numbers
            else:
                header.fields[key] = self._text() if kind == _STRING else self._unpacked(_FORMATS[kind])
        return header

    def tensors(self, header: Header) -> dict[str, int]:
        """Call it right after `header`. A tensor takes the bytes up to the next one: so no list of types has to be
        kept, and one made tomorrow has a size too."""
        places = {place.offset: name for name, place in self.places(header)}
        end = len(self._content) - self.start(header)
        starts = sorted(places)
        if starts and starts[-1] > end:
            raise IndexError  # it ends before its last tensor begins
        return {places[start]: after - start for start, after in itertools.pairwise([*starts, end])}

    def places(self, header: Header) -> list[tuple[str, Place]]:
        """Each tensor's name and place, in the file's order. Call it right after `header`."""
        if header.tensors > _MOST_TENSORS:
            raise NotGguf(f"{header.tensors} tensors are too many to be true")
        return [self._place() for _ in range(header.tensors)]

    def start(self, header: Header) -> int:
        """Where the tensors begin. Call it right after `places`."""
        given = header.fields.get("general.alignment")
        alignment = given if isinstance(given, int) and given > 0 else 32
        return -(-self._at // alignment) * alignment

    def _place(self) -> tuple[str, Place]:
        name = self._text()
        shape = [self._number("Q") for _ in range(min(self._number("I"), _MOST_DIMENSIONS + 1))]
        if len(shape) > _MOST_DIMENSIONS:
            raise IndexError
        return name, Place(elements=math.prod(shape), kind=self._number("I"), offset=self._number("Q"))

    def _array(self, depth: int = 0) -> tuple[float, ...] | None:
        """Passes over it and returns its numbers; None for texts, arrays of arrays, and what is as long as a
        vocabulary."""
        kind, count = self._number("I"), self._number("Q")
        if kind in _FORMATS:
            start, size = self._at, count * struct.calcsize("<" + _FORMATS[kind])
            self._at += size
            if count > _LONGEST_ARRAY:
                return None
            return struct.unpack_from(f"<{count}{_FORMATS[kind]}", self._content, start)
        if count > _MOST_ENTRIES or depth > _DEEPEST:
            raise IndexError
        if kind == _ARRAY:
            for _ in range(count):
                self._array(depth + 1)
        else:
            self._skip_texts(count)
        return None

    def _skip_texts(self, count: int) -> None:
        """In one loop without calls: vocabularies have hundreds of thousands of them."""
        content, at, length_at = self._content, self._at, struct.Struct("<Q").unpack_from
        for _ in range(count):
            at += 8 + length_at(content, at)[0]
        self._at = at

    def _text(self) -> str:
        length = self._number("Q")
        if length > _LONGEST_TEXT:
            raise IndexError
        text = self._content[self._at : self._at + length]
        if len(text) != length:
            raise IndexError
        self._at += length
        return text.decode("utf-8")

    def _number(self, form: str) -> int:
        return int(self._unpacked(form))

    def _unpacked(self, form: str) -> Value:
        (value,) = struct.unpack_from("<" + form, self._content, self._at)
        self._at += struct.calcsize("<" + form)
        found: Value = value
        return found
