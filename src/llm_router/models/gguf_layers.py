"""What each layer of a GGUF model keeps of a context: keys and values of all of it, of a window, or a fixed state.

Follows llama.cpp b11434 (src/llama-model.cpp, llama-hparams.cpp, models/*.cpp). Most of it stands in the file; where
llama.cpp knows something by a model's architecture, so must we. Counterpart: `gguf_memory`, which counts bytes. Pure.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from llm_router.models.header import Header

# They look at their input once and keep nothing.
_WITHOUT_CACHE = frozenset(
    ("bert", "jina-bert-v2", "jina-bert-v3", "nomic-bert", "nomic-bert-moe", "neo-bert", "eurobert", "modern-bert")
) | {"gemma-embedding", "wavtokenizer-dec", "dream", "llada", "llada-moe", "rnd1", "clef"}

# Every n-th layer sees everything, where the file doesn't say which; negative: the first of n rather than the last.
_WINDOW_PERIODS = {
    "afmoe": 4,
    "cohere2": 4,
    "cohere2moe": -4,
    "exaone-moe": 4,
    "exaone4": 4,
    "gemma2": 2,
    "gemma3": 6,
    "gemma3n": 5,
    "gpt-oss": 2,
    "laguna": -4,
    "llama4": 4,
    "mellum": 4,
    "muse-glimmer": 4,
    "olmo2": 4,
    "plamo3": 8,
    "smallthinker": -4,
}
_WINDOW_IN_ALL = frozenset(("lfm2", "lfm2moe"))
_UNWRITTEN_WINDOWS = {"exaone4": 4096, "gemma2": 4096, "llama4": 8192}
_FIXED_WINDOWS = {"llama4": 8192, "smallthinker": 4096}  # whatever the file says, if it isn't 0

_RECURRENT = frozenset(("mamba", "mamba2", "rwkv6", "rwkv6qwen2", "rwkv7", "arwkv7"))
_RECURRENT_AND_ATTENTION = frozenset(("falcon-h1",))
_RECURRENT_WITHOUT_HEADS = frozenset(("jamba", "plamo2", "granitehybrid", "lfm2", "lfm2moe", "kimi-linear")) | {
    "kimi-k3",
    "bailingmoe3",
    "glm5-next",
    "nemotron_h",
    "nemotron_h_moe",
}
_ATTENTION_INTERVALS = {"qwen3next": 4, "qwen35": 4, "qwen35moe": 4, "qwen4exp": 4, "minimax-01": 8}

_GEMMA3N_OWN = 20  # so many layers have keys and values of their own; the others use those


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """`key`, `value`: elements for each token, over all heads. `window`: it sees the last `window` tokens only; None:
    all. `state`: elements for each slot, whatever the context."""

    key: int = 0
    value: int = 0
    window: int | None = None
    state: int = 0


def layers(header: Header) -> list[Layer]:
    """Raises: ValueError, TypeError, LookupError, ArithmeticError for a header that doesn't describe a model."""
    architecture = header.architecture
    count = _int(header, "block_count") - _int(header, "nextn_predict_layers", 0)
    if not 0 < count <= 4096:
        raise ValueError(f"{count} layers")
    if architecture in _WITHOUT_CACHE:
        return [Layer()] * count
    recurrent = _recurrent(header, count)
    windows = _windows(header, count)
    heads = _per_layer(header, "attention.head_count_kv", count) or _per_layer(header, "attention.head_count", count)
    indexer = _int(header, "attention.indexer.key_length", 0)
    state = _state(header, max(_per_layer(header, "attention.head_count", count) or [0]))
    own = _own(header, count)
    found = []
    for place in range(count):
        attends = place < own and (not recurrent[place] or architecture in _RECURRENT_AND_ATTENTION)
        key, value = _widths(header, windows[place] is not None) if attends else (0, 0)
        found.append(
            Layer(
                key=heads[place] * key + (indexer if attends and heads[place] else 0) if heads else 0,
                value=heads[place] * value if heads else 0,
                window=windows[place],
                state=state if recurrent[place] else 0,
            )
        )
    return found


