"""The real engines as subjects of the contract: how each is configured, and what must be known of it.

Counterparts: `install`, which puts them into the cache; `points`, which are asked of them. Each engine is a function
that prepares it and returns its version and what to configure.

All of them serve the known-answer model, so that a right answer is known to the letter.
"""

from __future__ import annotations

import importlib.metadata
import json
import subprocess
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from routing import RouterProcess, numbers

from conformance import install
from conformance.cache import Cache
from conformance.install import COUNT, HERE
from conformance.points import Subject

NAME, CONTEXT = "subject", 1024
TOO_MUCH = {"max_tokens": 99999}
KEY, ADMIN_KEY = "a-key-of-the-engines-own", "another-key-for-its-administrator"


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """`model`: its configuration. `backends`: that of its backend. `traits`: what the subject must know of it.
    `other`: the second model's, where it isn't the embedded llama.cpp."""

    version: str
    model: dict[str, Any]
    backends: dict[str, Any] = field(default_factory=dict)
    traits: dict[str, Any] = field(default_factory=dict)
    other: dict[str, Any] | None = None


Prepare = Callable[[Cache], Prepared]

# One at a time, or what fits side by side is never switched.
SETTINGS: dict[str, Any] = {
    "memory": "exclusive",
    "patience": "0s",
    "drain_timeout": "1s",
    "model_load_timeout": "400s",
    "stall_timeout": "60s",
}


@asynccontextmanager
async def subject(prepared: Prepared, cache: Cache, folder: Path) -> AsyncIterator[Subject]:
    """A router with the engine and a second model; both are gone afterwards."""
    other = prepared.other or _llamacpp_model(cache, "other")
    models = {NAME: prepared.model, "other": other}
    router = RouterProcess(folder, models, backends=prepared.backends, **SETTINGS)
    await router.start()
    defaults: dict[str, Any] = {
        "answer": numbers(NAME, COUNT),
        "other_answer": numbers("other", COUNT),
        "refused": TOO_MUCH,
        "context_length": CONTEXT,
        "stall_s": 60.0,
    }
    try:
        yield Subject(router=router, model=NAME, other="other", **{**defaults, **prepared.traits})
    finally:
        await router.stop()


def embedded_llamacpp(cache: Cache) -> Prepared:
    version = importlib.metadata.version("xllamacpp")
    return Prepared(version=f"xllamacpp {version}", model=_large_llamacpp_model(cache, NAME), traits=_LLAMACPP_TRAITS)


def llama_server(cache: Cache, name: str = NAME) -> Prepared:
    binary = install.llama_server(cache)
    told = subprocess.run([str(binary), "--version"], capture_output=True, text=True, timeout=30, check=False)
    version = next((line for line in (told.stderr + told.stdout).splitlines() if "version" in line), "?")
    return Prepared(
        version=version.removeprefix("version:").strip(),
        model=_large_llamacpp_model(cache, name) | {"api_key": KEY},
        backends={"llamacpp": {"binary": str(binary)}},
        traits={**_LLAMACPP_TRAITS, "keys": (KEY,)},
        other={**_llamacpp_model(cache, "other"), "args": ["-t", "1", "-np", "1"]},
    )


def vllm(cache: Cache, name: str = NAME, shards: int = 1) -> Prepared:
    python = install.vllm(cache)
    model = {
        "backend": "vllm",
        "path": str(install.hugging_face(cache, python, name, shards)),
        "context_length": CONTEXT,
        "api_key": KEY,
        "args": ["--enforce-eager", "--distributed-executor-backend", "uni"],
        "env": {
            **_CPU,
            "VLLM_CPU_KVCACHE_SPACE": "1",  # GiB
            "VLLM_CPU_OMP_THREADS_BIND": "nobind",
            "VLLM_NO_USAGE_STATS": "1",
        },
    }
    return Prepared(
        version=f"vllm-cpu {install.version_of(python, 'vllm-cpu')}",
        model=model,
        # Not the `vllm` command: it looks for a distribution of that name and doesn't find vllm-cpu.
        backends={"vllm": {"binary": str(python)}},
        traits={"percent": True, "keys": (KEY,), "load_s": 400.0, "stop_s": 15.0, "worker": "VLLM::EngineCor"},
    )


