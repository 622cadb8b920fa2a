"""Judges a folder with safetensors: what model it holds, how it was quantised, who can serve it.

Counterpart: `safetensors`, which reads its config.json. Reads no weight.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llm_router.models import about, discover_names
from llm_router.models.discover_gguf import abilities
from llm_router.models.discovered import Found, Haul, Use
from llm_router.models.safetensors import Described, describe

_BOTH = ("sglang", "vllm")
# After SGLang 0.5.23 (arg_groups/choices.py), vLLM 0.33 (layers/quantization/__init__.py) and TabbyAPI's engines.
_SERVED_BY = {
    "": ("sglang", "vllm", "tabbyapi"),
    "exl3": ("tabbyapi",),
    "exl2": ("tabbyapi-exl2",),
    "bitsandbytes": ("sglang",),
    **dict.fromkeys(
        ("awq", "awq_marlin", "gptq", "gptq_marlin", "fp8", "compressed-tensors", "modelopt", "modelopt_fp4", "mxfp4",
         "quark", "auto-round", "inc", "torchao"),
        _BOTH,
    ),
}  # fmt: skip
_WEIGHT_BYTES = {"bfloat16": 2, "float16": 2, "float32": 4}
_IN_NAME = re.compile(r"(?<![a-z0-9.])(\d+(?:\.\d+)?)b(?![a-z0-9])", re.IGNORECASE)
_DESCRIPTIONS = ("config.json", "model_index.json", "adapter_config.json")
_POOLS = ("modules.json", "config_sentence_transformers.json")


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """A folder in which there may be a model. `files`: names and sizes. `repository`: its hub id, or ""."""

    path: Path
    files: Mapping[str, int]
    repository: str


def judge(place: Place, haul: Haul) -> None:
    """What is in it goes to `haul`; nothing does where it doesn't look like a model."""
    files = place.files
    if not any(name in files for name in _DESCRIPTIONS):
        return
    weights = [name for name in files if name.endswith(".safetensors")]
    if "adapter_config.json" in files:
        haul.leave(place.path, "a LoRA adapter, no model: its server loads it beside the model it was made for")
    elif "model_index.json" in files:
        haul.leave(place.path, "it makes pictures (a diffusers pipeline), and no backend here does")
    elif not weights and any(name.endswith((".bin", ".pt", ".pth")) and name.startswith("pytorch") for name in files):
        haul.leave(place.path, "its weights are pickled (.bin), not safetensors; convert it, or fetch a newer revision")
    elif not weights and (place.repository or "model.safetensors.index.json" in files):
        haul.leave(place.path, "only its description is here, no weights; download the rest")
    elif weights:
        _described(place, haul)


def _described(place: Place, haul: Haul) -> None:
    try:
        described = describe(place.path)
    except FileNotFoundError as error:
        gone = Path(str(error.filename)).name if error.filename else "a file"
        haul.leave(place.path, f"it isn't whole: {gone} is missing; download it again")
    except OSError as error:
        haul.leave(place.path, f"it can't be read: {error.strerror}")
    except ValueError as error:
        haul.leave(place.path, f"its description makes no sense: {error}")
    else:
        reason = _unfit(described, place)
        if reason is None:
            haul.found.append(_found(described, place))
        else:
            haul.leave(place.path, reason)


def _unfit(described: Described, place: Place) -> str | None:
    if "quantization" in described.text and not described.quantisation:
        return "made for MLX on Apple's machines"
    if _use(described, place) is None:
        return f'no language model: it calls itself "{described.architecture or "nothing"}"'
    if described.quantisation not in _SERVED_BY:
        return f'quantised by "{described.quantisation}", which no backend here is known to read'
    return None


def _found(described: Described, place: Place) -> Found:
    publisher, _, title = place.repository.rpartition("/")
    name = title or place.path.name
    use = _use(described, place)
    assert use is not None
    template = about.read(place.path).template if use == "chat" else ""
    sees = any(key in described.text for key in ("vision_config", "visual"))
    hears = "audio_config" in described.text
    quantisation = _quantisation(described, place)
    return Found(
        names=discover_names.candidates(
            name, quantisation=quantisation.split(" ")[0], owner=publisher or place.path.parent.name
        ),
        path=place.path,
        title=name,
        origin=place.repository,
        format="safetensors",
        quantisation=quantisation,
        use="completion" if use == "chat" and not template else use,
        abilities=(*(("vision",) if sees else ()), *(("audio",) if hears else ()), *abilities(template)),
        size_bytes=described.weights,
        parameters=_parameters(described, name),
        context_length=described.context_length,
        backends=_backends(described, use),
        notes=_notes(described),
    )


def _use(described: Described, place: Place) -> Use | None:
    architecture = described.architecture
    if "ForSequenceClassification" in architecture:
        return "rerank"
    is_encoder = architecture.endswith(("BertModel", "RobertaModel", "EmbeddingModel"))
    if is_encoder or any(name in place.files for name in _POOLS):
        return "embedding"
    is_chat = architecture.endswith(("ForCausalLM", "LMHeadModel", "ForConditionalGeneration"))
    return "chat" if is_chat and "Whisper" not in architecture and "T5" not in architecture else None


def _backends(described: Described, use: Use) -> tuple[str, ...]:
    able = _SERVED_BY[described.quantisation]
    if use == "rerank":  # a classifier's head is vLLM's to turn into a rank
        return tuple(sorted(set(able) & set(_BOTH), reverse=True))
    return tuple(kind for kind in able if kind in _BOTH) if use == "embedding" else able


def _quantisation(described: Described, place: Place) -> str:
    method = described.quantisation
    section = described.text.get("quantization_config")
    details: Mapping[str, Any] = section if isinstance(section, dict) else {}
    if not method:
        kind = str(described.text.get("torch_dtype") or described.text.get("dtype") or "")
        return {"bfloat16": "BF16", "float16": "F16", "float32": "F32"}.get(kind, "")
    if method == "modelopt":
        return f"ModelOpt {_algorithm(details, place.path)}".strip()
    bits = details.get("bits")
    shown = f" {bits:g} bits" if isinstance(bits, int | float) and not isinstance(bits, bool) else ""
    return f"{method if method in ('compressed-tensors', 'bitsandbytes') else method.upper()}{shown}"


def _algorithm(details: Mapping[str, Any], folder: Path) -> str:
    found = details.get("quant_algo")
    if found is None:
        try:
            own = json.loads((folder / "hf_quant_config.json").read_bytes())
            found = own["quantization"]["quant_algo"]
        except (OSError, ValueError, LookupError, TypeError, RecursionError):
            return ""
    return str(found or "")


def _parameters(described: Described, name: str) -> int | None:
    """By the weights where each takes the same, else by the name, as in "Qwen3-8B-AWQ"."""
    kind = str(described.text.get("torch_dtype") or described.text.get("dtype") or "")
    if not described.quantisation and kind in _WEIGHT_BYTES:
        return described.weights // _WEIGHT_BYTES[kind]
    said = _IN_NAME.search(name)
    return int(float(said[1]) * 1e9) if said else None


def _notes(described: Described) -> tuple[str, ...]:
    if "auto_map" in described.text:
        return ('it brings code of its own: where its server refuses it, add "--trust-remote-code" to its `args`',)
    return ()
