"""A name for each request, by which client, router and logs mean the same one.

The client's own where it has a sane one; else made here, unlike any other's.
"""

from __future__ import annotations

import itertools
import re
import secrets
from collections.abc import Mapping

HEADER = b"x-request-id"

_SANE = re.compile(rb"[A-Za-z0-9._:+/=-]{1,128}")
_PREFIX = secrets.token_hex(4).encode()  # two routers, or two runs of one, don't give the same
_numbers = itertools.count(1)


def of_request(headers: Mapping[bytes, bytes]) -> bytes:
    """`headers`: by name in lower case."""
    own = headers.get(HEADER)
    return own if own is not None and _SANE.fullmatch(own) else made()


def made() -> bytes:
    return b"%b-%x" % (_PREFIX, next(_numbers))
