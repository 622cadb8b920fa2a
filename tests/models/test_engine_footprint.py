"""The estimate against the engine's own report: the llama.cpp in the package loads the model and says what it took."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from synthetic_gguf import Fields, Shapes, attention, whole, write

from llm_router.models import footprint, tiny

pytest.importorskip("xllamacpp")

MIB = 1024**2
# As the program that serves does it, apart from the amount it logs.
LOAD = """
import sys
from llm_router.engine import llamacpp
try:
    import xllamacpp
except ImportError:
    llamacpp.start_over_with_openmp()
    raise
params = llamacpp.parameters(llamacpp.parse(sys.argv[1:]))
params.verbosity = 5
xllamacpp.Server(params)
"""
BASE: dict[str, int | float] = {
    "context_length": 8192,
    "embedding_length": 256,
    "block_count": 4,
    "feed_forward_length": 512,
    "vocab_size": 1024,
    "attention.head_count": 4,
    "attention.head_count_kv": 2,
    "attention.key_length": 64,
    "attention.value_length": 64,
    "attention.layer_norm_rms_epsilon": 1e-6,
}
LAYER = attention(256, 256, 128, 128, 512)
FEED_FORWARD = {name: shape for name, shape in LAYER.items() if name.startswith("ffn_") and name != "ffn_norm"}


def report(path: Path, args: tuple[str, ...]) -> tuple[float, float, float]:
    """Weights, cache and buffers in MiB, as the engine logs them while it loads the model for real."""
    command = [sys.executable, "-c", LOAD, "-m", str(path), "--port", "0", "-t", "1", "--no-warmup", *args]
    engine = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    assert engine.stderr is not None
    loaded = ""
    for line in engine.stderr:
        # What stands before is a rehearsal, in which it finds out whether the model fits.
        if loaded or "CPU_Mapped model buffer size" in line:
            loaded += line
        if loaded and "CPU compute buffer size" in line:  # the last of them; without words it can't serve anyway
            break
    engine.kill()
    engine.communicate()

    def mib(pattern: str) -> float:
        return sum(map(float, re.findall(pattern + r" = +([\d.]+) MiB", loaded)))

    cache = r"(?:llama_kv_cache|llama_memory_recurrent): +CPU (?:KV|RS) buffer size"
    return mib("CPU_Mapped model buffer size"), mib(cache), mib("sched_reserve: +CPU compute buffer size")


def grouped(folder: Path) -> Path:
    return tiny.write(folder / "tiny.gguf", name="tiny")


def windowed(folder: Path) -> Path:
    norms = {"attn_q_norm": (64,), "attn_k_norm": (64,), "post_attention_norm": (256,), "post_ffw_norm": (256,)}
    fields: Fields = {**BASE, "block_count": 8, "attention.sliding_window": 512}
    return write(folder / "gemma3.gguf", "gemma3", fields, whole(256, 1024, [{**LAYER, **norms}] * 8, tied=True))


def experts(folder: Path) -> Path:
    layer = {name: shape for name, shape in LAYER.items() if not name.startswith("ffn_")} | {
        "attn_q.bias": (256,),
        "attn_k.bias": (128,),
        "attn_v.bias": (128,),
        "attn_output.bias": (256,),
        "attn_sinks": (4,),
        "post_attention_norm": (256,),
        "ffn_gate_inp": (8, 256),
        "ffn_gate_inp.bias": (8,),
        "ffn_gate_exps": (8, 512, 256),
        "ffn_gate_exps.bias": (8, 512),
        "ffn_up_exps": (8, 512, 256),
        "ffn_up_exps.bias": (8, 512),
        "ffn_down_exps": (8, 256, 512),
        "ffn_down_exps.bias": (8, 256),
    }
    fields: Fields = {
        **BASE,
        "expert_feed_forward_length": 512,
        "expert_count": 8,
        "expert_used_count": 2,
        "rope.dimension_count": 64,
        "attention.sliding_window": 128,
    }
    return write(folder / "gpt-oss.gguf", "gpt-oss", fields, whole(256, 1024, [layer] * 4))


def recurrent(folder: Path) -> Path:
    layer = {
        "attn_norm": (256,),
        "ssm_in": (1024, 256),
        "ssm_conv1d": (512, 4),
        "ssm_conv1d.bias": (512,),
        "ssm_x": (16 + 2 * 16, 512),
        "ssm_dt": (512, 16),
        "ssm_dt.bias": (512,),
        "ssm_a": (512, 16),
        "ssm_d": (512,),
        "ssm_out": (256, 512),
    }
    fields: Fields = {
        **BASE,
        "feed_forward_length": 0,
        "attention.head_count": 0,
        "ssm.conv_kernel": 4,
        "ssm.inner_size": 512,
        "ssm.state_size": 16,
        "ssm.time_step_rank": 16,
    }
    return write(folder / "mamba.gguf", "mamba", fields, without_endings(whole(256, 1024, [layer] * 4, tied=True)))


def latent(folder: Path) -> Path:
    layer = {
        "attn_norm": (256,),
        "attn_q_a": (64, 256),
        "attn_q_a_norm": (64,),
        "attn_q_b": (4 * 96, 64),
        "attn_kv_a_mqa": (128 + 32, 256),
        "attn_kv_a_norm": (128,),
        "attn_k_b": (4, 128, 64),
        "attn_v_b": (4, 64, 128),
        "attn_output": (256, 256),
        "ffn_norm": (256,),
        **FEED_FORWARD,
    }
    fields: Fields = {
        **BASE,
        "expert_feed_forward_length": 128,
        "expert_count": 4,
        "expert_used_count": 2,
        "expert_shared_count": 1,
        "expert_weights_scale": 1.0,
        "leading_dense_block_count": 4,
        "attention.head_count_kv": 1,
        "attention.q_lora_rank": 64,
        "attention.kv_lora_rank": 128,
        "attention.key_length": 160,
        "attention.value_length": 128,
        "attention.key_length_mla": 96,
        "attention.value_length_mla": 64,
        "rope.dimension_count": 32,
    }
    return write(folder / "deepseek2.gguf", "deepseek2", fields, whole(256, 1024, [layer] * 4))


def hybrid(folder: Path) -> Path:
    full = {
        **{name: shape for name, shape in LAYER.items() if name != "ffn_norm"},
        "attn_q": (512, 256),
        "attn_q_norm": (64,),
        "attn_k_norm": (64,),
        "post_attention_norm": (256,),
    }
    linear = {
        "attn_norm": (256,),
        "attn_qkv": (512, 256),
        "attn_gate": (256, 256),
        "ssm_conv1d": (512, 4),
        "ssm_dt.bias": (8,),
        "ssm_a": (8,),
        "ssm_beta": (8, 256),
        "ssm_alpha": (8, 256),
        "ssm_norm": (32,),
        "ssm_out": (256, 256),
        "post_attention_norm": (256,),
        **FEED_FORWARD,
    }
    fields: Fields = {
        **BASE,
        "block_count": 8,
        "rope.dimension_count": 32,
        "rope.dimension_sections": [8, 4, 4, 0],
        "ssm.conv_kernel": 4,
        "ssm.inner_size": 256,
        "ssm.state_size": 32,
        "ssm.time_step_rank": 8,
        "ssm.group_count": 4,
        "full_attention_interval": 4,
    }
    layers = [linear, linear, linear, full] * 2
    return write(folder / "qwen35.gguf", "qwen35", fields, without_endings(whole(256, 1024, layers)))


def shared(folder: Path) -> Path:
    """Heads of two sizes, and two layers that use the keys of others."""
    layers = []
    for heads, width in ((2, 64), (1, 128)) * 3:
        layers.append(
            {
                **attention(256, 4 * width, heads * width, heads * width, 512),
                "attn_q_norm": (width,),
                "attn_k_norm": (width,),
                "post_attention_norm": (256,),
                "post_ffw_norm": (256,),
                "layer_output_scale": (1,),
            }
        )
    fields: Fields = {
        **BASE,
        "block_count": 6,
        "embedding_length_per_layer_input": 0,
        "attention.head_count_kv": [2, 1] * 3,
        "attention.key_length": 128,
        "attention.value_length": 128,
        "attention.key_length_swa": 64,
        "attention.value_length_swa": 64,
        "attention.sliding_window": 512,
        "attention.sliding_window_pattern": [True, False] * 3,
        "attention.shared_kv_layers": 2,
        "rope.dimension_count": 128,
        "rope.dimension_count_swa": 64,
    }
    shapes = {**whole(256, 1024, layers, tied=True), "rope_freqs.weight": (64,)}
    return write(folder / "gemma4.gguf", "gemma4", fields, shapes)


def without_endings(shapes: Shapes) -> Shapes:
    """Two tensors of recurrent layers have names that don't end in .weight."""
    return {re.sub(r"(ssm_[ad])\.weight$", r"\1", name): shape for name, shape in shapes.items()}


@pytest.mark.parametrize(
    ("make", "args"),
    [
        (grouped, ("-c", "3000", "-np", "2")),
        (windowed, ("-c", "8192", "-np", "2")),
        (experts, ("-c", "8192", "-np", "3")),
        (recurrent, ("-c", "8192", "-np", "3")),
        (latent, ("-c", "8192", "-np", "2", "-ub", "256")),
        (hybrid, ("-c", "8192", "-np", "3")),
        (shared, ("-c", "8192", "-np", "2")),
    ],
)
def test_weights_and_cache_are_what_the_engine_reports(tmp_path: Path, make: object, args: tuple[str, ...]) -> None:
    assert callable(make)
    path = make(tmp_path)
    weights, cache, buffers = report(path, args)
    found = footprint.measure(path, context_length=None, args=args)
    assert found is not None
    assert found.weights / MIB == pytest.approx(weights, abs=0.01)
    assert found.cache / MIB == pytest.approx(cache, abs=0.011)  # rounded twice where there are two caches
    assert buffers * 0.9 <= found.buffers / MIB <= buffers * 1.4
