"""What the servers' lines mean: how far, ready, out of memory."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_router.backends.base import Loading, Ready, Signal
from llm_router.backends.signals import is_out_of_memory, read_llamacpp, read_sglang, read_vllm


@pytest.mark.parametrize(
    ("rest", "signal"),
    [
        ('{"state":"loading","payload":{"stages":["text_model"],"current":"text_model","value":0.33}}',
         Loading(fraction=0.33, stage="text_model")),
        ('{"state":"loading","payload":{"stages":[],"current":"b","value":1}}', Loading(fraction=1.0, stage="b")),
        ('{"state":"loading","payload":{"stage":"mmproj_model"}}', Loading(stage="mmproj_model")),
        ('{"state":"loading","payload":{"current":"text_model","value":7}}', Loading(stage="text_model")),
        ('{"state":"loading","payload":{"current":["x"],"value":true}}', Loading()),
        ('{"state":"loading","payload":null}', None),
        ('{"state":"ready","payload":{"id":"q"}}', Ready()),
        ('{"state":"ready","payload":null}', Ready()),
        ('{"state":"sleeping","payload":{}}', None),
        ('{"state":"downloading","payload":{"url":"x","downloaded":1,"total":2}}', None),
        ("[]", None),
        ("{", None),
    ],
)  # fmt: skip
def test_llamacpps_child_lines(rest: str, signal: Signal | None) -> None:
    assert read_llamacpp("cmd_child_to_router:state:" + rest) == signal


def test_other_lines_mean_nothing_to_llamacpp() -> None:
    assert read_llamacpp('state:{"state":"ready"}') is None


BARS = [
    ("Loading safetensors checkpoint shards:  25% Completed | 1/4 [00:01<00:03,  1.00s/it]", 0.25, "weights"),
    ("(EngineCore pid=7) Loading safetensors checkpoint shards: 100% Completed | 4/4", 1.0, "weights"),
    ("Loading safetensors checkpoint shards (eager):   0% Completed | 0/4", 0.0, "weights"),
    ("Multi-thread loading shards:  50% Completed | 2/4 [00:01<00:01,  1.00it/s]", 0.5, "weights"),
    ("Loading pt checkpoint shards:  50% Completed | 1/2", 0.5, "weights"),
    ("Loading safetensors using Runai Model Streamer:  10% Completed | 9/90", 0.1, "weights"),
    ("Capturing batches (bs=32 avail_mem=3.10 GB):  12%|█▏        | 3/23 [00:00<00:05]", 0.12, "graphs"),
    ("Capturing CUDA graphs (mixed prefill-decode, PIECEWISE):  75%|███████▌  | 3/4", 0.75, "graphs"),
]


@pytest.mark.parametrize(("line", "fraction", "stage"), BARS)
def test_the_bars_of_sglang_and_vllm(line: str, fraction: float, stage: str) -> None:
    for read in (read_sglang, read_vllm):
        assert read(line) == Loading(fraction=fraction, stage=stage)


# Log lines of 0.5.23, in their order.
@pytest.mark.parametrize(
    ("line", "signal"),
    [
        ("[2026-11-22 10:00:01] Load weight begin. avail mem=23.10 GB", Loading(stage="weights")),
        ("[2026-11-22 10:00:09] Load weight end. type=LlamaForCausalLM, avail mem=16 GB, mem usage=7 GB.",
         Loading(stage="memory")),
        ("[2026-11-22 10:00:10] Capture decode CUDA graph begin. backend=full, num_tokens=[1], avail mem=2.10 GB",
         Loading(stage="graphs")),
        ("[2026-11-22 10:00:10] Capture cuda graph begin. This can take up to several minutes.",
         Loading(stage="graphs")),
        ("[2026-11-22 10:00:20] INFO:     Application startup complete.", Loading(stage="warm-up")),
        ("[2026-11-22 10:00:22] The server is fired up and ready to roll!", Ready()),
        ("[2026-11-22 10:00:22] server_args=ServerArgs(model_path='/m')", None),
        ("cmd_child_to_router:state:{\"state\":\"ready\"}", None),
    ],
)  # fmt: skip
def test_the_phases_of_sglang(line: str, signal: Signal | None) -> None:
    assert read_sglang(line) == signal


# Log lines of 0.32 and 0.33, in their order.
@pytest.mark.parametrize(
    ("line", "stage"),
    [
        (
            "(EngineCore pid=7) INFO 11-22 10:00:00 [core.py:133] Initializing a V1 LLM engine (v0.32.0) with config",
            "start",
        ),
        ("(Worker pid=8) INFO 11-22 10:00:08 [default_loader.py:501] Loading weights took 7.01 seconds", "memory"),
        (
            "(EngineCore pid=7) INFO 11-22 10:00:20 [core.py:402] init engine (profile, warmup model) took 3.2 s",
            "warm-up",
        ),
        ("(EngineCore pid=7) INFO 11-22 10:00:01 [gpu_model_runner.py:5040] Starting to load model /m...", "weights"),
        ("INFO 11-22 10:00:09 [gpu_model_runner.py:5150] Model loading took 7 GiB memory and 8.1 seconds", "memory"),
        ("INFO [backends.py:1104] Using cache directory: /c for vLLM's torch.compile", "compile"),
        ("INFO [backends.py:398] Compiling a graph for compile range (1, 8192) takes 9.10 s", "compile"),
        ("INFO [gpu_worker.py:760] Available KV cache memory: 9.10 GiB", "graphs"),
        ("INFO [gpu_model_runner.py:6582] Graph capturing finished in 5 secs, took 0.50 GiB", "warm-up"),
    ],
)
def test_the_phases_of_vllm(line: str, stage: str) -> None:
    assert read_vllm(line) == Loading(stage=stage)


def test_no_line_of_vllm_means_ready() -> None:
    """Its last words come before it listens."""
    assert read_vllm("INFO:     Application startup complete.") is None
    assert read_vllm("INFO 11-22 [api_server.py:1] Starting vLLM server on http://127.0.0.1:8000") is None


@given(st.text())
def test_no_line_is_too_odd(line: str) -> None:
    for read in (read_llamacpp, read_sglang, read_vllm):
        assert isinstance(read(line), Loading | Ready | None)


@pytest.mark.parametrize(
    "text",
    [
        # torch, CUDA and HIP, whoever uses them
        "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 23 GiB",
        "torch.cuda.OutOfMemoryError: HIP out of memory. Tried to allocate 2.00 GiB",
        "RuntimeError: CUDA error: out of memory",
        "CUDA_ERROR_OUT_OF_MEMORY: out of memory",
        "RuntimeError: CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
        # llama.cpp
        "alloc_buffer: allocating 9000.00 MiB on device 0: cudaMalloc failed: out of memory",
        "ggml_gallocr_reserve_n_impl: failed to allocate CUDA0 buffer of size 3221225472",
        "llama_model_load: error loading model: unable to allocate CUDA0 buffer",
        "llama_init_from_model: failed to initialize the context: failed to allocate buffer for kv cache",
        "llama_init_from_model: failed to initialize the context: failed to allocate compute pp buffers",
        "ggml_vulkan: Device memory allocation of size 9000 failed. vk::Device::allocateMemory: ErrorOutOfDeviceMemory",
        "terminate called after throwing an instance of 'std::bad_alloc'",
        # TabbyAPI with ExLlama
        "Insufficient VRAM in split for model and cache",
        # vLLM
        "Free memory on device cuda:0 (3.25/23.43 GiB) on startup is less than desired GPU memory utilization",
        # SGLang
        "RuntimeError: Not enough memory. Please try to increase --mem-fraction-static.",
        "loading\nCUDA out of memory\nbye",
    ],
)  # fmt: skip
def test_want_of_memory_is_recognised(text: str) -> None:
    assert is_out_of_memory(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "error loading model: no such file",
        "ggml_cuda_host_malloc: failed to allocate 512.00 MiB of pinned memory: invalid argument",
        "WARNING: failed to allocate 512.00 MB of pinned memory",
        # More room wouldn't help: its share of the device is fixed.
        "ValueError: (16 GiB KV cache is needed, which is larger than the available KV cache memory (9 GiB).",
        "Available KV cache memory: 9.10 GiB",
        "projected to use 9000 MiB of device memory vs. 24000 MiB of free device memory",
    ],
)
def test_other_troubles_are_not_taken_for_it(text: str) -> None:
    assert not is_out_of_memory(text)
