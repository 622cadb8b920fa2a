"""Finds the models on this machine, says what each is and who can serve it, and why others are left out.

The door to `discover_walk` (goes through folders), `discover_gguf`, `discover_folder` and `discover_ollama` (judge what
is there) and `discover_names`. Reads headers and descriptions only, writes nothing, and never raises for what it finds.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from llm_router.models import discover_folder, discover_gguf, discover_names, discover_ollama, projectors
from llm_router.models.discover_gguf import Gguf
from llm_router.models.discover_walk import Folder, Walk
from llm_router.models.discovered import Found, Haul, LeftOut
from llm_router.models.report import Report

_UNFINISHED = (
    ".part",
    ".partial",
    ".incomplete",
    ".crdownload",
    ".aria2",
    ".downloading",
    ".tmp",
    ".downloadInProgress",
)
_OF_WEIGHTS = (".gguf", ".safetensors")
_HUB = "models--"


@dataclass(frozen=True, slots=True, kw_only=True)
class Discovery:
    """`models`: by name. `left_out`: by path. `looked`: the folders that were there."""

    models: list[Found]
    left_out: list[LeftOut]
    looked: list[Path]


def discover(places: Sequence[Path], report: Report, *, limit_s: float) -> Discovery:
    """Models in and below `places`, each once, whatever links lead to it. `limit_s`: for each of them; what wasn't
    looked at then is among `left_out`."""
    walk = Walk(limit_s=limit_s)
    search = _Search(report=report)
    looked = []
    for place in places:
        if place.is_dir():
            looked.append(place)
            for folder in walk.below(place):
                search.look(folder)
    haul = search.finish()
    haul.left_out += [LeftOut(path=path, reason=reason) for path, reason in walk.trouble]
    return Discovery(
        models=sorted(_each_once(haul.found), key=lambda model: (model.names[0], str(model.path))),
        left_out=sorted(set(haul.left_out), key=lambda one: str(one.path)),
        looked=looked,
    )


def named(models: Sequence[Found], taken: Collection[str] = ()) -> list[Found]:
    """Each with a name of its own. `taken`: names that mean something else already."""
    return sorted(discover_names.named(models, taken), key=lambda model: model.name)


@dataclass(slots=True)
class _Search:
    report: Report
    haul: Haul = field(default_factory=Haul)
    _projectors: dict[Path, list[Gguf]] = field(default_factory=dict)  # by folder
    _chosen: set[Path] = field(default_factory=set)
    _stores: list[Path] = field(default_factory=list)
    _count: int = 0

    def look(self, folder: Folder) -> None:
        self._count += len(folder.files)
        self.report(f"looking into {folder.top}: {self._count} files, {len(self.haul.found)} models")
        if any(folder.path.is_relative_to(store) for store in self._stores):
            return
        if discover_ollama.is_store(folder.folders):
            self._stores.append(folder.path)
            discover_ollama.search(folder.path, self.haul)
            return
        self._name_what_is_unfinished(folder)
        if _is_old_revision(folder.path):
            return
        repository = _repository(folder.path)
        self._ggufs(folder, repository)
        place = discover_folder.Place(path=folder.path, files=folder.files, repository=repository)
        discover_folder.judge(place, self.haul)

    def finish(self) -> Haul:
        for found in self._projectors.values():
            for one in found:
                if one.path not in self._chosen:
                    self.haul.leave(one.path, "a projector for pictures or sound, not a model; no model here took it")
        return self.haul

    def _ggufs(self, folder: Folder, repository: str) -> None:
        models = []
        for gguf in discover_gguf.read_all(folder.path, folder.files, self.haul):
            reason = discover_gguf.unfit(gguf)
            if gguf.is_projector and not gguf.missing_bytes:
                self._projectors.setdefault(folder.path, []).append(gguf)
            elif reason is not None:
                self.haul.leave(gguf.path, reason)
            else:
                models.append(gguf)
        near = [*self._projectors.get(folder.path, []), *self._projectors.get(folder.path.parent, [])]
        for gguf in models:
            projector = projectors.choose(gguf, near, models)
            if projector is not None:
                # The others are the same in another precision: nothing to tell.
                self._chosen |= {one.path for one in near if projectors.choose(gguf, [one], models) is not None}
            self.haul.found.append(
                discover_gguf.found(gguf, repository=repository, owner=_owner(folder), projector=projector)
            )

    def _name_what_is_unfinished(self, folder: Folder) -> None:
        for name in folder.files:
            if name.endswith(_UNFINISHED) and (_is_of_weights(name) or folder.path.name == "blobs"):
                whose = _repository(folder.path)
                of = f" of {whose}" if whose else ""
                self.haul.leave(folder.path / name, f"a download{of} that isn't finished")
        for name in folder.broken:
            self.haul.leave(folder.path / name, "a link to nothing, or no file")


def _is_of_weights(name: str) -> bool:
    return any(ending in name.lower() for ending in _OF_WEIGHTS) or name.startswith("sha256-")


def _each_once(found: Sequence[Found]) -> Iterator[Found]:
    """One for each file. Who has a name from a hub or from Ollama goes before one that only lies somewhere."""
    seen: set[str] = set()
    for model in sorted(found, key=lambda model: (not model.origin, str(model.path))):
        real = os.path.realpath(model.path)
        if model.format == "safetensors":
            real = _weights_of(model.path) or real
        if real not in seen:
            seen.add(real)
            yield model


def _weights_of(folder: Path) -> str:
    """Where the first of a folder's weights really lies: revisions in the hub's cache share their files."""
    first = min(folder.glob("*.safetensors"), default=None)
    return os.path.realpath(first) if first is not None else ""


# -- the Hugging Face cache: models--OWNER--NAME/{blobs,refs,snapshots/REVISION}


def _hub_folder(path: Path) -> Path | None:
    return next((one for one in (path, *path.parents) if one.name.startswith(_HUB)), None)


def _repository(path: Path) -> str:
    """OWNER/NAME of the hub; "" for what isn't in its cache."""
    folder = _hub_folder(path)
    return folder.name.removeprefix(_HUB).replace("--", "/", 1) if folder is not None else ""


def _is_old_revision(path: Path) -> bool:
    """Whether it lies in a snapshot that `main` has moved on from, while the one of `main` is there too."""
    folder = _hub_folder(path)
    if folder is None or not path.is_relative_to(folder / "snapshots") or path == folder / "snapshots":
        return False
    try:
        revision = (folder / "refs" / "main").read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError):
        return False
    mine = path.relative_to(folder / "snapshots").parts[0]
    return (
        mine != revision
        and (folder / "snapshots" / revision).is_dir()
        and any((folder / "snapshots" / revision).iterdir())
    )


def _owner(folder: Folder) -> str:
    """The folder's name, unless it is one of those where everything lies."""
    return folder.path.name if folder.path != folder.top else ""
