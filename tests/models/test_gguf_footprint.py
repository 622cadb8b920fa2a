"""What GGUF models will take in memory: by hand-computed answers, for what their headers and command lines say."""

from __future__ import annotations

import random
import struct
from collections.abc import Sequence
from pathlib import Path

import pytest
from synthetic_gguf import Fields, attention, whole, write

from llm_router.models import footprint, header, tiny
from llm_router.models.memory import GPU_CONTEXT, PROCESS, Footprint

KIB, MIB, GIB = 1024, 1024**2, 1024**3
LLAMA: dict[str, int] = {
    "context_length": 8192,
    "embedding_length": 256,
    "block_count": 4,
    "feed_forward_length": 512,
    "attention.head_count": 4,
}
LAYER = attention(256, 256, 128, 128, 512)


def model(path: Path, architecture: str = "llama", **more: int | Sequence[int] | Sequence[bool]) -> Path:
    """Four layers of width 256; `head_count_kv=2` sets `attention.head_count_kv`, `__` stands for a dot."""
    fields: Fields = {**LLAMA, **{key.replace("__", "."): value for key, value in more.items()}}
    return write(path / f"{architecture}.gguf", architecture, fields, whole(256, 1000, [LAYER] * 4))


def measured(path: Path, *args: str, context_length: int | None = None) -> Footprint:
    found = footprint.measure(path, context_length=context_length, args=args)
    assert found is not None
    return found


def cache(path: Path, *args: str) -> int:
    return measured(path, *args).cache


def test_weights_are_the_bytes_of_the_tensors(tmp_path: Path) -> None:
    matrices = 2 * 1000 * 256 + 4 * (2 * 256 * 256 + 2 * 128 * 256 + 3 * 512 * 256)
    assert measured(model(tmp_path)).weights == matrices * 2 + (1 + 4 * 2) * 256 * 4


def test_keys_and_values_for_every_token_of_every_layer(tmp_path: Path) -> None:
    path = model(tmp_path)
    assert cache(path) == 8192 * 4 * (256 + 256) * 2  # the model's own context
    assert cache(path, "-c", "1024") == 1024 * 4 * (256 + 256) * 2


def test_grouped_queries_keep_fewer_heads(tmp_path: Path) -> None:
    path = model(tmp_path, attention__head_count_kv=1, attention__key_length=96, attention__value_length=32)
    assert cache(path, "-c", "1024") == 1024 * 4 * (96 + 32) * 2


def test_layers_may_differ_in_their_heads(tmp_path: Path) -> None:
    path = model(tmp_path, "deci", attention__head_count_kv=[4, 0, 2, 1])
    assert cache(path, "-c", "1024") == 1024 * (4 + 0 + 2 + 1) * (64 + 64) * 2


def test_the_context_is_padded_for_each_slot(tmp_path: Path) -> None:
    token = 4 * 512 * 2
    path = model(tmp_path)
    assert cache(path, "-c", "1000") == 1024 * token
    assert cache(path, "-c", "1000", "-np", "3") == 3 * 512 * token  # 1024 // 3 = 341
    assert cache(path, "-c", "1000", "-np", "3", "-kvu") == 1024 * token


@pytest.mark.parametrize(
    ("key_type", "value_type", "bytes_for_32"),
    [("f32", "f16", 128 + 64), ("bf16", "q8_0", 64 + 34), ("q4_0", "iq4_nl", 18 + 18), ("q5_1", "q5_0", 24 + 22)],
)
def test_the_cache_may_be_quantised(tmp_path: Path, key_type: str, value_type: str, bytes_for_32: int) -> None:
    args = ("-c", "1024", "-ctk", key_type, "--cache-type-v", value_type)
    assert cache(model(tmp_path), *args) == 1024 * 4 * 256 // 32 * bytes_for_32