def _widths(header: Header, windowed: bool) -> tuple[int, int]:
    """Elements of a key and a value for one head."""
    all_heads = _int(header, "attention.head_count", 0)
    usual = _int(header, "embedding_length") // all_heads if all_heads else 0
    key, value = _int(header, "attention.key_length", usual), _int(header, "attention.value_length", usual)
    if windowed:
        key = _int(header, "attention.key_length_swa", key)
        value = _int(header, "attention.value_length_swa", value)
    # Latent attention (MLA): the values are computed from what is kept as the key.
    return key, 0 if _int(header, "attention.key_length_mla", 0) else value


def _own(header: Header, count: int) -> int:
    """How many layers, from the first, have keys and values of their own."""
    if header.architecture == "gemma3n":
        return _GEMMA3N_OWN
    return count - _int(header, "attention.shared_kv_layers", 0)


def _windows(header: Header, count: int) -> list[int | None]:
    """The window of each layer; None: it sees everything."""
    architecture = header.architecture
    window = _int(header, "attention.sliding_window", _UNWRITTEN_WINDOWS.get(architecture, 0))
    if not window or (architecture == "exaone4" and count != 64):
        return [None] * count
    window = _FIXED_WINDOWS.get(architecture, window)
    return [window if windowed else None for windowed in _windowed(header, count)]


def _windowed(header: Header, count: int) -> list[bool]:
    architecture = header.architecture
    if architecture in _WINDOW_IN_ALL:
        return [True] * count
    pattern = header.arrays.get(f"{architecture}.attention.sliding_window_pattern")
    if pattern is not None and architecture != "phi3":
        return [bool(pattern[place]) for place in range(count)]
    if architecture not in _WINDOW_PERIODS:
        return [False] * count  # as with phi3, whose window llama.cpp leaves alone
    known = _WINDOW_PERIODS[architecture]
    period = _int(header, "attention.sliding_window_pattern", abs(known))
    everything = 0 if known < 0 else period - 1
    return [period == 0 or place % period != everything for place in range(count)]


def _recurrent(header: Header, count: int) -> list[bool]:
    architecture = header.architecture
    if architecture in _RECURRENT or architecture in _RECURRENT_AND_ATTENTION:
        return [True] * count
    if architecture in _RECURRENT_WITHOUT_HEADS:
        heads = _per_layer(header, "attention.head_count_kv", count)
        # In Nemotron-H a layer may also be neither.
        plain = _per_layer(header, "feed_forward_length", count) if architecture.startswith("nemotron") else None
        return [not heads[place] and not (plain and plain[place]) for place in range(count)]
    if architecture in _ATTENTION_INTERVALS:
        listed = _per_layer(header, "attention.recurrent_layers", count)
        interval = _int(header, "full_attention_interval", _ATTENTION_INTERVALS[architecture])
        return [bool(one) for one in listed] or [(place + 1) % interval != 0 for place in range(count)]
    return [False] * count


def _state(header: Header, heads: int) -> int:
    """Elements of one recurrent layer for one slot: what it carries of its convolution, and its state."""
    width, convolution = _int(header, "embedding_length"), max(_int(header, "ssm.conv_kernel", 0) - 1, 0)
    if rwkv := _int(header, "wkv.head_size", 0):
        return _int(header, "token_shift_count", 2) * width + width * rwkv
    if short := _int(header, "shortconv.l_cache", 0):
        return width * (short - 1)
    if kimi := _int(header, "kda.head_dim", 0):
        return 3 * (convolution or 3) * heads * kimi + kimi * kimi * heads
    if header.architecture == "minimax-01":
        return _int(header, "attention.key_length", width // max(heads, 1)) ** 2 * heads
    inner, state = _int(header, "ssm.inner_size", 0), _int(header, "ssm.state_size", 0)
    return convolution * (inner + 2 * _int(header, "ssm.group_count", 0) * state) + state * inner


def _per_layer(header: Header, key: str, count: int) -> list[int]:
    """One number for each layer; empty where the file doesn't say."""
    full = f"{header.architecture}.{key}"
    listed: Sequence[float] | None = header.arrays.get(full)
    if listed is not None:
        return [int(listed[place]) for place in range(count)]
    return [_int(header, key)] * count if full in header.fields else []


def _int(header: Header, key: str, otherwise: int | None = None) -> int:
    """A whole number of the architecture; the largest of a list. Raises: LookupError where it's needed and missing."""
    full = f"{header.architecture}.{key}"
    if listed := header.arrays.get(full):
        return int(max(listed))
    value = header.fields.get(full, otherwise)
    if value is None or isinstance(value, str):
        raise LookupError(f"{full} is missing")
    return int(value)
