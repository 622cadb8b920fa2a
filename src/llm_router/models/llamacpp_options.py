"""The options of llama-server that change what a model takes in memory, read from a command line. Pure.

Names and defaults of llama.cpp b11434 (common/arg.cpp, tools/server/server.cpp). What isn't here changes little, or
only host memory that fills up later (`--cache-ram`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

_NAMES = {
    **dict.fromkeys(("-c", "--ctx-size"), "context"),
    **dict.fromkeys(("-np", "--parallel"), "slots"),
    **dict.fromkeys(("-ub", "--ubatch-size"), "batch"),
    **dict.fromkeys(("-ctk", "--cache-type-k"), "key_type"),
    **dict.fromkeys(("-ctv", "--cache-type-v"), "value_type"),
    **dict.fromkeys(("-ngl", "--gpu-layers", "--n-gpu-layers"), "gpu_layers"),
    **dict.fromkeys(("-fa", "--flash-attn"), "flash_attention"),
    **dict.fromkeys(("-mm", "--mmproj"), "projector"),
    **dict.fromkeys(("-md", "--model-draft", "--spec-draft-model"), "draft"),
    **dict.fromkeys(("-ncmoe", "--n-cpu-moe"), "cpu_experts"),
    **dict.fromkeys(("-ot", "--override-tensor"), "overrides"),
}
_SWITCHES = {
    **dict.fromkeys(("-kvu", "--kv-unified"), ("unified", "on")),
    **dict.fromkeys(("-no-kvu", "--no-kv-unified"), ("unified", "off")),
    "--swa-full": ("full_window", "on"),
    **dict.fromkeys(("-cmoe", "--cpu-moe"), ("cpu_experts", "1000000")),
    **dict.fromkeys(("-nkvo", "--no-kv-offload"), ("cache_on_host", "on")),
}
_AUTOMATIC_SLOTS = 4  # and unified


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """`context`: None: the model's own. `unified`: one cache for all slots rather than a part for each. `gpu_layers`:
    None: all. `cpu_experts`: of so many layers the experts stay on the host. `overrides`: patterns of tensors that
    do. `projector`, `draft`: files loaded beside the model."""

    context: int | None
    slots: int
    unified: bool
    batch: int
    key_type: str
    value_type: str
    gpu_layers: int | None
    flash_attention: bool
    full_window: bool
    cache_on_host: bool
    cpu_experts: int
    overrides: tuple[str, ...]
    projector: str | None
    draft: str | None


def parse(args: Sequence[str], *, context_length: int | None) -> Options:
    """What isn't understood is passed over: the engine will say what is wrong with it."""
    found: dict[str, str] = {}
    words = iter(args)
    for word in words:
        if word in _SWITCHES:
            name, value = _SWITCHES[word]
            found[name] = value
        elif word in _NAMES:
            found[_NAMES[word]] = next(words, "")
    context = _number(found, "context")
    slots = _number(found, "slots")
    overrides = (entry.rpartition("=") for entry in found.get("overrides", "").split(","))
    return Options(
        context=(context if context is not None else context_length) or None,
        slots=slots if slots is not None and slots > 0 else _AUTOMATIC_SLOTS,
        unified=found.get("unified", "off" if slots is not None and slots > 0 else "on") == "on",
        batch=_number(found, "batch") or 512,
        key_type=found.get("key_type", "f16"),
        value_type=found.get("value_type", "f16"),
        gpu_layers=_number(found, "gpu_layers"),
        flash_attention=found.get("flash_attention", "auto") not in ("off", "0", "false", "disabled"),
        full_window=found.get("full_window") == "on",
        cache_on_host=found.get("cache_on_host") == "on",
        cpu_experts=_number(found, "cpu_experts") or 0,
        overrides=tuple(pattern for pattern, _, place in overrides if place == "CPU" and pattern),
        projector=found.get("projector"),
        draft=found.get("draft"),
    )


def _number(found: dict[str, str], name: str) -> int | None:
    text = found.get(name, "")
    return int(text) if text.removeprefix("-").isdecimal() else None
