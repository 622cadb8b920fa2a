"""Reads the header of a GGUF file: its metadata without the arrays. Counterpart: `local`, which judges by it.

Layout after ggml's docs/gguf.md: magic, version, tensor count, field count, then key, type and value of each field.
Reads no tensors and checks none.
"""

from __future__ import annotations

import mmap
import struct
from dataclasses import dataclass
from pathlib import Path

_FORMATS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY = 8, 9
_MOST_FIELDS = 10_000

Value = str | int | float | bool


class NotGguf(Exception):
    """The file is no GGUF of version 2 or later, or its header is cut off."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """`fields`: every scalar and text by its key, such as `general.architecture`."""

    tensors: int
    fields: dict[str, Value]

    @property
    def architecture(self) -> str:
        return str(self.fields.get("general.architecture", ""))

    def of_architecture(self, key: str) -> Value | None:
        """A field whose key starts with the architecture's name, as `bert.pooling_type` does."""
        return self.fields.get(f"{self.architecture}.{key}")


def read(path: Path) -> Header:
    """Raises: NotGguf; OSError where the file can't be read."""
    with path.open("rb") as file:
        if file.read(4) != b"GGUF":
            raise NotGguf(f"{path} doesn't start with the letters GGUF")
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            try:
                return _Reader(content).header()
            except (struct.error, IndexError, KeyError, UnicodeDecodeError) as error:
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
        fields: dict[str, Value] = {}
        for _ in range(count):
            key, kind = self._text(), self._number("I")
            value = self._value(kind)
            if value is not None:
                fields[key] = value
        return Header(tensors=tensors, fields=fields)

    def _value(self, kind: int) -> Value | None:
        if kind == _STRING:
            return self._text()
        if kind == _ARRAY:
            self._skip_array()
            return None
        value: Value = self._unpacked(_FORMATS[kind])
        return value

    def _skip_array(self) -> None:
        kind, count = self._number("I"), self._number("Q")
        if kind in _FORMATS:
            self._at += count * struct.calcsize("<" + _FORMATS[kind])
            return
        for _ in range(count):
            if kind == _ARRAY:
                self._skip_array()
            else:  # as a variable: vocabularies have hundreds of thousands of these
                length = self._number("Q")
                self._at += length

    def _text(self) -> str:
        length = self._number("Q")
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
