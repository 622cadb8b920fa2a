"""A fake inference server that costs little and says exactly when it did what.

Counterpart: `load`, which reads the send time that every chunk carries, and `switch`, which reads the mark file.
It speaks as much HTTP/1.1 as proxies need of an OpenAI-compatible server; it checks nothing and generates nothing.

In a request's body `max_tokens` (or `max_completion_tokens`, which some proxies make of it) is the number of content
chunks and `seed` the microseconds between them (without `stream`: before the reply). The first chunk is sent at once,
the end one gap after the last. A content chunk holds `~T` and 19 digits: the CLOCK_MONOTONIC nanoseconds at which it
was written.

With `--startup-s S`, `/health` answers 503 (with `--refuse`: nothing listens) until S seconds after the program's first
line. With `--mark FILE`, three lines are appended, `EVENT SECONDS MODEL PID` in CLOCK_MONOTONIC seconds:

    start   the process was created: the latest moment that the kernel's own record allows (see `_created_ns`)
    code    the program's first line ran
    ready   from here on `/health` answers 200

An epoll loop of its own rather than an event loop library: the program is up in 20 ms instead of 100, one request
costs about as much as it would on uvloop, and `select` on the epoll descriptor gives the microsecond pace that
millisecond timers can't.
"""

from __future__ import annotations

import time

FIRST_LINE_NS = time.monotonic_ns()
_CPU_BEFORE_NS = time.process_time_ns()

import os  # noqa: E402 - the first line's time comes before what imports cost
import select  # noqa: E402
import socket  # noqa: E402
import sys  # noqa: E402
from heapq import heappop, heappush  # noqa: E402

_READ_BYTES = 65_536  # more, and every read would map fresh memory
_GOLDEN = 0.6180339887  # multiples of it, modulo 1, spread any number of streams evenly
_ID = '"id":"chatcmpl-0123456789abcdef01234567"'
_ANSWER = (
    "The quick brown fox jumps over the lazy dog while the small model answers with a fixed text of a plausible size, "
    "so that a proxy has something to carry back to its client."
)
_STREAM_HEAD = (
    b"HTTP/1.1 200 OK\r\nServer: fake\r\nContent-Type: text/event-stream; charset=utf-8\r\n"
    b"Cache-Control: no-cache\r\nTransfer-Encoding: chunked\r\n\r\n"
)
_DONE = b"e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n"
_LOADING = b'{"error":{"message":"Loading model","type":"unavailable_error","code":503}}'
_NO_PATH = b'{"error":{"message":"no such path","type":"not_found","code":404}}'


class Connection:
    """One client. `unsent` holds what the socket didn't take; while it holds anything, the reply waits."""

    __slots__ = ("closed", "due_ns", "fd", "gap_ns", "inbox", "left", "replying", "sock", "total", "unsent", "usage")

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.fd = sock.fileno()
        self.inbox = b""
        self.unsent = b""
        self.closed = False
        self.replying = False  # a stream or a delayed reply is under way
        self.usage = False
        self.total = self.left = self.gap_ns = self.due_ns = 0


