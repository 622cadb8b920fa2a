"""What the relay tells about each request when it is over. Implemented by `runtime.tally`, which counts it, and by
`runtime.traces`."""

from __future__ import annotations

from typing import NamedTuple, Protocol

from llm_router.relay.headers import RequestHead
from llm_router.relay.lease import Upstream
from llm_router.relay.request import Kind

COMPLETED, CANCELLED, SERVER_REFUSED, UPSTREAM_ERROR = "completed", "cancelled", "server_refused", "upstream_error"


class Ended(NamedTuple):  # a frozen dataclass would take three times as long to make
    """A request that is over. Times are monotonic seconds, counts are tokens.

    `model`: its canonical name; "" where the request named none that there is. `outcome`: `COMPLETED`; `CANCELLED`: the
    client left; `SERVER_REFUSED`: the inference server answered with an error of the client's making, `UPSTREAM_ERROR`:
    with one of its own; else the code of the router's error.
    `since`: the request was here, whole; `sent_at`: it went to the server, 0.0: never; `first_at`: the first token of a
    stream came, 0.0: none did; `now`: it is over. Counts are 0 where nobody counts. `rate`: tokens a second of a
    stream, 0.0: unknown. `client`: its headers. `upstream`: the server it was granted last; None: it never was.
    """

    model: str
    kind: Kind
    outcome: str
    since: float
    sent_at: float
    first_at: float
    now: float
    prompt_n: int
    completion_n: int
    rate: float
    client: RequestHead
    upstream: Upstream | None


class Recorder(Protocol):
    """Called on the hot path: it only counts or notes, and may not fail."""

    def ended(self, request: Ended) -> None:
        """A request is over, and its client has all that it gets."""

    def replayed(self, model: str) -> None:
        """The server broke off before the client had anything of its answer, so it is asked once more."""
