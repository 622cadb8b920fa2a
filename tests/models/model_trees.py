"""Folders with models as people have them: GGUF files of one tensor, folders with sparse safetensors, the stores of
other programs."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np

from llm_router.models.discover import Discovery, discover
from llm_router.models.discovered import Found

Describe = Callable[[gguf.GGUFWriter], Any]
TEMPLATE = "{{ messages }}"


def gguf_file(path: Path, architecture: str = "llama", describe: Describe = id, *, width: int = 32) -> Path:
    """One small tensor, a chat template, and whatever `describe` adds."""
    path.parent.mkdir(parents=True, exist_ok=True)
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_token_list(["a", "bc"])
    writer.add_token_scores([0.0, 1.0])
    writer.add_chat_template(TEMPLATE)
    writer.add_embedding_length(width)
    describe(writer)
    writer.add_tensor("token_embd.weight", np.zeros((2, 32), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def projector(path: Path, *, width: int = 32, sense: str = "vision") -> Path:
    def describe(writer: gguf.GGUFWriter) -> None:
        writer.add_bool(f"clip.has_{sense}_encoder", True)
        writer.add_uint32(f"clip.{sense}.projection_dim", width)

    return gguf_file(path, "clip", describe)


def folder(path: Path, quantisation: Mapping[str, Any] | None = None, **config: Any) -> Path:
    """A model of 16 MiB in safetensors, Llama unless `config` says otherwise."""
    path.mkdir(parents=True, exist_ok=True)
    plain: dict[str, Any] = {
        "architectures": ["LlamaForCausalLM"],
        "torch_dtype": "bfloat16",
        "hidden_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "max_position_embeddings": 4096,
        **({"quantization_config": quantisation} if quantisation else {}),
        **config,
    }
    (path / "config.json").write_text(json.dumps(plain))
    (path / "chat_template.jinja").write_text(TEMPLATE)
    sparse(path / "model.safetensors", 16 * 1024**2)
    return path


def sparse(path: Path, size: int) -> Path:
    with path.open("wb") as file:
        file.truncate(size)
    return path


def hub_snapshot(cache: Path, repository: str, revision: str, *, is_main: bool = True) -> Path:
    """The folder of one revision in the Hugging Face cache."""
    place = cache / f"models--{repository.replace('/', '--')}"
    (place / "blobs").mkdir(parents=True, exist_ok=True)
    (place / "refs").mkdir(exist_ok=True)
    if is_main:
        (place / "refs" / "main").write_text(revision)
    snapshot = place / "snapshots" / revision
    snapshot.mkdir(parents=True, exist_ok=True)
    return snapshot


def into_blobs(snapshot: Path) -> None:
    """Moves what is in a snapshot to where the hub's cache keeps it, and leaves links."""
    for file in sorted(snapshot.iterdir()):
        blob = snapshot.parents[1] / "blobs" / f"{len(file.name)}{file.stat().st_size}"
        file.rename(blob)
        file.symlink_to(Path("../../blobs") / blob.name)


def ollama_model(
    store: Path, name: str, layers: Mapping[str, Path | bytes], *, host: str = "registry.ollama.ai"
) -> None:
    """`name`: OWNER/MODEL/TAG. A layer's content, or the file that becomes its blob."""
    (store / "blobs").mkdir(parents=True, exist_ok=True)
    listed = []
    for number, (kind, content) in enumerate(layers.items()):
        digest = f"sha256-{abs(hash((name, kind, number))):064x}"[:71]
        blob = store / "blobs" / digest
        if isinstance(content, Path):
            content.rename(blob)
        else:
            blob.write_bytes(content)
        media = f"application/vnd.ollama.image.{kind}"
        listed.append({"mediaType": media, "digest": digest.replace("-", ":"), "size": blob.stat().st_size})
    manifest = store / "manifests" / host / name
    manifest.parent.mkdir(parents=True, exist_ok=True)
    manifest.write_text(json.dumps({"schemaVersion": 2, "layers": listed}))


def search(*places: Path, limit_s: float = 60.0) -> Discovery:
    return discover(places, lambda message, fraction=None: None, limit_s=limit_s)


def only(discovery: Discovery) -> Found:
    (model,) = discovery.models
    return model


def reasons(discovery: Discovery) -> dict[str, str]:
    """Why, by file name."""
    return {one.path.name: one.reason for one in discovery.left_out}
