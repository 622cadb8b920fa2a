"""What a client and an operator may rely on, whatever engine is behind the router: one function for each point.

Counterparts: `tests/e2e/test_backends_contract.py`, which asks them of the fakes, and `__main__`, which asks them of
real engines. A point takes the subject in whatever state the one before left it, says by AssertionError what differs,
and returns in words what it measured, if anything.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
from routing import Events, RouterProcess, is_alive, leftovers, until

Json = dict[str, Any]
MESSAGES = [{"role": "user", "content": "hello"}]


class CannotRunError(Exception):
    """This point has no meaning for this subject; the text says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """A running router with the model under test.

    `answer`: what the model says to everything, whole. `other`: a second model of another name, so that there is a
    switch; its `other_answer`. `refused`: fields of a request that the engine itself answers with 400. `endless`:
    fields of one that goes on for seconds. `percent`: whether the engine says how far a load is. `context_length`: what
    it must have been read back as. `stop_s`: the longest its stop plan may take with a stream open. `keys`: the
    engine's own, where it insists on them; the first is for requests. `load_s`: the longest one load may take.
    `remote`: the router doesn't start it. `keeps_server`: its process stays when the model leaves, for the next one.
    `worker`: how the name of the process begins that computes, where that isn't the one that answers; `late`: fields of
    a request that hold its first token back, where stopping that process doesn't. `stall_s`: the router's
    `stall_timeout`. `sessions`: of every process that was seen, so that nothing of it is overlooked: engines that set
    their own name in `ps` overwrite the environment that tells whose they are.
    """

    router: RouterProcess
    model: str
    answer: str
    other: str
    other_answer: str
    refused: Json
    endless: Json = field(default_factory=lambda: {"ignore_eos": True, "max_tokens": 900})
    percent: bool = False
    why_no_percent: str = "this engine doesn't say how far a load is"
    context_length: int | None = None
    stop_s: float = 5.0
    keys: tuple[str, ...] = ()
    load_s: float = 30.0
    remote: bool = False
    keeps_server: bool = False
    worker: str | None = None
    late: Json = field(default_factory=dict)
    stall_s: float = 120.0
    sessions: set[int] = field(default_factory=set)

    async def post(self, path: str, body: Json, **headers: str) -> httpx.Response:
        async with self.router.client() as client:
            return await client.post(path, json=body, headers=headers, timeout=self.load_s)

    async def status(self) -> Json:
        return self._seen((await self.router.status())[self.model])

    async def when(self, holds: Callable[[Json], bool], timeout_s: float = 15) -> Json:
        return await self.router.when(self.model, lambda status: holds(self._seen(status)), timeout_s)

    def _seen(self, status: Json) -> Json:
        if status["pid"]:
            self.sessions.add(status["pid"])
        return status

    def left(self) -> list[int]:
        """Every process that belongs to this router's engines."""
        return sorted({*leftovers(self.router), *(pid for session in self.sessions for pid in of_session(session))})

    async def load(self, model: str | None = None) -> list[Json]:
        """Make it ready; returns the steps that the router told. Ends a back-off too."""
        reply = await self.post("/admin/load", {"model": model or self.model})
        steps = [json.loads(line) for line in reply.text.splitlines()]
        assert steps[-1].get("ready"), steps[-1]
        return steps

    async def unload(self) -> None:
        await self.post("/admin/unload", {"model": self.model})

    async def chat(self, **more: Any) -> Events:
        async with asyncio.timeout(self.load_s + 30):
            return await self.router.chat(self.model, **more)


def of_session(session: int) -> Iterator[int]:
    """What lives of it. Each engine has one, whose number is the pid of its first process."""
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(ProcessLookupError):
            if entry.name.isdigit() and os.getsid(int(entry.name)) == session and is_alive(int(entry.name)):
                yield int(entry.name)


Point = Callable[[Subject], Awaitable[str | None]]
POINTS: dict[str, Point] = {}
# Those that take half a minute and more, because that is how long the router has patience.
SLOW: set[str] = set()


def point(function: Point) -> Point:
    POINTS[function.__name__] = function
    return function


def slow(function: Point) -> Point:
    SLOW.add(function.__name__)
    return function


def _only_if_started(subject: Subject) -> None:
    if subject.remote:
        raise CannotRunError("the router doesn't start it")


@point
async def a_load_says_how_it_goes(subject: Subject) -> str:
    await subject.unload()
    began = time.monotonic()
    events = await subject.chat()
    took_s = time.monotonic() - began
    assert events.error is None, events.error
    assert events.text == subject.answer, events.text
    if not subject.remote:
        assert "⏳ Loading model... " in events.written, events.written
        assert "✓ Model ready! (" in events.written, events.written
    return f"{took_s:.1f} s to the end of the answer"


