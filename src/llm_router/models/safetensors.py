"""What a folder with safetensors says about its model: how it was quantised, its shape, the size of its weights.

Such a folder is what SGLang, vLLM and TabbyAPI load; `safetensors_memory` says what they will take for it. Reads
config.json and what stands beside it, never a weight.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_LARGEST_JSON = 64 * 1024**2  # an index has a line for each tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Described:
    """`quantisation`: as the engines call it: "awq", "gptq", "fp8", "compressed-tensors", "modelopt", "mxfp4", "exl3",
    "exl2", …; "" for none. `weights`: in bytes. `text`: the part of config.json about the language model."""

    quantisation: str
    weights: int
    architecture: str
    text: Mapping[str, Any]

    @property
    def context_length(self) -> int | None:
        """What it was trained for, in tokens."""
        found = self.text.get("max_position_embeddings")
        return found if isinstance(found, int) and found > 0 else None


def describe(folder: Path) -> Described:
    """Raises: OSError where a file is missing, ValueError where one makes no sense."""
    config = _object(folder / "config.json")
    nested = config.get("text_config")
    architectures = config.get("architectures")
    return Described(
        quantisation=_quantisation(folder, config),
        weights=_weights(folder),
        architecture=str(architectures[0]) if isinstance(architectures, list) and architectures else "",
        text={**config, **nested} if isinstance(nested, dict) else config,
    )


def _quantisation(folder: Path, config: Mapping[str, Any]) -> str:
    found = config.get("quantization_config")
    if isinstance(found, dict):
        return str(found.get("quant_method", "")).lower()
    if (folder / "hf_quant_config.json").exists():  # NVIDIA's ModelOpt
        return "modelopt"
    return "gptq" if (folder / "quantize_config.json").exists() else ""


def _weights(folder: Path) -> int:
    """By the files that the index names, because some folders hold the same weights twice (Mistral's "consolidated"),
    and because what an index says of their size is that of the model before it was quantised."""
    index = folder / "model.safetensors.index.json"
    if index.exists():
        named = _object(index).get("weight_map")
        if not isinstance(named, dict):
            raise ValueError(f"{index} names no files")
        files = [folder / str(name) for name in set(named.values())]
    else:
        files = sorted(folder.glob("model*.safetensors")) or sorted(folder.glob("*.safetensors"))
    if not files:
        raise FileNotFoundError(f"{folder} holds no safetensors")
    return sum(file.stat().st_size for file in files)


def _object(path: Path) -> dict[str, Any]:
    if path.stat().st_size > _LARGEST_JSON:
        raise ValueError(f"{path} is too large to be true")
    try:
        found = json.loads(path.read_bytes())
    except RecursionError as error:
        raise ValueError(f"{path} is nested too deeply to be true") from error
    if not isinstance(found, dict):
        raise ValueError(f"{path} holds no object")
    return found
