"""Which of an engine's last lines an error message shows."""

import pytest

from llm_router.launchers.excerpt import LINE_CHARS, meaningful_tail

LLAMA_BAD_FILE = """\
0.00.003.200 I srv          init: build_info: b0-unknown
0.00.004.873 I srv    load_model: loading model 'bad.gguf'
0.00.004.973 E gguf_init_from_reader: failed to read key-value pairs
0.00.005.113 E llama_model_load: error loading model: llama_model_loader: failed to load model from bad.gguf
0.00.005.118 E llama_model_load_from_file_impl: failed to load model
0.00.005.207 E srv    load_model: failed to load model, 'bad.gguf'
0.00.005.211 I srv    operator(): operator(): cleaning up before exit...
0.00.005.461 E srv          init: exiting due to model loading error
error: cannot load bad.gguf: the cause stands above
"""
CUDA = """\
ggml_backend_cuda_buffer_type_alloc_buffer: allocating 20000.00 MiB on device 0: cudaMalloc failed: out of memory
llama_model_load: error loading model: unable to allocate CUDA0 buffer
llama_model_load_from_file_impl: failed to load model
"""
TRACEBACK = """\
INFO 11-22 10:00:00 [core.py:58] Initializing
Traceback (most recent call last):
  File "/opt/vllm/core.py", line 700, in run_engine_core
    raise e
ValueError: Free memory on device (3.1/24.0 GiB) is less than desired GPU memory utilization (0.92, 22.1 GiB).
Traceback (most recent call last):
  File "/opt/vllm/api.py", line 7, in main
RuntimeError: Engine core initialization failed. See root cause above.
"""
OUT_OF_MEMORY = (
    "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 1.02 GiB. GPU 0 has a total capacity of 23.53 GiB "
    "of which 512.00 MiB is free."
)
# vLLM 0.33.0: the engine's traceback comes twice, and the server's own says nothing.
VLLM = f"""\
(APIServer pid=1) INFO 11-22 18:38:20 [importing.py:68] Triton not installed or not compatible; cannot use its kernels
(EngineCore pid=7) WARNING 11-22 18:38:28 [core.py:133] failed to import a plugin
(EngineCore pid=7) ERROR 11-22 18:38:41 [core.py:1110] EngineCore failed to start.
(EngineCore pid=7) ERROR 11-22 18:38:41 [core.py:1110] Traceback (most recent call last):
(EngineCore pid=7) ERROR 11-22 18:38:41 [core.py:1110]   File "/opt/vllm/v1/engine/core.py", line 1101, in run
(EngineCore pid=7) ERROR 11-22 18:38:41 [core.py:1110]     raise RuntimeError("cannot allocate")
(EngineCore pid=7) ERROR 11-22 18:38:41 [core.py:1110]           ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
(EngineCore pid=7) ERROR 11-22 18:38:41 [core.py:1110] {OUT_OF_MEMORY}
(EngineCore pid=7) Process EngineCore:
(EngineCore pid=7) Traceback (most recent call last):
(EngineCore pid=7)   File "/usr/lib/python3.12/multiprocessing/process.py", line 314, in _bootstrap
(EngineCore pid=7)     self.run()
(EngineCore pid=7) {OUT_OF_MEMORY}
[rank0]:[W1122 18:38:41.123456789 ProcessGroupNCCL.cpp:1538] Warning: destroy_process_group() was not called: failure
(APIServer pid=1) Traceback (most recent call last):
(APIServer pid=1)   File "/usr/bin/vllm", line 10, in <module>
(APIServer pid=1)     sys.exit(main())
(APIServer pid=1) RuntimeError: Engine core initialization failed. See root cause above. Failed core proc(s): {{}}
"""
# SGLang 0.5.23: managers/scheduler.py run_scheduler_process
SGLANG = f"""\
[2026-11-22 18:38:28 TP0] Load weight begin. avail mem=23.11 GB
[2026-11-22 18:38:41 TP0] Scheduler hit an exception: Traceback (most recent call last):
  File "/opt/sglang/srt/managers/scheduler.py", line 3012, in run_scheduler_process
    raise RuntimeError(f"Not enough memory. Please try to increase --mem-fraction-static.")
{OUT_OF_MEMORY}

[2026-11-22 18:38:41] Received sigquit from a child process. It usually means the child failed.
"""
TABBY = """\
INFO:     Your API key is: ***
2026-11-22 10:00:00.123 INFO:     Loading with autosplit
ERROR:    Traceback (most recent call last):
ERROR:      File "/opt/tabbyAPI/main.py", line 186, in entrypoint
ERROR:        asyncio.run(entrypoint_async())
ERROR:    FileNotFoundError: Could not find the model path for load. Check model name or config.yml?
"""


@pytest.mark.parametrize(
    ("log", "expected"),
    [
        (VLLM, [OUT_OF_MEMORY]),
        (SGLANG, [OUT_OF_MEMORY]),
        (TABBY, ["FileNotFoundError: Could not find the model path for load. Check model name or config.yml?"]),
        ("INFO 11-22 10:00:00 [a.py:1] nothing found\nWARNING: it failed\n", ["it failed"]),
        (
            LLAMA_BAD_FILE,
            [
                "gguf_init_from_reader: failed to read key-value pairs",
                "llama_model_load: error loading model: llama_model_loader: failed to load model from bad.gguf",
            ],
        ),
        (CUDA, CUDA.splitlines()[:2]),
        (TRACEBACK, [TRACEBACK.splitlines()[4]]),
        ("starting\nlistening\n", ["starting", "listening"]),
        ("a\nb\nc\nd\n", ["b", "c", "d"]),
        ("error: one\nfine\nerror: two\nerror: two\nbye\n", ["error: one", "error: two"]),
        ("[2026-11-22 10:00:00 TP0] Error: no\n2026-11-22 10:00:00,123 cannot\n", ["Error: no", "cannot"]),
        ('cmd_child_to_router:state:{"state":"error"}\n\n  \n', []),
        ("", []),
    ],
)
def test_causes_come_before_consequences(log: str, expected: list[str]) -> None:
    assert meaningful_tail(log.splitlines()) == expected


def test_a_line_is_not_a_page() -> None:
    (line,) = meaningful_tail(["error: " + "x" * 5000])
    assert len(line) == LINE_CHARS
