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


@pytest.mark.parametrize(
    ("log", "expected"),
    [
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