def sglang(cache: Cache, name: str = NAME, shards: int = 1) -> Prepared:
    python = install.sglang(cache)
    model = {
        "backend": "sglang",
        "path": str(install.hugging_face(cache, python, name, shards)),
        "context_length": CONTEXT,
        "api_key": KEY,
        "args": [
            *("--device", "cpu", "--attention-backend", "torch_native", "--disable-overlap-schedule"),
            *("--mem-fraction-static", "0.2", "--max-total-tokens", "4096"),
        ],
        "env": {**_CPU, "SGLANG_USE_CPU_ENGINE": "1", "PYTHONPATH": str(HERE / "stand_ins")},
    }
    return Prepared(
        version=f"sglang {install.version_of(python, 'sglang')}",
        model=model,
        backends={"sglang": {"binary": str(python)}},
        traits={
            "why_no_percent": _TOO_SMALL,
            "keys": (KEY,),
            "load_s": 400.0,
            "stop_s": 35.0,
            "worker": "sglang::schedul",
        },
    )


def tabbyapi(cache: Cache) -> Prepared:
    """Its own HTTP layer from a checkout, over a stand-in for the engine, which needs a GPU."""
    python, checkout = install.tabbyapi(cache)
    models = cache.folder / "tabby-models"
    for name in (NAME, "other"):
        (models / name).mkdir(parents=True, exist_ok=True)
        (models / name / "config.json").write_text(json.dumps({"answer": numbers(name, COUNT)}))
        template = "{% for m in messages %}{{ m['content'] }}{% endfor %}"
        (models / name / "tokenizer_config.json").write_text(json.dumps({"chat_template": template}))
    context = 8192  # a request needs 2048 tokens of it beside its prompt
    common = {"backend": "tabbyapi", "context_length": context}
    return Prepared(
        version=_commit(checkout),
        model={**common, "path": str(models / NAME)},
        other={**common, "path": str(models / "other")},
        backends={
            "tabbyapi": {
                "binary": str(python),
                "directory": str(_tabby_home(cache, checkout)),
                "args": ["--unsafe-launch", "true"],
                "env": {"PYTHONPATH": str(HERE / "stand_ins"), **_CPU},
            }
        },
        traits={
            # More than its context: what is too much to generate it cuts by itself.
            "refused": {"messages": [{"role": "user", "content": "word " * 9000}]},
            "endless": {"min_tokens": 2000, "max_tokens": 2000},
            "percent": True,
            "context_length": context,
            "keeps_server": True,
            "keys": (KEY, ADMIN_KEY),
            "load_s": 60.0,
            "stop_s": 12.0,
        },
    )


ENGINES: Mapping[str, Prepare] = {
    "llama.cpp, embedded": embedded_llamacpp,
    "llama-server": llama_server,
    "vLLM": vllm,
    "SGLang": sglang,
    "TabbyAPI": tabbyapi,
}

_CPU = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "PYTHONDONTWRITEBYTECODE": "1"}
_TOO_SMALL = "so small a model is loaded before anyone asks"
_LLAMACPP_TRAITS: dict[str, Any] = {
    "refused": {"messages": [{"role": "user"}]},
    "endless": {"ignore_eos": True, "max_tokens": 8000},
    "context_length": 8192,
    "why_no_percent": _TOO_SMALL,
}


def _llamacpp_model(cache: Cache, name: str) -> dict[str, Any]:
    return {"backend": "llamacpp", "path": str(install.gguf(cache, name)), "args": ["-t", "1"]}


def _large_llamacpp_model(cache: Cache, name: str) -> dict[str, Any]:
    return _llamacpp_model(cache, name) | {"context_length": 8192, "args": ["-t", "1", "-np", "1"]}


def _tabby_home(cache: Cache, checkout: Path) -> Path:
    """A folder that is the checkout but for its keys, settings and logs, so that the checkout stays as it is."""
    home = cache.folder / "tabby-home"
    home.mkdir(parents=True, exist_ok=True)
    for entry in checkout.iterdir():
        if entry.name not in ("api_tokens.yml", "config.yml", "logs") and not (home / entry.name).is_symlink():
            (home / entry.name).symlink_to(entry)
    (home / "api_tokens.yml").write_text(f"api_key: {KEY}\nadmin_key: {ADMIN_KEY}\n")
    return home


def _commit(checkout: Path) -> str:
    argv = ["git", "-C", str(checkout), "rev-parse", "--short", "HEAD"]
    told = subprocess.run(argv, capture_output=True, text=True, timeout=30, check=False).stdout.strip()
    return told if (checkout / ".git").exists() else "an export without its history"
