"""Reads what servers print about their start: how far it is, and that it is over. Pure; one function per dialect."""

from __future__ import annotations

import json
import re

from llm_router.backends.base import Loading, Ready, Signal

_CHILD_LINE = "cmd_child_to_router:state:"
_SHARDS = re.compile(r"Loading safetensors checkpoint shards:\s*(\d{1,3})% Completed")


def read_llamacpp(line: str) -> Signal | None:
    """llama-server's child protocol (server-models.cpp): `cmd_child_to_router:state:{"state":…,"payload":…}`.

    It is internal to llama.cpp and has no version, so whatever looks odd is ignored: the poll will tell.
    """
    if not line.startswith(_CHILD_LINE):
        return None
    try:
        message = json.loads(line[len(_CHILD_LINE) :])
    except ValueError:
        return None
    if not isinstance(message, dict):
        return None
    if message.get("state") == "ready":
        return Ready()
    payload = message.get("payload")
    if message.get("state") != "loading" or not isinstance(payload, dict):
        return None
    return _loading(payload.get("value"), payload.get("current") or payload.get("stage"))


def _loading(value: object, stage: object) -> Loading:
    is_number = isinstance(value, int | float) and not isinstance(value, bool) and 0.0 <= value <= 1.0
    return Loading(
        fraction=float(value) if is_number else None,  # type: ignore[arg-type] # checked the line above
        stage=stage if isinstance(stage, str) else "",
    )


def read_safetensors(line: str) -> Signal | None:
    """The progress bar that SGLang and vLLM show while they read weights. Reading them isn't being ready."""
    match = _SHARDS.search(line)
    return Loading(fraction=min(1.0, int(match[1]) / 100), stage="weights") if match else None
