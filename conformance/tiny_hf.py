"""Writes a known-answer model as a Hugging Face folder, for engines that read no GGUF. Run by the engine's own Python:

    python conformance/tiny_hf.py FOLDER --name NAME [--count 60] [--shards 6]

It answers every chat with ` I am NAME: 1 2 3 … COUNT` and then the end token, in COUNT + 3 tokens, as the GGUF models
of `llm_router.models.tiny_weights` do and by the same trick: each token's output row points at the embedding of the
token before it in the answer. A program of its own because only the engine's environment has torch and tokenizers.

With several shards it is 300 MB, so that its load takes long enough to be seen.
"""

from __future__ import annotations

import argparse
import itertools
import json
from pathlib import Path

import torch
from safetensors.torch import save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

WIDTH, LAYERS, HEADS, CONTEXT = 256, 2, 4, 2048
FEED_FORWARD, LARGE_FEED_FORWARD = 512, 48 * 1024
ROLES = ("system", "developer", "user", "assistant", "tool")
TEMPLATE = (
    "{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] or '' }}</s>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
START, NEXT, END, AGAIN, WHISPER = 60.0, 40.0, 60.0, 30.0, 1e-5


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--name", required=True)
    parser.add_argument("--count", type=int, default=60)
    parser.add_argument("--shards", type=int, default=1)
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    reply = tokens(options.folder, options.name, options.count)
    feed_forward = FEED_FORWARD if options.shards == 1 else LARGE_FEED_FORWARD
    save(options.folder, weights(reply, feed_forward), options.shards)
    describe(options.folder, reply[-1] + 1, feed_forward)


def tokens(folder: Path, name: str, count: int) -> list[int]:
    """Writes the tokenizer: control tokens, the bytes, the answer's pieces, no merges. Returns the answer's ids."""
    control = ["<s>", "</s>", *(f"<|{role}|>" for role in ROLES)]
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    pieces = [" I", " am", f" {name}:", *(f" {number}" for number in range(1, count + 1))]
    # A space is spelled as this letter in a byte-level vocabulary; the names are ASCII.
    words = [*control, *letters, *(piece.replace(" ", "\u0120") for piece in pieces)]
    tokenizer = Tokenizer(models.BPE(vocab={word: index for index, word in enumerate(words)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(word, special=True) for word in control])
    tokenizer.save(str(folder / "tokenizer.json"))
    about = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<s>",
        "eos_token": "</s>",
        "model_max_length": CONTEXT,
        "clean_up_tokenization_spaces": False,
        "chat_template": TEMPLATE,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(about))
    return list(range(len(words) - len(pieces), len(words)))


def weights(reply: list[int], feed_forward: int) -> dict[str, torch.Tensor]:
    torch.manual_seed(1)
    size = reply[-1] + 1
    embedding = torch.nn.functional.normalize(torch.randn(size, WIDTH))
    # Dimension 0 says "not part of the answer": from any such token the answer starts.
    embedding[:, 0] = 1.0
    embedding[reply, 0] = 0.0
    embedding = torch.nn.functional.normalize(embedding)
    output = torch.zeros(size, WIDTH)
    for before, after in itertools.pairwise(reply):
        output[after] = NEXT * embedding[before]
    output[1] = END * embedding[reply[-1]]
    output[reply[0], 0] = START
    output[reply[0]] += AGAIN * embedding[reply[-1]]
    found = {"model.embed_tokens.weight": embedding, "lm_head.weight": output / WIDTH**0.5}
    found["model.norm.weight"] = torch.ones(WIDTH)
    for layer in range(LAYERS):
        at = f"model.layers.{layer}"
        for part in ("q_proj", "k_proj", "v_proj", "o_proj"):
            found[f"{at}.self_attn.{part}.weight"] = torch.randn(WIDTH, WIDTH) * (WHISPER if part == "o_proj" else 0.02)
        for part in ("gate_proj", "up_proj"):
            found[f"{at}.mlp.{part}.weight"] = torch.randn(feed_forward, WIDTH) * 0.02
        found[f"{at}.mlp.down_proj.weight"] = torch.randn(WIDTH, feed_forward) * WHISPER
        for part in ("input_layernorm", "post_attention_layernorm"):
            found[f"{at}.{part}.weight"] = torch.ones(WIDTH)
    return {name: tensor.contiguous() for name, tensor in found.items()}


def save(folder: Path, found: dict[str, torch.Tensor], shards: int) -> None:
    """The largest go to one shard after the other."""
    names = sorted(found, key=lambda name: -found[name].numel())
    where = {name: f"model-{1 + at % shards:05}-of-{shards:05}.safetensors" for at, name in enumerate(names)}
    for file in sorted(set(where.values())):
        save_file({name: found[name] for name in names if where[name] == file}, folder / file, {"format": "pt"})
    size = sum(tensor.numel() * tensor.element_size() for tensor in found.values())
    index = {"metadata": {"total_size": size}, "weight_map": where}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def describe(folder: Path, size: int, feed_forward: int) -> None:
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": WIDTH,
        "intermediate_size": feed_forward,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "num_key_value_heads": HEADS,
        "head_dim": WIDTH // HEADS,
        "hidden_act": "silu",
        "max_position_embeddings": CONTEXT,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "tie_word_embeddings": False,
        "vocab_size": size,
        "bos_token_id": 0,
        "eos_token_id": 1,
        "torch_dtype": "float32",
    }
    (folder / "config.json").write_text(json.dumps(config, indent=2))
    (folder / "generation_config.json").write_text(json.dumps({"bos_token_id": 0, "eos_token_id": 1}))


if __name__ == "__main__":
    main()
