"""Finds the projector that gives a GGUF model its eyes or ears, beside it or one folder above. Pure.

A wrong one keeps the model from loading at all, so in doubt a model gets none.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from llm_router.models import discover_names
from llm_router.models.discover_gguf import Gguf

_BEST_FIRST = ("F16", "BF16", "Q8_0", "F32")
_WORD = re.compile(r"mm[-_]?proj(?:ector)?|projector", re.IGNORECASE)


def choose(model: Gguf, projectors: Sequence[Gguf], neighbours: Sequence[Gguf]) -> Gguf | None:
    """The one that fits, half precision before others. `neighbours`: all models in the folder, this one too.

    1. Its output is as wide as the model's input. 2. It carries the model's name, or that of its repository. 3. Without
    such a one: all models in the folder are of one family, as in a repository of one model in several quantisations.
    """
    fitting = [one for one in projectors if _is_as_wide(one, model)]  # 1
    named = [one for one in fitting if _belongs(one, model)]  # 2
    if not named and _are_one_family(neighbours):  # 3
        named = fitting
    return min(named, key=_rank, default=None)


def _is_as_wide(projector: Gguf, model: Gguf) -> bool:
    widths = [projector.header.fields.get(f"clip.{sense}projection_dim") for sense in ("vision.", "audio.", "")]
    known = [width for width in widths if isinstance(width, int) and width > 0]
    return not known or model.width is None or model.width in known


def _belongs(projector: Gguf, model: Gguf) -> bool:
    if projector.repository or model.repository:
        return projector.repository == model.repository
    return bool(_name(projector)) and _name(projector) == _name(model)


def _name(gguf: Gguf) -> str:
    """What both of a pair are called once the words for quantisation and projector are gone; "": nothing is left."""
    stem, _ = discover_names.split(gguf.stem)
    return discover_names.slug(_WORD.sub("", stem))


def _are_one_family(models: Sequence[Gguf]) -> bool:
    return len({(model.header.architecture, model.width, _name(model)) for model in models}) <= 1


def _rank(projector: Gguf) -> tuple[int, str]:
    _, said = discover_names.split(projector.stem)
    name = said.upper()
    return (_BEST_FIRST.index(name) if name in _BEST_FIRST else len(_BEST_FIRST), projector.path.name)
