"""What a model's files say of it to people who choose one: family, size, quantisation, what its template can do.

Reads headers, never a weight. Counterparts: `header` and `safetensors`, which read; `footprint`, for what it takes.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from llm_router.models import header, safetensors
from llm_router.models.header import NotGguf, Value

# ggml's `llama_ftype`.
_FILE_TYPES = {
    0: "F32", 1: "F16", 2: "Q4_0", 3: "Q4_1", 7: "Q8_0", 8: "Q5_0", 9: "Q5_1", 10: "Q2_K", 11: "Q3_K_S", 12: "Q3_K_M",
    13: "Q3_K_L", 14: "Q4_K_S", 15: "Q4_K_M", 16: "Q5_K_S", 17: "Q5_K_M", 18: "Q6_K", 19: "IQ2_XXS", 20: "IQ2_XS",
    21: "Q2_K_S", 22: "IQ3_XS", 23: "IQ3_XXS", 24: "IQ1_S", 25: "IQ4_NL", 26: "IQ3_S", 27: "IQ3_M", 28: "IQ2_S",
    29: "IQ2_M", 30: "IQ4_XS", 31: "IQ1_M", 32: "BF16", 36: "TQ1_0", 37: "TQ2_0", 38: "MXFP4",
}  # fmt: skip
_SHARD = re.compile(r"(.+)-\d{5}-of-(\d{5})$")
_LARGEST_TEMPLATE = 1024**2


@dataclass(frozen=True, slots=True, kw_only=True)
class About:
    """Empty or None where the files don't say. `format`: "gguf" or "safetensors". `parameters`: as "8B".

    `template`: its chat template. `fields`: the scalars of a GGUF header. `size_bytes`: of all its weights.
    `modified_at`: seconds since the epoch.
    """

    format: str = ""
    family: str = ""
    parameters: str = ""
    quantisation: str = ""
    context_length: int | None = None
    template: str = ""
    size_bytes: int = 0
    modified_at: float = 0.0
    fields: Mapping[str, Value] = field(default_factory=dict)

    @property
    def takes_tools(self) -> bool:
        return "tools" in self.template

    @property
    def thinks(self) -> bool:
        return any(word in self.template for word in ("enable_thinking", "<think>", "reasoning_content"))


def read(path: Path) -> About:
    """Of a GGUF file (the first shard of several) or a folder with safetensors. Never raises: a file that isn't there
    or makes no sense says nothing."""
    try:
        return _folder(path) if path.is_dir() else _gguf(path)
    except (OSError, ValueError, RecursionError, NotGguf):
        return About()


def _gguf(path: Path) -> About:
    found = header.read(path)
    length = found.of_architecture("context_length")
    kind = found.fields.get("general.file_type")
    return About(
        format="gguf",
        family=found.architecture,
        parameters=str(found.fields.get("general.size_label", "")),
        quantisation=_FILE_TYPES.get(kind, "") if isinstance(kind, int) else "",
        context_length=length if isinstance(length, int) else None,
        template=str(found.fields.get("tokenizer.chat_template", "")),
        size_bytes=sum(shard.stat().st_size for shard in _shards(path)),
        modified_at=path.stat().st_mtime,
        fields={key: value for key, value in found.fields.items() if not key.startswith("tokenizer.chat_template")},
    )


def _shards(path: Path) -> list[Path]:
    shard = _SHARD.match(path.stem)
    return [path] if shard is None else sorted(path.parent.glob(f"{_escaped(shard[1])}-*-of-{shard[2]}.gguf"))


def _escaped(text: str) -> str:
    return re.sub(r"([*?[])", r"[\1]", text)


def _folder(path: Path) -> About:
    found = safetensors.describe(path)
    return About(
        format="safetensors",
        family=str(found.text.get("model_type", "")),
        quantisation=found.quantisation.upper(),
        context_length=found.context_length,
        template=_template(path),
        size_bytes=found.weights,
        modified_at=(path / "config.json").stat().st_mtime,
    )


def _template(folder: Path) -> str:
    own, config = folder / "chat_template.jinja", folder / "tokenizer_config.json"
    if own.is_file() and own.stat().st_size <= _LARGEST_TEMPLATE:
        return own.read_text(errors="replace")
    if not config.is_file() or config.stat().st_size > 64 * _LARGEST_TEMPLATE:
        return ""
    said = json.loads(config.read_bytes())
    found = said.get("chat_template") if isinstance(said, dict) else None
    return found if isinstance(found, str) else ""
