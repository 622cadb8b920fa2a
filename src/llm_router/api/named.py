"""Which model a request about models means: its name is all there is in the body. Counterparts: `admin` and
`llamacpp_admin`, which do something with it."""

from __future__ import annotations

import msgspec
from fastapi import Request

from llm_router.api.catalog import Catalog, Entry
from llm_router.errors import InvalidRequest, ModelNotFound, UnsupportedMediaType
from llm_router.relay.asgi import read_body

_LARGEST = 64 * 1024  # bytes of a request, which is the name of a model
_SHOWN = 200


class _Named(msgspec.Struct):
    model: str


async def entry_named_in(request: Request, catalog: Catalog) -> Entry:
    """The model of `{"model": "NAME"}`.

    Raises: UnsupportedMediaType, InvalidRequest, RequestTooLarge, ModelNotFound.
    """
    # A browser sends such a type to another origin only after asking, so no web page can call this.
    if "json" not in request.headers.get("content-type", ""):
        raise UnsupportedMediaType('cannot read this: send JSON with "Content-Type: application/json"')
    try:
        named = msgspec.json.decode(await read_body(request.receive, _LARGEST) or b"", type=_Named)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidRequest('cannot read this: send {"model": "NAME"}') from error
    return entry_of(named.model, catalog)


def entry_of(name: str, catalog: Catalog) -> Entry:
    """Raises: ModelNotFound."""
    entry = catalog.find(name)
    if entry is None:
        raise ModelNotFound(f"cannot find the model {name[:_SHOWN]!r}: `llm-router status` lists them", param="model")
    return entry