def test_the_command_line_goes_before_the_configured_context(tmp_path: Path) -> None:
    path = model(tmp_path)
    token = 4 * 512 * 2
    assert measured(path, context_length=2048).cache == 2048 * token
    assert measured(path, "-c", "512", context_length=2048).cache == 512 * token
    assert measured(path, "-c", "0", context_length=2048).cache == 8192 * token


def test_a_window_bounds_what_its_layers_keep(tmp_path: Path) -> None:
    path = model(tmp_path, "gpt-oss", attention__sliding_window=128)  # every other layer
    token = 2 * 256 * 2 * 2  # of two layers
    windowed = 768  # 128 and a batch of 512, padded
    assert cache(path, "-c", "8192", "-np", "1") == (8192 + windowed) * token
    assert cache(path, "-c", "8192", "-np", "1", "-ub", "64") == (8192 + 256) * token
    assert cache(path, "-c", "8192", "-np", "2") == 2 * (4096 + windowed) * token
    assert cache(path, "-c", "8192", "-np", "4", "-kvu") == (8192 + 1024) * token  # four windows and one batch
    assert cache(path, "-c", "8192") == (8192 + 1024) * token  # which is what llama-server chooses by itself
    assert cache(path, "-c", "512", "-np", "1") == (512 + 512) * token
    assert cache(path, "-c", "8192", "-np", "1", "--swa-full") == 2 * 8192 * token


