"""TabbyAPI's admin API: how a running server is given a model, and gives it back.

Counterpart: `tabbyapi`, which starts the server. The API is the same on the main branch (e632af4) and on the branch
for EXL2 (exl2-checkpoint, 79126f9), except that there a load ends when its client leaves. Pure.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import PurePath

from llm_router.backends import facts
from llm_router.backends.base import Failed, HttpCall, Inquiry, LaunchRequest, Load, Loading, Signal
from llm_router.backends.command import bearer, device_variables

# Answers as long as the load runs; the model's own load timeout ends it earlier.
_LOAD_S = 3600.0
# Cancels running requests, then frees the memory.
_UNLOAD_S = 60.0
# A cache is made of pages of this many tokens, and holds what is generated in one go beside the prompt.
_PAGE = 256
_CHUNK = 2048
_SHOWN = 500


def load(request: LaunchRequest, *, kind: str, model_name: str, template: tuple[str, ...]) -> Load:
    """`model_name`: the folder below the server's model folder. `template`: the command line before the port is filled
    in; empty for a `url`."""
    headers = bearer(request.admin_key)
    return Load(
        shared_key=_shared_key(request, kind, template),
        name=PurePath(model_name).name,
        call=HttpCall(
            method="POST",
            path="/v1/model/load",
            body=json.dumps({"model_name": model_name, **context(request)}).encode(),
            headers=(("Content-Type", "application/json"), *headers),
            limit_s=_LOAD_S,
        ),
        read_event=read_event,
        read_error=read_error,
        # A load over another model waits for that one's requests without limit; an unload cancels them.
        unload=HttpCall(method="POST", path="/v1/model/unload", headers=headers, limit_s=_UNLOAD_S),
        unloaded=(200, 503),  # 503: there was none
        loaded=Inquiry(
            call=HttpCall(method="GET", path="/v1/model", headers=headers),
            read=facts.tabby_card,
        ),
    )


def context(request: LaunchRequest) -> dict[str, int]:
    """Both figures, because a cache as large as the context refuses prompts that come near to it. Without a context
    length the model's own counts. A load by the API doesn't look at `config.yml`."""
    if request.context_length is None:
        return {}
    return {"max_seq_len": request.context_length, "cache_size": -(-(request.context_length + _CHUNK) // _PAGE) * _PAGE}


def read_event(line: str) -> Signal | None:
    """One event: `{"model_type":"model","module":3,"modules":35,"status":"processing"}`, or `{"error":{"message":…}}`
    within an answer of 200, after which no model is loaded. `model_type` goes through vision, draft and model, as far
    as there are; each says `finished`, which comes before the model can be used and so means nothing."""
    event = facts.mapping(line.removeprefix("data:").strip())
    if "error" in event:
        return Failed(message=_words(event["error"]))
    module, modules = facts.count(event.get("module")), facts.count(event.get("modules"))
    if modules is None:
        return None
    return Loading(fraction=min(1.0, (module or 0) / modules), stage=facts.text(event.get("model_type")) or "")


def read_error(body: bytes) -> str:
    """`{"detail":"…"}`, a list of what is wrong with a field, `{"error":{"message":…}}`, or plain text."""
    answer = facts.mapping(body)
    return _words(answer.get("detail", answer.get("error", answer)) if answer else body.decode(errors="replace"))


def _words(error: object) -> str:
    if isinstance(error, dict):
        error = error.get("message") or error.get("msg") or json.dumps(error)
    words = "; ".join(map(_words, error)) if isinstance(error, list) else str(error)
    return words.strip()[:_SHOWN] or "it gave no reason"


def _shared_key(request: LaunchRequest, kind: str, template: tuple[str, ...]) -> str:
    """The same for servers that differ in nothing but their port and the model. Hashed, for there may be keys in it."""
    alike = [
        *(kind, template, request.url, request.urls, request.directory),
        *(sorted({**device_variables(request), **request.env}.items()), request.api_key, request.admin_key),
    ]
    return f"{kind}:{hashlib.sha256(json.dumps(alike).encode()).hexdigest()[:16]}"