@point
async def a_load_tells_its_percent(subject: Subject) -> str:
    _only_if_started(subject)
    if not subject.percent:
        raise CannotRunError(subject.why_no_percent)
    await subject.unload()
    loading, fractions = asyncio.ensure_future(subject.load()), []  # noqa: TID251 - awaited below
    while not loading.done():
        fractions.append((await subject.status())["fraction"])
    await loading
    told = [fraction for fraction in fractions if fraction is not None]
    assert told, "nothing was told"
    assert told == sorted(told), told
    assert 0.0 <= told[0] <= told[-1] <= 1.0, told
    return f"seen {', '.join(f'{100 * fraction:.0f} %' for fraction in dict.fromkeys(told))}"


@point
async def a_ready_model_says_nothing_of_loading(subject: Subject) -> None:
    await subject.load()
    events = await subject.chat()
    assert events.text == subject.answer, events.text
    assert "Loading" not in events.written, events.written


@point
async def a_whole_answer_has_usage_and_timings(subject: Subject) -> None:
    reply = (await subject.post("/v1/chat/completions", {"model": subject.model, "messages": MESSAGES})).json()
    (choice,) = reply["choices"]
    assert choice["message"]["content"] == subject.answer, choice
    assert choice["finish_reason"] == "stop", choice
    assert reply["usage"]["completion_tokens"] > 5, reply["usage"]
    assert reply["usage"]["prompt_tokens"] > 0, reply["usage"]
    assert reply["timings"]["predicted_n"] == reply["usage"]["completion_tokens"], reply


@point
async def a_stream_ends_with_usage_and_timings_in_its_finish_chunk(subject: Subject) -> None:
    events = await subject.chat()
    carrying = [chunk for chunk in events.chunks if chunk.get("usage") or chunk.get("timings")]
    assert len(carrying) == 1, carrying
    (last,) = carrying
    assert last["choices"][0]["finish_reason"] == "stop", last
    assert last["usage"]["completion_tokens"] == last["timings"]["predicted_n"] > 5, last
    assert events.done
    assert all(value is not None for value in last["usage"].values()), last
    assert "~" not in events.written, "the engine's own counts, not an estimate"
    assert f"| {last['usage']['completion_tokens']} tokens in " in events.written, events.written


@point
async def a_client_that_asks_for_usage_gets_it_in_a_chunk_of_its_own(subject: Subject) -> None:
    events = await subject.chat(stream_options={"include_usage": True})
    carrying = [chunk["choices"] for chunk in events.chunks if chunk.get("usage") or chunk.get("timings")]
    assert carrying == [[]], carrying


@point
async def a_completion_is_answered(subject: Subject) -> None:
    body = {"model": subject.model, "prompt": "x", "max_tokens": 6}
    reply = (await subject.post("/v1/completions", body)).json()
    assert subject.answer.startswith(reply["choices"][0]["text"].rstrip()), reply
    assert reply["choices"][0]["text"], reply
    assert reply["usage"]["completion_tokens"] == 6, reply


@point
async def the_reply_names_the_model_that_was_asked_for(subject: Subject) -> None:
    events = await subject.chat(max_tokens=3)
    named = {chunk["model"] for chunk in events.chunks if "model" in chunk}
    assert named == {subject.model}, named


@point
async def the_engines_refusal_keeps_its_status_and_has_the_one_shape(subject: Subject) -> None:
    body = {"model": subject.model, "messages": MESSAGES, **subject.refused}
    reply = await subject.post("/v1/chat/completions", body)
    assert reply.status_code == 400, reply.text
    assert set(reply.json()) == {"error"}, reply.text
    error = reply.json()["error"]
    assert isinstance(error["message"], str), error
    assert error["message"], error
    assert {"type", "code"} <= set(error), error


@point
async def a_name_that_is_not_configured_is_refused(subject: Subject) -> None:
    reply = await subject.post("/v1/chat/completions", {"model": "no-such-model", "messages": MESSAGES})
    assert (reply.status_code, reply.json()["error"]["code"]) == (404, "model_not_found"), reply.text


@point
async def answers_come_from_the_model_that_was_named(subject: Subject) -> None:
    """Five requests at once to two models, twice, so that it goes there and back."""
    names = [subject.model, subject.other, subject.model, subject.other, subject.model] * 2
    right = {subject.model: subject.answer, subject.other: subject.other_answer}
    async with asyncio.timeout(3 * subject.load_s + 30):
        answers = await asyncio.gather(*(subject.router.chat(name) for name in names))
    for name, events in zip(names, answers, strict=True):
        assert events.error is None, events.error
        assert events.text == right[name], (name, events.text)


