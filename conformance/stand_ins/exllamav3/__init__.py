"""Stands in for ExLlamaV3, which needs a GPU, so that TabbyAPI's own HTTP layer can run without one.

It has the names that TabbyAPI e632af4 uses of it, and no model: every answer is the text that `answer` in the model's
config.json says, one word a token. Written from what its caller does with it.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

from exllamav3.cache import Cache as Cache
from exllamav3.tokenizer import Tokenizer as Tokenizer

MODULES, MODULE_S, TOKEN_S = 20, 0.02, 0.002

# What it asks of the machine before it loads anything: one card that is new enough.
torch.cuda.device_count = lambda: 1
torch.cuda.get_device_capability = lambda device=None: (8, 6)


class Config:
    def __init__(self, folder: Path) -> None:
        self.model_classes = {"text": None}
        self.eos_token_id_list: list[int] = []
        self.answer: str = json.loads((folder / "config.json").read_text())["answer"]
        self.infer_params = SimpleNamespace(moe_cpu_offload=0)

    @staticmethod
    def from_directory(folder: str) -> Config:
        return Config(Path(folder))


class Model:
    def __init__(self, config: Config) -> None:
        self.caps: dict[str, Any] = {}
        self.config = config

    @staticmethod
    def from_config(config: Config, component: str = "text") -> Model:
        return Model(config)

    def load_gen(self, callback: Callable[[int, int], Iterator[Any]], **_: Any) -> Iterator[Any]:
        for module in range(MODULES + 1):
            time.sleep(MODULE_S)
            yield from callback(module, MODULES)

    def unload(self) -> None:
        pass


class AsyncGenerator:
    def __init__(self, model: Model, cache: Cache, max_batch_size: int | None = None, **_: Any) -> None:
        self.answer = model.config.answer
        self.generator = SimpleNamespace(
            max_batch_size=max_batch_size or 4, recurrent_cache=None, recurrent_checkpoint_interval=256
        )

    async def close(self) -> None:
        pass


class AsyncJob:
    def __init__(
        self,
        generator: AsyncGenerator,
        input_ids: list[torch.Tensor],
        max_new_tokens: int,
        min_new_tokens: int = 0,
        **_: Any,
    ) -> None:
        words = [f" {word}" for word in generator.answer.split()]
        words *= 1 + min_new_tokens // len(words)
        self._prompt = input_ids[0].shape[-1]
        self._limit = max_new_tokens
        self._words = words
        self.queue: asyncio.Queue[Any] = asyncio.Queue()
        self.cancelled = False

    async def cancel(self) -> None:
        self.cancelled = True

    async def __aiter__(self) -> AsyncIterator[dict[str, Any]]:
        began = time.monotonic()
        words = self._words[: self._limit]
        for number, word in enumerate(words, start=1):
            await asyncio.sleep(TOKEN_S)
            if self.cancelled:
                raise asyncio.CancelledError
            result: dict[str, Any] = {"stage": "streaming", "text": word, "eos": False}
            result["token_ids"] = torch.tensor([[number]])
            if number == len(words):
                result |= self._end(time.monotonic() - began, len(words))
            yield result

    def _end(self, seconds: float, count: int) -> dict[str, Any]:
        return {
            "eos": True,
            "eos_reason": "max_new_tokens" if count < len(self._words) else "stop_token",
            "eos_triggering_token_str": "</s>",
            "prompt_tokens": self._prompt,
            "cached_tokens": 0,
            "new_tokens": count,
            "time_enqueued": 0.0,
            "time_prefill": 0.01,
            "time_generate": seconds,
        }


class Filter:
    pass


class LLGuidanceFilter(Filter):
    def __init__(self, *_: Any, **__: Any) -> None:
        raise RuntimeError("cannot filter: this is a stand-in, for conformance runs without a GPU")