class Upstream:
    """Serves until it is killed. `spread`: shorten the first gap of each stream so that streams don't march in step."""

    def __init__(self, model: str, ready_ns: int, *, spread: bool) -> None:
        self._ready_ns = ready_ns
        self._spread = spread
        self._epoll = select.epoll()
        self._connections: dict[int, Connection] = {}
        self._timers: list[tuple[int, int, Connection]] = []
        self._requests = self._streams = self._chunks = self._aborted = 0
        self._models = f'{{"object":"list","data":[{{"id":"{model}","object":"model","owned_by":"fake"}}]}}'.encode()
        head = f'"object":"chat.completion.chunk","created":1760000000,"model":"{model}"'
        self._before = f'data: {{{_ID},{head},"choices":[{{"index":0,"delta":{{"content":"~T'.encode()
        self._after = b' ~"},"finish_reason":null}]}\n\n\r\n'
        size = len(self._before) + 19 + len(self._after) - 2
        self._before = b"%x\r\n" % size + self._before
        timings = '"prompt_n":212,"prompt_ms":21.2,"predicted_n":%d,"predicted_ms":%d.0,"predicted_per_second":100.0'
        finish = f'"choices":[{{"index":0,"delta":{{}},"finish_reason":"stop"}}],"timings":{{{timings}}}'
        self._finish = f"data: {{{_ID},{head},{finish}}}\n\n"
        usage = '"prompt_tokens":212,"completion_tokens":%d,"total_tokens":%d'
        self._usage = f'data: {{{_ID},{head},"choices":[],"usage":{{{usage}}}}}\n\n'
        message = f'{{"index":0,"message":{{"role":"assistant","content":"{_ANSWER}"}},"finish_reason":"stop"}}'
        figures = '"usage":{"prompt_tokens":212,"completion_tokens":36,"total_tokens":248}'
        body = (
            f'{{{_ID},"object":"chat.completion","created":1760000000,"model":"{model}","choices":[{message}],{figures}'
        )
        body += f',"system_fingerprint":"{"fp".ljust(max(3, 600 - len(body) - 25), "_")}"}}'
        self._full = _reply(b"200 OK", body.encode())

    def serve(self, listener: socket.socket) -> None:
        """Runs until the process is ended by a signal."""
        listening = listener.fileno()
        epoll, timers, connections = self._epoll, self._timers, self._connections
        epoll.register(listening, select.EPOLLIN)
        watched = [epoll.fileno()]
        while True:
            if timers:
                wait_ns = timers[0][0] - time.monotonic_ns()
                if wait_ns > 0:
                    select.select(watched, [], [], wait_ns / 1e9)
                events = epoll.poll(0)
            else:
                events = epoll.poll()
            for fd, mask in events:
                if fd == listening:
                    self._accept(listener)
                    continue
                connection = connections.get(fd)
                if connection is None:
                    continue
                if mask & select.EPOLLOUT:
                    self._flush(connection)
                if mask & ~select.EPOLLOUT and not connection.closed:
                    self._read(connection)
            now = time.monotonic_ns()
            while timers and timers[0][0] <= now:
                connection = heappop(timers)[2]
                if not connection.closed:
                    self._go_on(connection)

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                sock, _ = listener.accept()
            except BlockingIOError:
                return
            sock.setblocking(False)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._connections[sock.fileno()] = Connection(sock)
            self._epoll.register(sock.fileno(), select.EPOLLIN)

    def _close(self, connection: Connection) -> None:
        self._aborted += connection.replying
        connection.closed = True
        del self._connections[connection.fd]
        connection.sock.close()  # also leaves the epoll set

    def _read(self, connection: Connection) -> None:
        try:
            data = os.read(connection.fd, _READ_BYTES)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._close(connection)
            return
        connection.inbox = connection.inbox + data if connection.inbox else data
        self._take_requests(connection)

    def _take_requests(self, connection: Connection) -> None:
        while connection.inbox and not connection.replying and not connection.closed:
            whole = _first_request(connection.inbox)
            if whole is None:
                return
            line, body, size = whole
            connection.inbox = connection.inbox[size:]
            self._answer(connection, line, body)

    def _answer(self, connection: Connection, line: bytes, body: bytes) -> None:
        ready = time.monotonic_ns() >= self._ready_ns
        if b"/chat/completions" in line and ready:
            self._requests += 1
            connection.gap_ns = _number(body, b'"seed"', 0) * 1000
            if body.find(b'"stream"') >= 0 and _follows(body, b'"stream"', b"true"):
                self._begin_stream(connection, body)
            elif connection.gap_ns:
                connection.replying, connection.left = True, -1
                self._arm(connection, time.monotonic_ns() + connection.gap_ns)
            else:
                self._put(connection, self._full)
        elif b" /health" in line:
            self._put(connection, _reply(b"200 OK", b'{"status":"ok"}') if ready else _reply(b"503 Loading", _LOADING))
        elif not ready:
            self._put(connection, _reply(b"503 Loading", _LOADING))
        elif b" /v1/models" in line:
            self._put(connection, _reply(b"200 OK", self._models))
        elif b" /stats" in line:
            counts = (self._requests, self._streams, self._chunks, self._aborted)
            text = b'{"requests":%d,"streams":%d,"chunks":%d,"aborted":%d}' % counts
            self._put(connection, _reply(b"200 OK", text))
        else:
            self._put(connection, _reply(b"404 Not Found", _NO_PATH))

    def _begin_stream(self, connection: Connection, body: bytes) -> None:
        self._streams += 1
        wanted = _number(body, b'"max_tokens"', 0) or _number(body, b'"max_completion_tokens"', 200)
        connection.total = connection.left = wanted
        connection.usage = b'"include_usage"' in body and _follows(body, b'"include_usage"', b"true")
        connection.replying = True
        connection.due_ns = time.monotonic_ns()
        if self._spread:
            connection.due_ns -= int(connection.gap_ns * (self._streams * _GOLDEN % 1))
        self._put(connection, _STREAM_HEAD)
        if not connection.closed:
            self._go_on(connection)

    def _go_on(self, connection: Connection) -> None:
        """Writes what is due: one chunk and a timer, or without a gap as many chunks as the socket takes."""
        if connection.unsent and not connection.gap_ns:
            return  # `_flush` goes on when it is gone
        if connection.left < 0:
            connection.replying = False
            self._put(connection, self._full)
            self._take_requests(connection)
            return
        while connection.left:
            connection.left -= 1
            self._chunks += 1
            fits = self._put(connection, b"%s%019d%s" % (self._before, time.monotonic_ns(), self._after))
            if connection.gap_ns and not connection.closed:
                connection.due_ns += connection.gap_ns
                self._arm(connection, connection.due_ns)
                return
            if not fits:
                return
        self._end_stream(connection)

    def _end_stream(self, connection: Connection) -> None:
        total = connection.total
        events = [self._finish % (total, total * 10)]
        if connection.usage:
            events.append(self._usage % (total, total + 212))
        connection.replying = False
        for event in events:
            if not connection.closed:
                self._put(connection, b"%x\r\n%s\r\n" % (len(event), event.encode()))
        if not connection.closed:
            self._put(connection, _DONE)
        self._take_requests(connection)

    def _arm(self, connection: Connection, due_ns: int) -> None:
        heappush(self._timers, (due_ns, connection.fd, connection))

    def _put(self, connection: Connection, data: bytes) -> bool:
        """Writes now, keeps what the socket doesn't take. True: all of it is gone."""
        if connection.unsent:
            connection.unsent += data
            return False
        try:
            sent = os.write(connection.fd, data)
        except BlockingIOError:
            sent = 0
        except OSError:
            self._close(connection)
            return False
        if sent == len(data):
            return True
        connection.unsent = data[sent:]
        self._epoll.modify(connection.fd, select.EPOLLIN | select.EPOLLOUT)
        return False

    def _flush(self, connection: Connection) -> None:
        data, connection.unsent = connection.unsent, b""
        self._epoll.modify(connection.fd, select.EPOLLIN)
        if data and self._put(connection, data) and connection.replying and not connection.gap_ns:
            self._go_on(connection)


