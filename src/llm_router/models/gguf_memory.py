"""What llama.cpp takes in memory for a GGUF file: weights, the cache of its context, buffers for computing.

Weights and cache follow llama.cpp b11434 to the byte (src/llama-kv-cache.cpp, llama-kv-cache-iswa.cpp,
llama-memory-recurrent.cpp), apart from what it repacks for some CPUs; buffers are an estimate from measurements.
Reads headers only.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from llm_router.models import header
from llm_router.models.gguf_layers import Layer, layers
from llm_router.models.header import Header, NotGguf
from llm_router.models.llamacpp_options import Options, parse
from llm_router.models.memory import Footprint

_SHARD = re.compile(r"(.+)-(\d{5})-of-(\d{5})\.gguf")
_LAYER = re.compile(r"blk\.(\d+)\.")
_EXPERTS = re.compile(r"\.ffn_(up|down|gate|gate_up)_(ch|)exps")
_BYTES = {
    "f32": 4.0,
    "f16": 2.0,
    "bf16": 2.0,
    "q8_0": 34 / 32,
    "q5_1": 24 / 32,
    "q5_0": 22 / 32,
    "q4_1": 20 / 32,
    "q4_0": 18 / 32,
    "iq4_nl": 18 / 32,
}
_STATE_BYTES = 4  # always f32
_PADDING = 256
_USUAL_CONTEXT = 4096


def measure(path: Path, *, context_length: int | None, args: Sequence[str]) -> Footprint:
    """Raises: NotGguf, OSError (a missing shard or companion too), and what `gguf_layers.layers` raises."""
    options = parse(args, context_length=context_length)
    found = _measure(path, options)
    if options.projector is not None:
        found = replace(found, weights=found.weights + Path(options.projector).stat().st_size)
    if options.draft is not None:
        # llama.cpp gives it the same context and slots, and all of the GPU it wants.
        draft = _measure(Path(options.draft), replace(options, gpu_layers=None, cpu_experts=0, overrides=()))
        found = replace(
            found,
            weights=found.weights + draft.weights,
            cache=found.cache + draft.cache,
            buffers=found.buffers + draft.buffers,
            on_host=found.on_host + draft.on_host,
        )
    return found


def _measure(path: Path, options: Options) -> Footprint:
    described, tensors = _whole(path)
    if not described.architecture or not tensors:
        raise NotGguf(f"{path} holds no model")
    model_layers = layers(described)
    caches = [_cache(described, layer, options) for layer in model_layers]
    first = _first_on_gpu(described, options)
    cache_on_host = sum(caches) if options.cache_on_host else sum(caches[:first])
    return Footprint(
        weights=sum(tensors.values()),
        cache=sum(caches),
        buffers=buffers(described, model_layers, options),
        on_host=cache_on_host + sum(_weights_on_host(tensors, first, _number(described, "block_count"), options)),
        uses_gpu=options.gpu_layers != 0,
    )


def _cache(described: Header, layer: Layer, options: Options) -> int:
    """Keys, values and recurrent states of one layer for the whole context, in bytes."""
    cells = _cells(described, layer, options) * (1 if options.unified else options.slots)
    token = layer.key * _BYTES[options.key_type] + layer.value * _BYTES[options.value_type]
    return int(cells * token) + layer.state * _STATE_BYTES * options.slots


def buffers(described: Header, model_layers: Iterable[Layer], options: Options) -> int:
    """What computing one batch takes, in bytes: from a tenth less to two fifths more than what llama.cpp b11434
    reserves on a CPU, for dense models from 0.5 to 70 billion parameters at contexts of 4,096 to 131,072, and for
    small ones with experts, latent attention or recurrent layers.

    Older ones reserve a row of logits for each token of a batch rather than for each slot: some 300 MiB more."""
    width = _number(described, "embedding_length")
    heads = _number(described, "attention.head_count")
    queries = heads * (_number(described, "attention.key_length") or (width // heads if heads else 0))
    experts = _number(described, "expert_used_count")
    expert_width = _number(described, "expert_feed_forward_length") or _number(described, "feed_forward_length")
    forward = max(experts * expert_width, _number(described, "feed_forward_length"))
    # Some 6 rows of the width of the model, 2½ of its queries, 2 of the feed-forward part, and one for each expert; or
    # 8 of the inside of a recurrent layer.
    attending = 6 * width + 5 * queries // 2 + 2 * forward + experts * width
    row = 4 * max(attending, 8 * _number(described, "ssm.inner_size"))
    # One mask for each kind of layer, f16; without flash attention a score for each head too.
    seen = {layer.window: _cells(described, layer, options) for layer in model_layers if layer.key}
    row += 2 * sum(seen.values())
    if not options.flash_attention:
        row += 4 * heads * max(seen.values(), default=0)
    return row * min(options.batch, _context(described, options))


def _cells(described: Header, layer: Layer, options: Options) -> int:
    """Tokens that one layer has room for: for all slots together if they share, else for each."""
    context = _context(described, options)
    cells = context if options.unified else _padded(context // options.slots)
    if layer.window is None or options.full_window:
        return cells
    windows = layer.window * (options.slots if options.unified else 1)
    return _padded(min(cells, windows + min(options.batch, context)))


def _context(described: Header, options: Options) -> int:
    return _padded(options.context or _number(described, "context_length") or _USUAL_CONTEXT)


def _padded(cells: int) -> int:
    return max(-(-cells // _PADDING), 1) * _PADDING


def _number(described: Header, key: str) -> int:
    listed = described.arrays.get(f"{described.architecture}.{key}")
    return int(max(listed)) if listed else int(described.of_architecture(key) or 0)


def _first_on_gpu(described: Header, options: Options) -> int:
    """The first layer that isn't kept on the host. The output counts as the last, one after all others."""
    if options.gpu_layers is None or options.gpu_layers < 0:  # as many as fit
        return 0
    return max(_number(described, "block_count") + 1 - options.gpu_layers, 0)


def _weights_on_host(tensors: dict[str, int], first: int, count: int, options: Options) -> Iterator[int]:
    """The bytes of those that don't go to a GPU. The embedding never does, except as the output it stands in for."""
    for name, size in tensors.items():
        layer = _LAYER.match(name)
        if name == "token_embd.weight" and "output.weight" in tensors:
            on_host = True
        elif layer is None:
            on_host = first > count
        else:
            place = int(layer[1])
            on_host = place < first or (place < options.cpu_experts and _EXPERTS.search(name) is not None)
        if on_host or any(_matches(pattern, name) for pattern in options.overrides):
            yield size


def _matches(pattern: str, name: str) -> bool:
    try:
        return re.search(pattern, name) is not None
    except re.error:
        return False


def _whole(path: Path) -> tuple[Header, dict[str, int]]:
    """Header and tensors of a model, over all its shards."""
    described, tensors = header.read_tensors(path)
    shard = _SHARD.fullmatch(path.name)
    if shard is not None and int(shard[2]) == 1:
        for number in range(2, int(shard[3]) + 1):
            tensors |= header.read_tensors(path.with_name(f"{shard[1]}-{number:05}-of-{shard[3]}.gguf"))[1]
    return described, tensors
