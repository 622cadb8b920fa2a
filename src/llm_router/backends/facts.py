"""Reads what ready servers say of themselves: the context really in force, the slots, the names, the version.

Counterpart: `base.Facts`, and each backend, which says where to ask. Pure. A body may hold anything: what isn't what it
should be is left out, and nothing here raises.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from llm_router.backends.base import Facts

_NOTHING: Mapping[str, Any] = {}
# SGLang keeps six tokens of a request's room for itself: `max_req_input_len` is min(context, KV pool) - 6
# (managers/tp_worker.py, 0.5.23).
_SGLANG_KEEPS = 6


def listing(body: bytes, name: str) -> Facts:
    """`GET /v1/models` of any server: all names it lists, and the context of `name`, or of the only one there is.

    The context is `max_model_len` of vLLM and SGLang, `meta.n_ctx` of llama.cpp (what one slot has), `context_length`
    of other routers.
    """
    entries = list(_mappings(mapping(body).get("data")))
    models = tuple(dict.fromkeys(one for entry in entries for one in _names(entry)))
    ours = entries[0] if len(entries) == 1 else next((one for one in entries if name in _names(one)), _NOTHING)
    context = ours.get("max_model_len") or _mapping(ours.get("meta")).get("n_ctx") or ours.get("context_length")
    return Facts(context_length=count(context), models=models)


def llamacpp_props(body: bytes) -> Facts:
    """`GET /props`: the context of a slot, how many there are, the build."""
    props = mapping(body)
    settings = _mapping(props.get("default_generation_settings"))
    return Facts(
        context_length=count(settings.get("n_ctx")),
        slots=count(props.get("total_slots")),
        build=text(props.get("build_info")),
    )


def is_sleeping(body: bytes) -> bool | None:
    """vLLM's `GET /is_sleeping`."""
    answer = mapping(body).get("is_sleeping")
    return answer if isinstance(answer, bool) else None


def sglang_info(body: bytes) -> Facts:
    """`GET /server_info`: the longest request that model and KV pool allow. The pool is often the smaller: it is cut
    to the memory that is left, and `/v1/models` doesn't tell."""
    info = mapping(body)
    longest = count(info.get("max_req_input_len"))
    return Facts(
        context_length=None if longest is None else longest + _SGLANG_KEEPS,
        build=text(info.get("version")),
    )


def sglang_loads(body: bytes) -> Facts:
    """`GET /v1/loads`: requests at the same time, over all data-parallel ranks."""
    limits = [count(load.get("max_running_requests")) for load in _mappings(mapping(body).get("loads"))]
    known = [one for one in limits if one is not None]
    return Facts(slots=sum(known) or None)


def version(body: bytes) -> Facts:
    """`GET /version` of vLLM."""
    return Facts(build=text(mapping(body).get("version")))


def tabby_card(body: bytes) -> Facts:
    """`GET /v1/model` of TabbyAPI: the model that is loaded, named by its folder."""
    card = mapping(body)
    parameters = _mapping(card.get("parameters"))
    name = text(card.get("id"))
    return Facts(
        context_length=count(parameters.get("max_seq_len")),
        slots=count(parameters.get("max_batch_size")),
        models=() if name is None else (name,),
    )


def mapping(body: bytes | str) -> Mapping[str, Any]:
    """The JSON object that `body` is; empty where it is something else."""
    try:
        return _mapping(json.loads(body))
    except (ValueError, RecursionError):
        return _NOTHING


def count(value: object) -> int | None:
    """A positive whole number, or None."""
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else None


def text(value: object) -> str | None:
    """A text with something in it, or None."""
    return value if isinstance(value, str) and value else None


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else _NOTHING


def _mappings(value: object) -> Iterator[Mapping[str, Any]]:
    return (one for one in value if isinstance(one, dict)) if isinstance(value, list) else iter(())


def _names(entry: Mapping[str, Any]) -> Iterable[str]:
    aliases = entry.get("aliases")
    found = [entry.get("id"), *(aliases if isinstance(aliases, list) else ())]
    return [name for name in map(text, found) if name is not None]