def _reply(status: bytes, body: bytes) -> bytes:
    head = b"HTTP/1.1 %s\r\nServer: fake\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
    return head % (status, len(body)) + body


def _first_request(inbox: bytes) -> tuple[bytes, bytes, int] | None:
    """Request line, body and size in bytes of the first whole request; None: more must come."""
    end = inbox.find(b"\r\n\r\n")
    if end < 0:
        return None
    head = inbox[: end + 2].lower()
    body_at = end + 4
    line = head[: head.find(b"\r\n")]
    if b"\r\ntransfer-encoding: chunked\r\n" in head:
        stop = inbox.find(b"0\r\n\r\n", body_at)  # our own clients never send these bytes inside a body
        return None if stop < 0 else (line, inbox[body_at:stop], stop + 5)
    at = head.find(b"\r\ncontent-length:")
    size = body_at if at < 0 else body_at + int(head[at + 17 : head.find(b"\r\n", at + 17)])
    return None if len(inbox) < size else (line, inbox[body_at:size], size)


def _number(body: bytes, key: bytes, default: int) -> int:
    at = body.find(key)
    if at < 0:
        return default
    digits = body[at + len(key) : at + len(key) + 24].lstrip(b" :")
    end = 0
    while end < len(digits) and 48 <= digits[end] <= 57:
        end += 1
    return int(digits[:end]) if end else default


def _follows(body: bytes, key: bytes, value: bytes) -> bool:
    at = body.find(key) + len(key)
    return body[at : at + 16].lstrip(b" :").startswith(value)


def _created_ns() -> int:
    """When this process was created, CLOCK_MONOTONIC nanoseconds: the latest moment that the evidence allows.

    The kernel tells it in ticks of 10 ms, so it lies in the tick that follows; and it can't be later than the first
    line less the CPU time spent before it. Too late a moment makes the backend's own time short and so the router's
    share long: the error is never in the router's favour.
    """
    file = os.open("/proc/self/stat", os.O_RDONLY)
    fields = os.read(file, 4096).rpartition(b")")[2].split()
    os.close(file)
    tick_ns = 1_000_000_000 // os.sysconf("SC_CLK_TCK")
    slept_ns = time.clock_gettime_ns(time.CLOCK_BOOTTIME) - time.monotonic_ns()
    by_kernel = int(fields[19]) * tick_ns + tick_ns - slept_ns
    return min(by_kernel, FIRST_LINE_NS - _CPU_BEFORE_NS)


def main(arguments: list[str]) -> int:
    options = {"--port": "", "--model": "fake-model", "--startup-s": "0", "--mark": "", "--refuse": "", "--spread": ""}
    rest = list(arguments)
    while rest:  # argparse would cost more than the rest of the start
        name = rest.pop(0)
        if name not in options:
            print(
                f'cannot start the fake upstream: no option "{name}"; there are {", ".join(options)}', file=sys.stderr
            )
            return 2
        options[name] = "yes" if name in ("--refuse", "--spread") else rest.pop(0)
    model, mark = options["--model"], options["--mark"]
    startup_ns = int(float(options["--startup-s"]) * 1e9)

    def note(event: str, at_ns: int) -> None:
        if mark:
            line = f"{event} {at_ns / 1e9:.6f} {model} {os.getpid()}\n".encode()
            target = os.open(mark, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
            os.write(target, line)
            os.close(target)

    note("start", _created_ns())
    note("code", FIRST_LINE_NS)
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(("127.0.0.1", int(options["--port"])))
    upstream = Upstream(model, FIRST_LINE_NS + startup_ns, spread=bool(options["--spread"]))
    if options["--refuse"]:
        time.sleep(max(0, FIRST_LINE_NS + startup_ns - time.monotonic_ns()) / 1e9)
    listener.listen(1024)
    listener.setblocking(False)
    note("ready", max(time.monotonic_ns(), FIRST_LINE_NS + startup_ns))
    upstream.serve(listener)
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except KeyboardInterrupt:
        sys.exit(0)