@point
async def its_context_is_read_back(subject: Subject) -> None:
    if subject.context_length is None:
        raise CannotRunError("this engine doesn't tell its context")
    await subject.load()
    async with subject.router.client() as client:

        async def is_told() -> bool:  # a moment after it is ready, since nobody waits for that answer
            told = (await client.get(f"/v1/models/{subject.model}")).json()
            return subject.context_length in _values(told)

        await until(is_told)


def _values(told: Json) -> list[object]:
    """Of one description of a model, wherever in it they are."""
    return [inner for value in told.values() for inner in (_values(value) if isinstance(value, dict) else [value])]


@point
async def the_engine_has_its_key_and_the_client_needs_none(subject: Subject) -> None:
    if not subject.keys:
        raise CannotRunError("this one was started without a key")
    await subject.load()
    port = (await subject.status())["port"]
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as direct:
        refused = await direct.get("/v1/models")
        allowed = await direct.get("/v1/models", headers={"Authorization": f"Bearer {subject.keys[0]}"})
    assert (refused.status_code, allowed.status_code) == (401, 200)
    events = await subject.chat(headers={"Authorization": "Bearer of-the-client"})
    assert events.text == subject.answer, events
    async with subject.router.client() as client:
        logs = (await client.get(f"/admin/logs/{subject.model}")).text
    assert not any(key in logs + subject.router.log.read_text() for key in subject.keys), "a key is in a log"


@point
async def a_client_that_leaves_ends_its_request(subject: Subject) -> None:
    await subject.load()
    body = {"model": subject.model, "stream": True, "messages": MESSAGES, **subject.endless}
    async with (
        subject.router.client() as client,
        client.stream("POST", "/v1/chat/completions", json=body) as reply,
    ):
        await anext(reply.aiter_lines())

    async def is_free() -> bool:
        return bool((await subject.status())["leases"] == 0)

    await until(is_free)
    assert (await subject.chat(max_tokens=3)).error is None


@point
async def it_stops_within_its_plan_while_a_stream_runs(subject: Subject) -> str:
    """The stream's time to end by itself passes (the drain deadline), and it is told that it was in the way."""
    _only_if_started(subject)
    await subject.load()
    pid = (await subject.status())["pid"]
    stream = asyncio.ensure_future(subject.chat(**subject.endless))  # noqa: TID251 - awaited below
    await subject.when(lambda status: status["leases"] == 1)
    began = time.monotonic()
    async with asyncio.timeout(subject.stop_s):
        await subject.unload()
    took_s = time.monotonic() - began
    events = await stream
    assert events.error is not None, f"the stream ended by itself: {events.text[-40:]}"
    assert events.error["code"] == "preempted", events.error
    assert events.done
    assert subject.keeps_server or not is_alive(pid), "its process is still there"
    return f"{took_s:.1f} s, the drain deadline included"


@point
async def a_load_can_be_given_up(subject: Subject) -> None:
    _only_if_started(subject)
    await subject.unload()
    waiting = asyncio.ensure_future(subject.chat())  # noqa: TID251 - cancelled below
    await subject.when(lambda status: status["state"] == "starting" and bool(status["pid"]))
    pid = (await subject.status())["pid"]
    waiting.cancel()  # whoever still waited would have it loaded again
    await asyncio.gather(waiting, return_exceptions=True)
    await subject.unload()
    assert (await subject.status())["state"] == "unloaded"
    assert subject.keeps_server or not is_alive(pid), "its process is still there"


@point
async def a_crash_while_idle_is_noticed_and_leaves_nothing(subject: Subject) -> None:
    _only_if_started(subject)
    await subject.load()
    pid = (await subject.status())["pid"]
    os.kill(pid, signal.SIGKILL)
    await subject.when(lambda status: status["pid"] != pid, timeout_s=20)

    async def is_clean() -> bool:
        return not subject.left()

    await until(is_clean, 20)
    assert (await subject.chat()).text == subject.answer


@point
async def a_crash_before_the_first_token_is_unseen(subject: Subject) -> str:
    _only_if_started(subject)
    await subject.load()
    return await _killed_before_the_first_token(subject, (await subject.status())["pid"])


