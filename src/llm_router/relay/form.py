"""A form with files on its way to a server: the model's name is found in it and written anew, the model's parameters
are about its fields, and a large file is never in this process's memory.

Counterpart: `upload`, which sends it. The form is kept in a temporary file without a name; what is sent is that file,
mapped. Other fields and the files stay the bytes that the client sent.
"""

from __future__ import annotations

import mmap
import re
import tempfile
from collections.abc import Iterator
from typing import IO

import msgspec

from llm_router.errors import InvalidRequest, RequestTooLarge, Unavailable, UnsupportedMediaType
from llm_router.relay.request import Parameters

_IN_MEMORY = 1024 * 1024
_ROOM = 128 * 1024  # before the form, for the request's head and the new field
_MOST_PARTS = 1000
_LONGEST_HEAD = 8192
_LONGEST_NAME = 1024
_BOUNDARY = re.compile(rb'boundary=(?:"([^"\r\n]{1,70})"|([^\s;,"]{1,70}))', re.IGNORECASE)
_FIELD = re.compile(rb'^content-disposition:[^\r\n]*[; ]name=(?:"([^"\r\n]*)"|([^;\s]+))', re.IGNORECASE | re.MULTILINE)
_MODEL = "model"


def boundary_of(content_type: bytes) -> bytes:
    """Raises: UnsupportedMediaType where it isn't a form with files."""
    found = _BOUNDARY.search(content_type)
    if not content_type.lower().startswith(b"multipart/form-data") or found is None:
        raise UnsupportedMediaType('cannot read this: send a form ("Content-Type: multipart/form-data; boundary=…")')
    return found[1] or found[2]


class Form:
    """`add` what comes, then `close` and look for the `model`, then perhaps `amend`; then it is sent, as often as need
    be. `limit`: in bytes.

    Adding and closing write to a file of the system's and may take as long as that does; `close` and `amend` read it.
    """

    def __init__(self, boundary: bytes, limit: int) -> None:
        self._boundary = boundary
        self._limit = limit
        self._pieces: list[bytes] = []
        self._file: IO[bytes] | None = None
        self._size = 0
        self._map: mmap.mmap
        self._start = 0
        self._added = b""
        self.model = ""

    def add(self, data: bytes) -> None:
        """Raises: RequestTooLarge, Unavailable where it can't be kept."""
        self._size += len(data)
        if self._size > self._limit:
            raise RequestTooLarge(
                f"cannot take a form of more than {self._limit} bytes: send a smaller file, "
                'or raise "max_body" in the configuration'
            )
        self._pieces.append(data)
        if self._file is not None or self._size > _IN_MEMORY:
            self._spill()

    def _spill(self) -> None:
        try:
            if self._file is None:
                self._file = tempfile.TemporaryFile()  # noqa: SIM115 -- lives as long as the form
                self._file.seek(_ROOM)
            self._file.writelines(self._pieces)
        except OSError as error:
            raise Unavailable(f"cannot keep the file for its server: {error.strerror}; make room for it") from error
        self._pieces.clear()

    def close(self) -> None:
        """The form is complete: find its `model`, and take it out. Raises: InvalidRequest."""
        whole = _ROOM + self._size
        if self._file is None:
            self._map = mmap.mmap(-1, whole)
            self._map[_ROOM:] = b"".join(self._pieces)
        else:
            self._file.flush()
            self._map = mmap.mmap(self._file.fileno(), whole)
            self._file.close()  # the mapping keeps it
        self._pieces.clear()
        self._start = _ROOM
        for name, begin, value, end in self._parts():
            if name == _MODEL:
                self.model = _name(self._map[value : min(end - 2, value + _LONGEST_NAME)])
                self._take_out(begin, end)
                return
        raise InvalidRequest(
            'cannot tell which model to use: you must name it in the field "model"; GET /v1/models lists them',
            param="model",
        )

    def amend(self, parameters: Parameters) -> None:
        """What `body` does to the keys of an object, to the fields. A value that isn't a text is written as JSON, a
        list as several fields, null as none. Raises: InvalidRequest."""
        gone = {*parameters.removals, *parameters.overrides, _MODEL}
        there = {_MODEL}
        for name, begin, _, end in self._parts():
            if name in gone:
                self._take_out(begin, end)
            else:
                there.add(name)
        defaults = {key: value for key, value in parameters.defaults.items() if key not in there}
        added = {**defaults, **parameters.overrides}
        added.pop(_MODEL, None)
        self._added = b"".join(self._field(key, one) for key, value in added.items() for one in _values(value))

    def _parts(self) -> Iterator[tuple[str, int, int, int]]:
        """Of each part its name, and where it begins, where its value does, and where the part ends. What stands before
        the end may be moved meanwhile."""
        delimiter = b"--" + self._boundary
        at = self._map.find(delimiter, self._start, self._start + len(delimiter) + 2)
        for _ in range(_MOST_PARTS):
            head_end = self._map.find(b"\r\n\r\n", at, at + _LONGEST_HEAD) if at >= 0 else -1
            if head_end < 0:
                return
            following = self._map.find(b"\r\n" + delimiter, head_end + 2)
            if following < 0:
                raise InvalidRequest("cannot read the form: it is cut off; send all of it")
            found = _FIELD.search(self._map[at:head_end])
            name = "" if found is None else (found[1] or found[2] or b"").decode("utf-8", "replace")
            yield name, at, head_end + 4, following + 2
            at = following + 2

    def _take_out(self, begin: int, end: int) -> None:
        """What stands before it moves over it: nothing at all for clients that send their fields before their files."""
        moved = begin - self._start
        self._map.move(end - moved, self._start, moved)
        self._start = end - moved

    def _field(self, name: str, value: str) -> bytes:
        about = b'--%b\r\nContent-Disposition: form-data; name="%b"\r\n\r\n%b\r\n'
        return about % (self._boundary, name.encode(), value.encode())

    def size_with(self, name: str) -> int:
        """In bytes, with the model called so."""
        return len(self._field(_MODEL, name)) + len(self._added) + len(self._map) - self._start

    def request(self, head: bytes, name: str) -> memoryview:
        """A whole request with this head. Valid until the next one is asked for."""
        before = head + self._field(_MODEL, name) + self._added
        if len(before) > self._start:
            raise InvalidRequest("cannot forward headers of this size: send fewer")
        begin = self._start - len(before)
        self._map[begin : self._start] = before
        return memoryview(self._map)[begin:]


def _values(value: object) -> list[str]:
    values = value if isinstance(value, list) else [value]
    return [one if isinstance(one, str) else msgspec.json.encode(one).decode() for one in values if one is not None]


def _name(value: bytes) -> str:
    try:
        name = value.decode()
    except UnicodeDecodeError:
        raise InvalidRequest('cannot read "model": it is not valid UTF-8', param="model") from None
    if not name or any(sign in name for sign in "\r\n\0"):
        raise InvalidRequest('cannot use "model": it must be the name of a model', param="model")
    return name
