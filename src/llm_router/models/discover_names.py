"""What a found model is called: short, in lower case, the same at every search. Pure."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import replace

from llm_router.models.discovered import Found

# As they stand at the end of file names: Q4_K_M, UD-IQ2_XXS, BF16, MXFP4_MOE, Q8_0, i1-Q4_K_S.
QUANTISATION = re.compile(
    r"(?:^|[-._])(?P<name>(?:UD-|i1-)?(?:I?Q\d(?:_[A-Z0-9]+)*|TQ\d_\d|B?F16|F(?:P)?32|FP16|MXFP4(?:_MOE)?|NVFP4))$",
    re.IGNORECASE,
)
_UNSPEAKING = re.compile(r"(?:ggml[-_.]?)?(?:model|weights|ggml|gguf)?|[0-9a-f]{16,}|sha256.*", re.IGNORECASE)
_HUB_SUFFIX = re.compile(r"[-_.](?:gguf|ggml)$", re.IGNORECASE)


def split(stem: str) -> tuple[str, str]:
    """A file's name without its ending and shard, taken apart: what it is, and how it was quantised ("": not said)."""
    found = QUANTISATION.search(stem)
    return (stem[: found.start()], found["name"]) if found else (stem, "")


def candidates(*speaking: str, quantisation: str = "", owner: str = "") -> tuple[str, ...]:
    """What a model could be called. `speaking`: its names, the best one first; those that say nothing, such as "model",
    are passed over. `owner`: who published it, or the folder it lies in."""
    names = [name for name in speaking if not _UNSPEAKING.fullmatch(name)]
    base = slug(_HUB_SUFFIX.sub("", names[0])) if names else "model"
    longer = [base, *([f"{base}-{slug(quantisation)}"] if quantisation else [])]
    if owner and slug(owner):
        longer.append(f"{slug(owner)}-{longer[-1]}")
    return tuple(dict.fromkeys(longer))


def slug(text: str) -> str:
    return re.sub(r"[^a-z0-9._:]+", "-", text.lower()).strip("-._")


def named(models: Sequence[Found], taken: Collection[str] = ()) -> list[Found]:
    """Each with a name of its own, in the same order. Who would share a name gets a longer one, all of them; what is
    still alike is numbered. `taken`: names that mean something else already."""
    level = [0] * len(models)
    longest = max((len(model.names) for model in models), default=1)
    for _ in range(longest):
        chosen = [_at(model, place) for model, place in zip(models, level, strict=True)]
        count = Counter(chosen)
        crowded = [name in taken or count[name] > 1 for name in chosen]
        level = [place + 1 if too else place for place, too in zip(level, crowded, strict=True)]
    used = set(taken)
    result = []
    for model, place in zip(models, level, strict=True):
        name = _free(_at(model, place), used)
        used.add(name)
        result.append(replace(model, name=name))
    return result


def _at(model: Found, place: int) -> str:
    return model.names[min(place, len(model.names) - 1)]


def _free(name: str, used: Collection[str]) -> str:
    number, free = 2, name
    while free in used:
        free, number = f"{name}-{number}", number + 1
    return free