@point
async def a_crash_of_its_worker_before_the_first_token_is_unseen(subject: Subject) -> str:
    """The process that answers lives on for a while, and has its own way to say that the other one is gone."""
    _only_if_started(subject)
    if subject.worker is None:
        raise CannotRunError("it is one process")
    await subject.load()
    server = (await subject.status())["pid"]
    (worker,) = (pid for pid in subject.left() if _is_called(pid, subject.worker))
    try:
        return await _killed_before_the_first_token(subject, worker)
    finally:  # else the next point meets a server that is about to end
        await subject.when(lambda status: status["pid"] != server, 30)


async def _killed_before_the_first_token(subject: Subject, pid: int) -> str:
    os.kill(pid, signal.SIGSTOP)
    waiting = asyncio.ensure_future(subject.chat(**subject.late))  # noqa: TID251 - awaited below
    await subject.when(lambda status: status["leases"] == 1)
    await asyncio.sleep(0.3)  # nothing says that the engine has read the request
    began = time.monotonic()
    os.kill(pid, signal.SIGKILL)
    events = await waiting
    took_s = time.monotonic() - began
    assert events.error is None, events.error
    assert events.text == subject.answer, events.text
    return f"{took_s:.1f} s from the kill to the end of the answer"


def _is_called(pid: int, begin: str) -> bool:
    """In `ps`, or in `top`: engines set the one or the other."""
    names = (Path(f"/proc/{pid}/{file}").read_text(errors="replace") for file in ("cmdline", "comm"))
    return any(name.startswith(begin) for name in names)


@point
async def a_crash_in_a_stream_ends_it_with_an_error(subject: Subject) -> None:
    _only_if_started(subject)
    await subject.load()
    pid = (await subject.status())["pid"]
    stream = asyncio.ensure_future(subject.chat(**subject.endless))  # noqa: TID251 - awaited below
    await subject.when(lambda status: status["leases"] == 1)
    await asyncio.sleep(0.3)  # nothing says that the first token is out
    os.kill(pid, signal.SIGKILL)
    events = await stream
    assert events.done
    assert not events.broken
    assert events.error is None or events.error["code"] == "upstream_lost", events.error
    assert (await subject.chat()).text == subject.answer


@point
async def it_outlives_a_router_that_is_killed(subject: Subject) -> None:
    _only_if_started(subject)
    await subject.load()
    pid = (await subject.status())["pid"]
    await subject.router.kill()
    assert is_alive(pid)
    await subject.router.start()
    assert (await subject.chat()).text == subject.answer
    assert (await subject.status())["pid"] == pid


@point
@slow
async def a_hang_is_noticed_and_what_has_not_begun_is_asked_again(subject: Subject) -> str:
    """One request has part of its answer, which is told; another has nothing, which is answered after all."""
    _only_if_started(subject)
    await subject.load()
    pid = (await subject.status())["pid"]
    begun = asyncio.ensure_future(subject.router.chat(subject.model, **subject.endless))  # noqa: TID251
    await subject.when(lambda status: status["leases"] == 1)
    await asyncio.sleep(0.3)  # nothing says that the first token is out
    os.kill(pid, signal.SIGSTOP)
    began = time.monotonic()
    async with asyncio.timeout(90 + 2 * subject.load_s):
        whole, broken = await asyncio.gather(subject.router.chat(subject.model), begun)
    took_s = time.monotonic() - began
    assert not is_alive(pid), "the process that hangs is still there"
    assert whole.error is None, whole.error
    assert whole.text == subject.answer, whole.text
    assert broken.done
    assert broken.error is not None, f"it ended by itself: {broken.text[-40:]}"
    assert broken.error["code"] == "upstream_lost", broken.error
    return f"{took_s:.1f} s from the hang to the end of the answer"


@point
@slow
async def a_hang_while_it_loads_is_noticed_and_told(subject: Subject) -> str:
    _only_if_started(subject)
    for _ in range(10):
        await subject.unload()
        loading = asyncio.ensure_future(subject.post("/admin/load", {"model": subject.model}))  # noqa: TID251
        pid = (await subject.when(lambda status: bool(status["pid"])))["pid"]
        os.kill(pid, signal.SIGSTOP)
        began = time.monotonic()
        async with asyncio.timeout(subject.stall_s + 60):
            reply = await loading
        took_s = time.monotonic() - began
        if "hangs while loading" in reply.text:
            break
        os.kill(pid, signal.SIGCONT)
        assert json.loads(reply.text.splitlines()[-1]).get("ready"), reply.text[-400:]
    else:
        raise CannotRunError("it is ready before it can be stopped")
    assert not is_alive(pid), "the process that hangs is still there"
    assert not subject.left(), "something of it is left"
    await subject.load()
    assert (await subject.chat()).text == subject.answer
    return f"{took_s:.1f} s, with a stall_timeout of {subject.stall_s:g} s"
