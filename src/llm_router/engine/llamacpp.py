"""An inference server: llama.cpp's own HTTP server, from the xllamacpp wheel, with llama-server's option names.

Counterpart: `backends.llamacpp`, which builds its command line. For those who have no llama-server of their own; a real
one is started the same way. With LLAMA_SERVER_ROUTER_PORT in the environment the library prints llama.cpp's child
protocol on stdout (load progress, then ready) and ends the process when stdin ends.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
from importlib.metadata import PackageNotFoundError, distribution
from typing import Any, NoReturn


def parse(argv: list[str]) -> argparse.Namespace:
    """Exits with 2 and the list of options for one that isn't known."""
    parser = argparse.ArgumentParser(prog="python -m llm_router.engine.llamacpp", allow_abbrev=False)
    add = parser.add_argument
    add("-m", "--model", required=True, metavar="FILE", help="the model, a GGUF file (the first one of a split)")
    add("--host", default="127.0.0.1")
    add("--port", type=int, default=8080, help="0 picks a free one")
    add("-a", "--alias", help="the name that /v1/models shows")
    add("-c", "--ctx-size", type=int, default=0, help="context length, shared by the slots; 0: the model's own")
    add("-np", "--parallel", type=int, default=1, help="requests served at the same time")
    add("-t", "--threads", type=int, help="CPU threads")
    add("-b", "--batch-size", type=int)
    add("-ub", "--ubatch-size", type=int)
    add("-ngl", "--gpu-layers", "--n-gpu-layers", default="auto", help="layers on the GPU: a number, auto or all")
    add("--embeddings", "--embedding", action="store_true", help="serve /v1/embeddings (and no chat)")
    add("--rerank", "--reranking", action="store_true", help="serve /v1/rerank (and no chat)")
    add("--mmproj", metavar="FILE", help="the projector of a multimodal model")
    add("--chat-template", metavar="TEXT")
    add("--slot-save-path", metavar="FOLDER", help="where POST /slots/N?action=save writes")
    add("--api-key", default=os.environ.get("LLAMA_API_KEY"), help="default: LLAMA_API_KEY")
    add("--sse-ping-interval", type=int, default=30, metavar="S")
    add("--metrics", action="store_true", help="serve /metrics")
    add("--no-warmup", action="store_true")
    options, unknown = parser.parse_known_args(argv)
    if unknown:
        parser.print_help(sys.stderr)
        parser.exit(2, f"\nerror: unknown option: {' '.join(unknown)}\n")
    return options


def parameters(options: argparse.Namespace) -> Any:
    """The options as llama.cpp's `common_params`."""
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = options.model
    params.hostnames = [options.host]
    params.port = options.port
    params.n_ctx = options.ctx_size
    params.n_parallel = options.parallel
    params.cpuparams.n_threads = options.threads or default_threads()
    params.n_gpu_layers = gpu_layers(options.gpu_layers)
    params.embedding = options.embeddings or options.rerank
    params.sse_ping_interval = options.sse_ping_interval
    params.endpoint_metrics = options.metrics
    params.endpoint_slots = True
    params.warmup = not options.no_warmup
    params.ui = False
    if options.rerank:
        params.pooling_type = xllamacpp.llama_pooling_type.LLAMA_POOLING_TYPE_RANK
    if options.alias:
        params.model_alias = set(options.alias.split(","))
    if options.batch_size:
        params.n_batch = options.batch_size
    if options.ubatch_size:
        params.n_ubatch = options.ubatch_size
    if options.mmproj:
        params.mmproj.path = options.mmproj
    if options.chat_template:
        params.chat_template = options.chat_template
    if options.slot_save_path:
        params.slot_save_path = os.path.join(options.slot_save_path, "")  # noqa: PTH118 - it wants the slash at the end
    if options.api_key:
        params.api_keys = options.api_key.split(",")
    return params


def default_threads() -> int:
    """Half the CPUs we may use: two threads on one core's halves, or on cores that others use too, are slower than
    one."""
    return max(1, len(os.sched_getaffinity(0)) // 2)


def gpu_layers(text: str) -> int:
    """llama.cpp's own codes: -1 as many as fit, -2 all of them."""
    codes = {"auto": -1, "all": -2}
    if text in codes:
        return codes[text]
    try:
        return int(text)
    except ValueError:
        fail(2, f'-ngl {text}: write a number, "auto" or "all"')


def start_over_with_openmp() -> None:
    """Go on as a new process that finds the OpenMP library of the package; return where that can't help.

    xllamacpp wants libgomp.so.1 from the system, and small installations have none. The loader looks into
    LD_LIBRARY_PATH as it was when the process began, so setting it is not enough.
    """
    try:
        library = distribution("cmeel-libomp").locate_file("cmeel.prefix/lib/libgomp.so.1")
    except PackageNotFoundError:
        return
    folder = os.path.dirname(str(library))  # noqa: PTH120
    folders = [one for one in os.environ.get("LD_LIBRARY_PATH", "").split(":") if one]
    if folder not in folders:
        os.environ["LD_LIBRARY_PATH"] = ":".join([*folders, folder])
        os.execv(sys.executable, sys.orig_argv)  # noqa: S606 -- ourselves again, with the same pid and stdin


def fail(code: int, message: str) -> NoReturn:
    print(f"error: {message}", file=sys.stderr, flush=True)
    sys.exit(code)


def main(argv: list[str] | None = None) -> int:
    """Serves until SIGTERM or SIGINT, which end it at once, loading or not: the library's own way down waits for its
    streams' next ping. Exit codes: 1 the model can't be loaded, 2 wrong options."""
    options = parse(sys.argv[1:] if argv is None else argv)
    if not os.path.isfile(options.model):  # noqa: PTH113
        fail(1, f"cannot load {options.model}: no such file")
    try:
        import xllamacpp
    except ImportError as error:
        if "libgomp" in str(error):
            start_over_with_openmp()
            fail(1, f"cannot serve {options.model}: {error}; install it, as with `sudo apt install libgomp1`")
        fail(1, f"cannot serve {options.model}: xllamacpp is not installed ({error}); run `pip install xllamacpp`")
    params = parameters(options)
    try:
        server = xllamacpp.Server(params)
    except (RuntimeError, ValueError):  # what it says is "failed"; the library's log lines say why
        fail(1, f"cannot load {options.model}: the cause stands above")
    # The default action, because a handler of Python's runs in the main thread only, and a signal that another thread
    # of the library takes wouldn't wake that up.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_DFL)
    print(f"listening on {server.listening_address}", file=sys.stderr, flush=True)
    while True:
        signal.pause()


if __name__ == "__main__":
    sys.exit(main())
