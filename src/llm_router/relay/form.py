"""A form with files on its way to a server: the model's name is found in it and written anew, and a large file is never
in this process's memory.

Counterpart: `upload`, which sends it. The form is kept in a temporary file without a name; what is sent is that file,
mapped. Other fields and the files stay the bytes that the client sent.
"""

from __future__ import annotations

import mmap
import re
import tempfile
from typing import IO

from llm_router.errors import InvalidRequest, RequestTooLarge, Unavailable, UnsupportedMediaType

_IN_MEMORY = 1024 * 1024
_ROOM = 128 * 1024  # before the form, for the request's head and the new field
_MOST_PARTS = 1000
_LONGEST_HEAD = 8192
_LONGEST_NAME = 1024
_BOUNDARY = re.compile(rb'boundary=(?:"([^"\r\n]{1,70})"|([^\s;,"]{1,70}))', re.IGNORECASE)
_FIELD = re.compile(
    rb'^content-disposition:[^\r\n]*[; ]name=(?:"model"|model(?=[;\s]|$))', re.IGNORECASE | re.MULTILINE
)
_NEW = b'--%b\r\nContent-Disposition: form-data; name="model"\r\n\r\n%b\r\n'


def boundary_of(content_type: bytes) -> bytes:
    """Raises: UnsupportedMediaType where it isn't a form with files."""
    found = _BOUNDARY.search(content_type)
    if not content_type.lower().startswith(b"multipart/form-data") or found is None:
        raise UnsupportedMediaType('cannot read this: send a form ("Content-Type: multipart/form-data; boundary=…")')
    return found[1] or found[2]


class Form:
    """`add` what comes, then `close` and look for the `model`; then it is sent, as often as need be. `limit`: in bytes.

    Adding and closing write to a file of the system's and may take as long as that does; `close` reads all of it.
    """

    def __init__(self, boundary: bytes, limit: int) -> None:
        self._boundary = boundary
        self._limit = limit
        self._pieces: list[bytes] = []
        self._file: IO[bytes] | None = None
        self._size = 0
        self._map: mmap.mmap
        self._start = 0
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
        begin, end, self.model = self._find()
        # What stands before it moves over it: nothing at all for clients that send their fields before their files.
        self._map.move(_ROOM + end - begin, _ROOM, begin - _ROOM)
        self._start = _ROOM + end - begin

    def _find(self) -> tuple[int, int, str]:
        """Where the field begins and ends, and what it says."""
        delimiter = b"--" + self._boundary
        at = self._map.find(delimiter, _ROOM, _ROOM + len(delimiter) + 2)
        for _ in range(_MOST_PARTS):
            head_end = self._map.find(b"\r\n\r\n", at, at + _LONGEST_HEAD) if at >= 0 else -1
            if head_end < 0:
                break
            following = self._map.find(b"\r\n" + delimiter, head_end + 2)
            if following < 0:
                raise InvalidRequest("cannot read the form: it is cut off; send all of it")
            if _FIELD.search(self._map[at:head_end]):
                return at, following + 2, _name(self._map[head_end + 4 : min(following, head_end + 4 + _LONGEST_NAME)])
            at = following + 2
        raise InvalidRequest(
            'cannot tell which model to use: you must name it in the field "model"; GET /v1/models lists them',
            param="model",
        )

    def size_with(self, name: str) -> int:
        """In bytes, with the model called so."""
        return len(_NEW) - 4 + len(self._boundary) + len(name.encode()) + len(self._map) - self._start

    def request(self, head: bytes, name: str) -> memoryview:
        """A whole request with this head. Valid until the next one is asked for."""
        before = head + _NEW % (self._boundary, name.encode())
        if len(before) > self._start:
            raise InvalidRequest("cannot forward headers of this size: send fewer")
        begin = self._start - len(before)
        self._map[begin : self._start] = before
        return memoryview(self._map)[begin:]


def _name(value: bytes) -> str:
    try:
        name = value.decode()
    except UnicodeDecodeError:
        raise InvalidRequest('cannot read "model": it is not valid UTF-8', param="model") from None
    if not name or any(sign in name for sign in "\r\n\0"):
        raise InvalidRequest('cannot use "model": it must be the name of a model', param="model")
    return name
