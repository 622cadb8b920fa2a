"""What SGLang, vLLM and TabbyAPI need in memory for a folder with safetensors: weights and one whole context.

SGLang and vLLM take a share of each GPU whatever the model, so for them this is what that share must hold, not what
will be seen. Counterpart: `safetensors`, which reads the folder.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from llm_router.models.memory import Footprint
from llm_router.models.safetensors import Described, describe

# For activations and graphs; not measured, but what the engines themselves set aside is of this size.
_BUFFERS = 1024**3
_BUFFERS_EXL = 512 * 1024**2
_EXL = ("exl2", "exl3")
_USUAL_CONTEXT = 4096

# As the last one given: of vLLM; of SGLang; of TabbyAPI.
_CONTEXT_NAMES = ("--max-model-len", "--context-length", "--max-total-tokens", "--max-seq-len", "--cache-size")
_TYPE_NAMES = ("--kv-cache-dtype", "--cache-mode")

_SEES_ALL = "full_attention"
_WINDOWED = ("sliding_attention", "chunked_attention")


def measure(folder: Path, *, context_length: int | None, args: Sequence[str]) -> Footprint:
    """Raises: OSError, ValueError, and for numbers that make no sense TypeError, LookupError or ArithmeticError."""
    described = describe(folder)
    context = _context(described, context_length, args)
    is_exl = described.quantisation in _EXL
    elements = sum(cells * _elements(described.text) for cells in _cells(described, context, windows=not is_exl))
    return Footprint(
        weights=described.weights,
        cache=int(elements * _element_bytes(args)),
        buffers=_BUFFERS_EXL if is_exl else _BUFFERS,
    )


def _context(described: Described, context_length: int | None, args: Sequence[str]) -> int:
    given = [int(text) for text in _values(args, _CONTEXT_NAMES) if text.isdecimal() and int(text) > 0]
    return given[-1] if given else context_length or described.context_length or _USUAL_CONTEXT


def _cells(described: Described, context: int, *, windows: bool) -> list[int]:
    """Tokens that each layer keeps. `windows`: whether the engine keeps less where less is seen."""
    text = described.text
    count = int(text["num_hidden_layers"])
    if not 0 < count <= 4096:
        raise ValueError(f"{count} layers")
    kinds, window = text.get("layer_types"), text.get("sliding_window")
    if isinstance(kinds, list):
        narrow = min(context, window) if windows and isinstance(window, int) and window > 0 else context
        sizes = {_SEES_ALL: context, **dict.fromkeys(_WINDOWED, narrow)}
        # The others (linear attention, convolutions) keep a state of fixed size, which is small.
        return [sizes.get(str(kind), 0) for kind in kinds[:count]]
    interval = text.get("full_attention_interval")
    every = interval if isinstance(interval, int) and interval > 0 else 1
    return [context if (place + 1) % every == 0 else 0 for place in range(count)]


def _elements(text: Mapping[str, Any]) -> int:
    """Of one token in one layer, keys and values together."""
    if latent := text.get("kv_lora_rank"):  # latent attention (MLA): the values are computed from the keys
        return int(latent) + int(text.get("qk_rope_head_dim") or 0)
    heads = int(text["num_attention_heads"])
    width = int(text.get("head_dim") or int(text["hidden_size"]) // heads)
    return 2 * int(text.get("num_key_value_heads") or heads) * width


def _element_bytes(args: Sequence[str]) -> float:
    """TabbyAPI: "FP16", "Q8" … "Q4", or "8,4": bits of keys and values, with a scale (16 bits) for each 32 of them."""
    kind = next(iter(reversed(_values(args, _TYPE_NAMES))), "").lower()
    bits = [int(part) for part in kind.removeprefix("q").split(",") if part.isdecimal() and 2 <= int(part) <= 8]
    if bits:
        return (sum(bits) / len(bits) + 0.5) / 8
    return 1.0 if "fp8" in kind else 2.0


def _values(args: Sequence[str], names: Sequence[str]) -> list[str]:
    """What the options of these names are set to, as `--name value` or `--name=value`."""
    found = []
    for place, word in enumerate(args):
        name, joined, value = word.partition("=")
        if name in names:
            found.append(value if joined else next(iter(args[place + 1 :]), ""))
    return found
