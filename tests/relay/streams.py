"""How each inference server's streams look, shortened. Text: "Hel", "lo". Ends as asked for usage, and without."""

import json
from typing import Any

TIMINGS = {
    "cache_n": 4, "prompt_n": 6, "prompt_ms": 30.5, "prompt_per_token_ms": 5.08, "prompt_per_second": 196.7,
    "predicted_n": 128, "predicted_ms": 2831.0, "predicted_per_token_ms": 22.1, "predicted_per_second": 45.2,
}  # fmt: skip
USAGE = {"prompt_tokens": 10, "completion_tokens": 128, "total_tokens": 138}
DONE = b"data: [DONE]\n\n"


def event(payload: Any, end: str = "\n\n") -> bytes:
    return f"data: {json.dumps(payload, separators=(',', ':'))}{end}".encode()


def llamacpp(*choices: dict[str, Any], **more: Any) -> bytes:
    about = {"created": 1, "id": "c", "model": "m", "system_fingerprint": "b1", "object": "chat.completion.chunk"}
    return event({"choices": list(choices), **about, **more})


def llamacpp_delta(delta: dict[str, Any], finish: str | None = None) -> dict[str, Any]:
    return {"finish_reason": finish, "index": 0, "delta": delta}


LLAMACPP_TEXT = (
    llamacpp(llamacpp_delta({"role": "assistant", "content": None}))
    + llamacpp(llamacpp_delta({"content": "Hel"}))
    + llamacpp(llamacpp_delta({"content": "lo"}))
)
LLAMACPP_USAGE = (
    LLAMACPP_TEXT
    + llamacpp(llamacpp_delta({}, "stop"))
    + llamacpp(usage={**USAGE, "prompt_tokens_details": {"cached_tokens": 4}}, timings=TIMINGS)
    + DONE
)
LLAMACPP_PLAIN = LLAMACPP_TEXT + llamacpp(llamacpp_delta({}, "stop"), timings=TIMINGS) + DONE


def vllm(*choices: dict[str, Any], **more: Any) -> bytes:
    about = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m"}
    return event({**about, "choices": list(choices), **more})


def vllm_delta(delta: dict[str, Any], finish: str | None = None) -> dict[str, Any]:
    return {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish, "token_ids": None}


VLLM_TEXT = (
    vllm(vllm_delta({"role": "assistant", "content": ""}), usage=None, prompt_token_ids=None)
    + vllm(vllm_delta({"reasoning": "think"}), usage=None)
    + vllm(vllm_delta({"reasoning": "ing"}), usage=None)
    + vllm(vllm_delta({"content": "Hel"}), usage=None)
    + vllm(vllm_delta({"content": "lo"}), usage=None)
)
VLLM = VLLM_TEXT + vllm(vllm_delta({"content": ""}, "stop"), usage=None) + vllm(usage=USAGE) + DONE
VLLM_CONTINUOUS = (
    vllm(vllm_delta({"role": "assistant", "content": ""}), usage={**USAGE, "completion_tokens": 0})
    + vllm(vllm_delta({"content": "Hel"}), usage={**USAGE, "completion_tokens": 1})
    + vllm(vllm_delta({"content": "lo"}), usage={**USAGE, "completion_tokens": 2})
    + vllm(vllm_delta({"content": ""}, "stop"), usage={**USAGE, "completion_tokens": 2})
    + vllm(usage=USAGE)
    + DONE
)


def sglang_delta(content: str | None, finish: str | None = None, role: str | None = None) -> dict[str, Any]:
    delta = {"role": role, "content": content, "reasoning_content": None, "tool_calls": None}
    return {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish, "matched_stop": None}


SGLANG = (
    vllm(sglang_delta("", role="assistant"), usage=None)
    + vllm(sglang_delta("Hel"), usage=None)
    + vllm(sglang_delta("lo"), usage=None)
    + vllm(sglang_delta(None, "stop"), usage=None)
    + vllm(usage={**USAGE, "prompt_tokens_details": None, "reasoning_tokens": 0})
    + DONE
)

TABBY_USAGE = {
    "prompt_tokens": 10, "prompt_time": 0.0305, "prompt_tokens_per_sec": "Indeterminate",
    "completion_tokens": 128, "completion_time": 2.831, "completion_tokens_per_sec": 45.2,
    "total_tokens": 138, "total_time": 2.86,
}  # fmt: skip


def tabby(delta: dict[str, Any], finish: str | None = None, **more: Any) -> bytes:
    choice = {"index": 0, "finish_reason": finish, "delta": delta, "logprobs": None}
    return event(
        {"id": "c", "choices": [choice], "created": 1, "model": "m", "object": "chat.completion.chunk", **more},
        "\r\n\r\n",
    )


TABBY_TEXT = tabby({"content": "Hel"}) + tabby({"content": "lo"})
TABBY_USAGE_END = TABBY_TEXT + tabby({}, "stop", usage=TABBY_USAGE) + b"data: [DONE]\r\n\r\n"
TABBY_PLAIN = TABBY_TEXT + tabby({"content": "!"}, "stop", usage=None) + b"data: [DONE]\r\n\r\n"

OPENROUTER = (
    b": OPENROUTER PROCESSING\n\n"
    + vllm(vllm_delta({"role": "assistant", "content": "Hel"}))
    + b": OPENROUTER PROCESSING\n\n"
    + vllm(vllm_delta({"role": "assistant", "content": "lo"}))
    + vllm(vllm_delta({"role": "assistant", "content": ""}, "stop"))
    + vllm(vllm_delta({"role": "assistant", "content": ""}), usage=USAGE)
    + DONE
)

ENGINES = {
    "llamacpp": LLAMACPP_USAGE,
    "llamacpp, no usage": LLAMACPP_PLAIN,
    "vllm": VLLM,
    "vllm, continuous": VLLM_CONTINUOUS,
    "sglang": SGLANG,
    "tabbyapi": TABBY_USAGE_END,
    "openrouter": OPENROUTER,
}