@pytest.mark.parametrize(
    ("architecture", "windowed"),
    [("gemma2", 2), ("gemma3", 4), ("cohere2", 3), ("laguna", 3), ("llama4", 3), ("phi3", 0), ("qwen2", 0)],
)
def test_which_layers_have_a_window_is_known_by_the_architecture(
    tmp_path: Path, architecture: str, windowed: int
) -> None:
    path = model(tmp_path, architecture, attention__sliding_window=256)
    window = {"llama4": 8192}.get(architecture, 256) + 512
    expected = (4 - windowed) * 32768 + windowed * (-(-window // 256) * 256)
    assert cache(path, "-c", "32768", "-np", "1") == expected * 512 * 2


def test_the_file_s_own_pattern_goes_before(tmp_path: Path) -> None:
    pattern = [True, True, False, True]
    path = model(tmp_path, "mimo2", attention__sliding_window=256, attention__sliding_window_pattern=pattern)
    assert cache(path, "-c", "32768", "-np", "1") == (32768 + 3 * 768) * 512 * 2
    path = model(tmp_path, "gemma3", attention__sliding_window=256, attention__sliding_window_pattern=2)
    assert cache(path, "-c", "32768", "-np", "1") == 2 * (32768 + 768) * 512 * 2


def test_layers_with_a_window_may_have_heads_of_another_size(tmp_path: Path) -> None:
    path = model(
        tmp_path,
        "gemma4",
        attention__head_count_kv=[4, 4, 1, 1],
        attention__sliding_window=256,
        attention__sliding_window_pattern=[True, True, False, False],
        attention__key_length=128,
        attention__value_length=128,
        attention__key_length_swa=64,
        attention__value_length_swa=64,
    )
    assert cache(path, "-c", "8192", "-np", "1") == (8192 * 2 * 1 * 256 + 768 * 2 * 4 * 128) * 2


def test_layers_that_use_another_s_keys_keep_none(tmp_path: Path) -> None:
    path = model(tmp_path, "gemma4", attention__shared_kv_layers=3)
    assert cache(path, "-c", "1024") == 1024 * 1 * 512 * 2


def test_latent_attention_keeps_no_values(tmp_path: Path) -> None:
    path = model(
        tmp_path,
        "deepseek2",
        attention__head_count_kv=1,
        attention__key_length=576,
        attention__value_length=512,
        attention__key_length_mla=192,
        attention__value_length_mla=128,
    )
    assert cache(path, "-c", "1024") == 1024 * 4 * 576 * 2


def test_an_indexer_has_keys_of_its_own(tmp_path: Path) -> None:
    path = model(
        tmp_path,
        "deepseek32",
        attention__head_count_kv=1,
        attention__key_length=576,
        attention__value_length=512,
        attention__key_length_mla=192,
        attention__value_length_mla=128,
        attention__indexer__key_length=128,
    )
    assert cache(path, "-c", "1024") == 1024 * 4 * (576 + 128) * 2


def test_recurrent_layers_keep_a_state_for_each_slot_whatever_the_context(tmp_path: Path) -> None:
    path = model(tmp_path, "mamba2", ssm__conv_kernel=4, ssm__inner_size=512, ssm__state_size=16, ssm__group_count=2)
    slot = 4 * (3 * (512 + 2 * 2 * 16) + 16 * 512) * 4
    assert cache(path, "-np", "3", "-c", "1024") == 3 * slot
    assert cache(path, "-np", "3", "-c", "8192") == 3 * slot
    path = model(tmp_path, "rwkv7", wkv__head_size=64, token_shift_count=2)
    assert cache(path, "-np", "1") == 4 * (2 * 256 + 256 * 64) * 4


def test_hybrids_have_both(tmp_path: Path) -> None:
    ssm = {"ssm__conv_kernel": 4, "ssm__inner_size": 256, "ssm__state_size": 32, "ssm__group_count": 4}
    state = (3 * (256 + 2 * 4 * 32) + 32 * 256) * 4
    every_fourth = model(tmp_path, "qwen35", **ssm)
    assert cache(every_fourth, "-c", "1024", "-np", "2") == 1024 * 1 * 512 * 2 + 2 * 3 * state
    every_second = model(tmp_path, "qwen3next", full_attention_interval=2, **ssm)
    assert cache(every_second, "-c", "1024", "-np", "1") == 1024 * 2 * 512 * 2 + 2 * state
    listed = model(tmp_path, "qwen35moe", attention__recurrent_layers=[True, False, False, False], **ssm)
    assert cache(listed, "-c", "1024", "-np", "1") == 1024 * 3 * 512 * 2 + state
    without_heads = model(tmp_path, "granitehybrid", attention__head_count_kv=[0, 0, 4, 0], **ssm)
    assert cache(without_heads, "-c", "1024", "-np", "1") == 1024 * 1 * 512 * 2 + 3 * state
    both_in_each = model(tmp_path, "falcon-h1", **ssm)
    assert cache(both_in_each, "-c", "1024", "-np", "1") == 1024 * 4 * 512 * 2 + 4 * state


def test_a_layer_may_be_neither(tmp_path: Path) -> None:
    path = model(
        tmp_path,
        "nemotron_h",
        attention__head_count_kv=[0, 0, 4, 0],
        feed_forward_length=[0, 512, 0, 512],
        ssm__conv_kernel=4,
        ssm__inner_size=256,
        ssm__state_size=32,
    )
    assert cache(path, "-c", "1024", "-np", "1") == 1024 * 512 * 2 + (3 * 256 + 32 * 256) * 4


def test_layers_that_only_predict_keep_nothing(tmp_path: Path) -> None:
    assert cache(model(tmp_path, "glm4moe", nextn_predict_layers=1), "-c", "1024") == 1024 * 3 * 512 * 2


def test_embedding_models_keep_nothing(tmp_path: Path) -> None:
    path = tiny.write(tmp_path / "embed.gguf", name="embed", kind="embedding")
    assert cache(path) == 0
    assert footprint.estimate(path, context_length=None, args=()) in range(113, 128)


def test_buffers_grow_with_the_batch_and_without_flash_attention(tmp_path: Path) -> None:
    path = model(tmp_path)
    usual = measured(path, "-c", "8192").buffers
    assert 3.5 < measured(path, "-c", "8192", "-ub", "2048").buffers / usual <= 4
    assert measured(path, "-c", "8192", "-fa", "off").buffers - usual == 512 * 4 * 8192 * 4
    assert measured(path, "-c", "256").buffers < usual / 2  # no batch is longer than the context


def test_shards_are_one_model(tmp_path: Path) -> None:
    shapes = whole(256, 1000, [LAYER] * 4)
    names = list(shapes)
    one = write(tmp_path / "m-00001-of-00002.gguf", "llama", LLAMA, {name: shapes[name] for name in names[:7]})
    two = write(tmp_path / "m-00002-of-00002.gguf", "llama", {}, {name: shapes[name] for name in names[7:]})
    assert measured(one).weights == measured(model(tmp_path)).weights
    assert measured(one).cache == measured(model(tmp_path)).cache
    two.unlink()
    assert footprint.estimate(one, context_length=None, args=()) is None


def test_a_projector_and_a_draft_model_count_too(tmp_path: Path) -> None:
    path = model(tmp_path)
    projector = tmp_path / "mmproj.gguf"
    projector.write_bytes(b"x" * 5 * MIB)
    alone = measured(path, "-c", "1024")
    assert measured(path, "-c", "1024", "--mmproj", str(projector)).weights == alone.weights + 5 * MIB
    pair = measured(path, "-c", "1024", "-md", str(path))
    assert (pair.weights, pair.cache, pair.buffers) == (alone.weights * 2, alone.cache * 2, alone.buffers * 2)
    assert footprint.estimate(path, context_length=None, args=("--mmproj", str(tmp_path / "gone"))) is None


def test_the_estimate_is_the_sum_and_what_a_server_takes_by_itself(tmp_path: Path) -> None:
    path = model(tmp_path)
    parts = measured(path)
    total = parts.weights + parts.cache + parts.buffers + PROCESS
    assert footprint.estimate(path, context_length=None, args=()) == -(-total // MIB)


def test_on_a_gpu_the_embedding_stays_on_the_host(tmp_path: Path) -> None:
    path = model(tmp_path)
    parts = measured(path)
    assert parts.on_host == 1000 * 256 * 2
    assert parts.on_gpu == parts.weights - parts.on_host + parts.cache + parts.buffers + GPU_CONTEXT
    tied = write(tmp_path / "tied.gguf", "llama", LLAMA, whole(256, 1000, [LAYER] * 4, tied=True))
    assert measured(tied).on_host == 0  # it is the output as well


def test_layers_can_be_kept_off_the_gpu(tmp_path: Path) -> None:
    path = model(tmp_path)
    layer = (2 * 256 * 256 + 2 * 128 * 256 + 3 * 512 * 256) * 2 + 2 * 256 * 4
    embedding, token = 1000 * 256 * 2, 512 * 2
    assert measured(path, "-c", "1024", "-ngl", "3").on_host == embedding + 2 * (layer + 1024 * token)
    assert measured(path, "-c", "1024", "-ngl", "99").on_host == embedding
    assert measured(path, "-c", "1024", "-ngl", "all", "-nkvo").on_host == embedding + 4 * 1024 * token
    assert footprint.estimate(path, context_length=None, args=("-ngl", "0"), gpu=True) == 0


def test_experts_can_be_kept_off_the_gpu(tmp_path: Path) -> None:
    expert = {"ffn_gate_exps": (8, 512, 256), "ffn_up_exps": (8, 512, 256), "ffn_down_exps": (8, 256, 512)}
    path = write(tmp_path / "moe.gguf", "qwen3moe", LLAMA, whole(256, 1000, [{**LAYER, **expert}] * 4))
    experts, embedding = 3 * 8 * 512 * 256 * 2, 1000 * 256 * 2
    assert measured(path, "--cpu-moe").on_host == embedding + 4 * experts
    assert measured(path, "-ncmoe", "3").on_host == embedding + 3 * experts
    assert measured(path, "-ot", r"blk\.[01]\.ffn_.*_exps=CPU").on_host == embedding + 2 * experts
    assert measured(path, "-ot", "((=CPU,exps=CUDA1").on_host == embedding


def test_known_models_have_the_size_they_are_known_for(tmp_path: Path) -> None:
    """Llama 3.1 8B at its 131,072 tokens."""
    llama: Fields = {
        "context_length": 131072,
        "embedding_length": 4096,
        "block_count": 32,
        "feed_forward_length": 14336,
        "attention.head_count": 32,
        "attention.head_count_kv": 8,
    }
    layer = attention(4096, 4096, 1024, 1024, 14336)
    path = write(tmp_path / "llama.gguf", "llama", llama, whole(4096, 128256, [layer] * 32))
    assert measured(path).cache == 16 * GIB
    assert measured(path).weights == pytest.approx(8.03e9 * 2, rel=0.001)
    assert path.stat().st_blocks * 512 < MIB


@pytest.mark.parametrize(
    "more",
    [
        {"block_count": 0},
        {"block_count": 4_000_000_000},
        {"attention.head_count": 0, "attention.head_count_kv": 4},
        {"attention.head_count_kv": [1, 2]},
        {"attention.head_count": "four"},
        {"full_attention_interval": 0, "general": 1},
    ],
)
def test_strange_headers_give_no_estimate_rather_than_an_error(tmp_path: Path, more: Fields) -> None:
    architecture = "qwen35" if "general" in more else "llama"
    path = write(tmp_path / "m.gguf", architecture, {**LLAMA, **more}, whole(256, 10, [LAYER] * 4))
    found = footprint.estimate(path, context_length=None, args=())
    assert found is None or (found > 0 and "attention.head_count" in more)


def test_strange_files_and_command_lines_give_no_estimate_rather_than_an_error(tmp_path: Path) -> None:
    whole_file = model(tmp_path).read_bytes()
    for length in [*range(0, 2000, 37), 5000, 100_000]:
        path = tmp_path / "cut.gguf"
        path.write_bytes(whole_file[:length])
        assert footprint.estimate(path, context_length=None, args=()) is None
    path = model(tmp_path)
    for args in (("-ctk", "f9"), ("-c",), ("-np", "x"), ("-md", "/nowhere.gguf"), ("-c", "-5"), ("-ub", "-1")):
        found = footprint.estimate(path, context_length=None, args=args)
        assert found is None or found > 0
    assert footprint.estimate(tmp_path / "nothing.gguf", context_length=None, args=()) is None
    assert footprint.estimate(tmp_path, context_length=None, args=()) is None


def test_damaged_headers_give_no_estimate_rather_than_an_error(tmp_path: Path) -> None:
    content, chance = model(tmp_path).read_bytes()[:1500], random.Random(4)
    path = tmp_path / "damaged.gguf"
    for _ in range(500):
        damaged = bytearray(content + bytes(10_000))
        for _ in range(chance.randint(1, 4)):
            damaged[chance.randrange(4, len(content))] = chance.choice((0, 1, 9, 127, 255))
        path.write_bytes(damaged)
        found = footprint.estimate(path, context_length=None, args=())
        assert found is None or found > 0


def test_arrays_of_arrays_without_end_are_no_header(tmp_path: Path) -> None:
    path = tmp_path / "deep.gguf"
    numbers = struct.pack("<IQQQ", 3, 1, 1, 3) + b"a.b" + struct.pack("<I", 9)
    path.write_bytes(b"GGUF" + numbers + struct.pack("<IQ", 9, 1) * 5000)
    with pytest.raises(header.NotGguf):
        header.read(path)


def test_the_place_of_a_tensor_tells_its_size(tmp_path: Path) -> None:
    path = write(tmp_path / "m.gguf", "llama", {}, {"a": (3,), "b": (100, 7), "c": (5,)})
    described, tensors = header.read_tensors(path)
    assert (described.tensors, tensors) == (3, {"a": 32, "b": 1408, "c": 32})  # padded to 32


def test_arrays_of_numbers_are_read_unless_they_are_as_long_as_a_vocabulary(tmp_path: Path) -> None:
    path = write(tmp_path / "m.gguf", "llama", {"few": [1, 2, 3], "many": list(range(5000))}, {"a": (8, 8)})
    assert header.read(path).arrays == {"llama.few": (1, 2, 3)}
