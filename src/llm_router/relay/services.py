"""What all requests share on their way. Counterpart: `exchange`, of which each has one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from llm_router.errors import LlmRouterError
from llm_router.relay.gate import Gate
from llm_router.relay.headers import Headers
from llm_router.relay.lease import Dispatcher
from llm_router.relay.pool import Pool
from llm_router.relay.recorder import Recorder
from llm_router.relay.request import Model, Preferences


@dataclass(slots=True, kw_only=True)
class Services:
    """What all exchanges share; `preferences` and `gate` may be replaced while they run. `models` finds one by each of
    its names. `render` makes an HTTP reply of an error. `recorder`: hears of each request that is over; None: nobody
    does."""

    dispatcher: Dispatcher
    pool: Pool
    models: Mapping[str, Model]
    render: Callable[[LlmRouterError], tuple[int, Headers, bytes]]
    preferences: Preferences
    gate: Gate | None = None
    recorder: Recorder | None = None
