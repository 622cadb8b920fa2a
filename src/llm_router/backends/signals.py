"""Reads what servers print about their start: how far it is, that it is over, and whether memory was the trouble.
Pure; one function per dialect."""

from __future__ import annotations

import json
import re

from llm_router.backends.base import Loading, Ready, Signal

_CHILD_LINE = "cmd_child_to_router:state:"

# tqdm's bars, as SGLang and vLLM draw them.
_SHARDS = re.compile(r"\b[Ll]oading [^%:]*:\s*(\d{1,3})% Completed")
_GRAPHS = re.compile(r"\bCapturing [^%]*:\s*(\d{1,3})%\|")

_SGLANG_READY = "The server is fired up and ready to roll!"
_SGLANG_STAGES = (
    ("Load weight begin", "weights"),
    ("Load weight end", "memory"),
    ("CUDA graph begin", "graphs"),
    ("cuda graph begin", "graphs"),
    ("Application startup complete", "warm-up"),  # HTTP is up; now it answers a first request of its own
)
_VLLM_STAGES = (
    ("Initializing a V1 LLM engine", "start"),  # after half a minute of imports
    ("Starting to load model", "weights"),
    ("Loading weights took", "memory"),
    ("Model loading took", "memory"),
    ("for vLLM's torch.compile", "compile"),
    ("Compiling a graph", "compile"),
    ("Available KV cache memory", "graphs"),
    ("Graph capturing finished", "warm-up"),
    ("init engine (", "warm-up"),
)

# What the engines print when memory is short, and more of it would have helped. Where a failed allocation is only the
# first choice (pinned host memory), they go on with another.
_OUT_OF_MEMORY = re.compile(
    r"out of memory|out_of_memory|OutOfMemoryError"  # CUDA, its driver API, HIP, torch
    r"|OutOf(?:Device|Host)Memory"  # Vulkan
    r"|unable to allocate \S+ buffer|failed to allocate (?!.*(?:pinned|host buffer|graph copy))"  # llama.cpp
    r"|std::bad_alloc"
    r"|Insufficient VRAM"  # ExLlama: "Insufficient VRAM in split for model and cache"
    r"|Free memory on device .*is less than desired"  # vLLM
    r"|Not enough memory"  # SGLang: "Not enough memory. Please try to increase --mem-fraction-static."
    r"|CUBLAS_STATUS_ALLOC_FAILED",
    re.IGNORECASE,
)


def is_out_of_memory(text: str) -> bool:
    """Whether an engine's words, one line or several, say that it failed for want of memory."""
    return _OUT_OF_MEMORY.search(text) is not None


def read_llamacpp(line: str) -> Signal | None:
    """llama-server's child protocol (server-models.cpp): `cmd_child_to_router:state:{"state":…,"payload":…}`.

    It is internal to llama.cpp and has no version, so whatever looks odd is ignored: the poll will tell.
    """
    if not line.startswith(_CHILD_LINE):
        return None
    try:
        message = json.loads(line[len(_CHILD_LINE) :])
    except (ValueError, RecursionError):
        return None
    if not isinstance(message, dict):
        return None
    if message.get("state") == "ready":
        return Ready()
    payload = message.get("payload")
    if message.get("state") != "loading" or not isinstance(payload, dict):
        return None
    return _loading(payload.get("value"), payload.get("current") or payload.get("stage"))


def _loading(value: object, stage: object) -> Loading:
    is_number = isinstance(value, int | float) and not isinstance(value, bool) and 0.0 <= value <= 1.0
    return Loading(
        fraction=float(value) if is_number else None,  # type: ignore[arg-type] # checked the line above
        stage=stage if isinstance(stage, str) else "",
    )


def read_sglang(line: str) -> Signal | None:
    """Its bars and log lines (0.5.23), in order: weights, memory, graphs, warm-up, and the line that it is ready, which
    comes after `/ready` has become true."""
    return Ready() if _SGLANG_READY in line else _bar(line) or _stage(line, _SGLANG_STAGES)


def read_vllm(line: str) -> Signal | None:
    """Its bars and log lines (0.32, 0.33): start, weights, memory, compile, graphs, warm-up. No line says that it
    listens: "Application startup complete" comes before that."""
    return _bar(line) or _stage(line, _VLLM_STAGES)


def _bar(line: str) -> Loading | None:
    for pattern, stage in ((_SHARDS, "weights"), (_GRAPHS, "graphs")):
        if match := pattern.search(line):
            return Loading(fraction=min(1.0, int(match[1]) / 100), stage=stage)
    return None


def _stage(line: str, stages: tuple[tuple[str, str], ...]) -> Loading | None:
    return next((Loading(stage=stage) for words, stage in stages if words in line), None)
