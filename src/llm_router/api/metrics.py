"""`GET /metrics`: what Prometheus reads. Counterparts: `runtime.tally` and `runtime.switches`, which count; the
scheduler's snapshot, which says what is true now.

Everything is read at the scrape. What each metric means stands here once: the reference page is held against it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import accumulate

from fastapi import APIRouter, Request, Response
from prometheus_client import CollectorRegistry, Metric, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, InfoMetricFamily
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from llm_router import __version__
from llm_router.api.admin import Admin
from llm_router.api.catalog import Catalog
from llm_router.core.views import InstanceState
from llm_router.runtime.status import DeviceStatus
from llm_router.runtime.supervisor import Supervisor
from llm_router.runtime.switches import Switches
from llm_router.runtime.tally import Histogram, ModelTally, Requests

_MIB = 1024**2
_STATES = ("unloaded", *(state.value for state in InstanceState), "failed")


class Metrics(Collector):
    """Implements `prometheus_client`'s collector. `catalog`: the models that are told of before anything happens.
    `admin`: knows what became of the last reload."""

    def __init__(self, supervisor: Supervisor, catalog: Catalog, admin: Admin) -> None:
        self._supervisor = supervisor
        self._catalog = catalog
        self._admin = admin
        self._registry = CollectorRegistry()
        self._registry.register(self)
        ProcessCollector(registry=self._registry)

    def routes(self) -> APIRouter:
        router = APIRouter(tags=["metrics"])
        router.get("/metrics")(self.metrics)
        return router

    async def metrics(self, request: Request) -> Response:
        """Counters, gauges and histograms in Prometheus's text format, or in OpenMetrics where it is asked for."""
        encode, content_type = choose_encoder(request.headers.get("accept", ""))
        return Response(encode(self._registry), headers={"content-type": content_type})

    def describe(self) -> Iterable[Metric]:
        """Nothing: what can be collected is only known once the router runs."""
        return ()

    def collect(self) -> Iterator[Metric]:
        names = tuple(self._catalog.entries)
        yield InfoMetricFamily("llm_router_build", "The router's version.", {"version": __version__})
        problems = () if self._admin.reloading is None else self._admin.reloading.problems
        yield GaugeMetricFamily(
            "llm_router_config_problems", "Problems of the configuration's file, as it was read last.", len(problems)
        )
        yield from requests(self._supervisor.requests, names)
        yield from switches(self._supervisor.switches, names)
        yield from self._now(names)
        yield from devices(self._supervisor.devices())

    def _now(self, names: Iterable[str]) -> Iterator[Metric]:
        """What the models do now."""
        snapshot = self._supervisor.handle.scheduler.snapshot()
        instances = {instance.model: instance for instance in snapshot.instances}
        waiting = GaugeMetricFamily(
            "llm_router_waiting_requests", "Requests that wait for their model.", None, ["model"]
        )
        leases = GaugeMetricFamily(
            "llm_router_open_leases", "Requests that their model's server works on.", None, ["model"]
        )
        states = GaugeMetricFamily(
            "llm_router_instance_state",
            "1 for the state that a model is in, 0 for all others.",
            None,
            ["model", "state"],
        )
        held = GaugeMetricFamily(
            "llm_router_model_memory_held_bytes",
            "Memory that a model's server was seen to hold.",
            None,
            ["model", "device"],
        )
        for name in names:
            instance = instances.get(name)
            state = "failed" if name in snapshot.failing else "unloaded"
            if instance is not None:
                state = instance.state.value
                for device, mib in self._supervisor.held_mib(instance.id).items():
                    held.add_metric([name, device], mib * _MIB)
            waiting.add_metric([name], snapshot.waiting.get(name, 0))
            leases.add_metric([name], 0 if instance is None else instance.leases)
            for known in _STATES:
                states.add_metric([name, known], known == state)
        yield from (waiting, leases, states, held)


def requests(found: Requests, names: Iterable[str]) -> Iterator[Metric]:
    """Of all models that were asked for, and of `names` where nothing was."""
    tallies: Mapping[str, ModelTally] = {**{name: ModelTally() for name in names}, **found.models}
    total = CounterMetricFamily(
        "llm_router_requests", "Requests that are over, by how they ended.", None, ["model", "kind", "outcome"]
    )
    prompts = CounterMetricFamily("llm_router_prompt_tokens", "Tokens of prompts.", None, ["model"])
    completions = CounterMetricFamily("llm_router_completion_tokens", "Tokens of answers.", None, ["model"])
    replays = CounterMetricFamily(
        "llm_router_replays", "Requests that were sent again because their server broke off.", None, ["model"]
    )
    for name, tally in tallies.items():
        for kind, outcome, count in tally.requests():
            total.add_metric([name, kind.value, outcome], count)
        prompts.add_metric([name], tally.prompt_tokens)
        completions.add_metric([name], tally.completion_tokens)
        replays.add_metric([name], tally.replays)
    yield from (total, prompts, completions, replays)
    busy = {name: tally for name, tally in tallies.items() if any(tally.requests())}
    yield _histograms(
        "llm_router_request_duration_seconds",
        "From the whole request to the end of the reply.",
        "model",
        {name: tally.durations for name, tally in busy.items()},
    )
    yield _histograms(
        "llm_router_queue_wait_seconds",
        "From the whole request until it was sent to its model's server: queue and switch.",
        "model",
        {name: tally.waits for name, tally in busy.items()},
    )
    yield _histograms(
        "llm_router_time_to_first_token_seconds",
        "From the whole request to the first token of a stream.",
        "model",
        {name: tally.first_tokens for name, tally in busy.items()},
    )
    yield _histograms(
        "llm_router_tokens_per_second",
        "Speed of streamed answers, as their performance line says it.",
        "model",
        {name: tally.rates for name, tally in busy.items()},
    )


def switches(found: Switches, names: Iterable[str]) -> Iterator[Metric]:
    loads = CounterMetricFamily(
        "llm_router_switches", "Starts of models that are over, by how they ended.", None, ["model", "outcome"]
    )
    for (model, loaded), count in found.loads.items():
        loads.add_metric([model, loaded.value], count)
    evictions = CounterMetricFamily(
        "llm_router_evictions", "Times that a model had to leave for another one.", None, ["model"]
    )
    crashes = CounterMetricFamily(
        "llm_router_crashes", "Times that a ready model's server ended by itself or had to be ended.", None, ["model"]
    )
    wakes = CounterMetricFamily(
        "llm_router_wakes", "Times that a parked model was woken, by how that ended.", None, ["model", "outcome"]
    )
    for (model, woken), count in found.wakes.items():
        wakes.add_metric([model, woken.value], count)
    parks = CounterMetricFamily(
        "llm_router_parks", "Times that a model was parked because nobody used it.", None, ["model"]
    )
    for name in names:
        parks.add_metric([name], found.parks[name])
        evictions.add_metric([name], found.evictions[name])
        crashes.add_metric([name], found.crashes[name])
    yield from (loads, wakes, parks, evictions, crashes)
    yield _histograms(
        "llm_router_switch_phase_seconds",
        "How long the parts of switches took.",
        "phase",
        {phase.value: histogram for phase, histogram in found.phases.items()},
    )


def devices(statuses: Iterable[DeviceStatus]) -> Iterator[Metric]:
    def gauge(name: str, text: str, *labels: str) -> GaugeMetricFamily:
        return GaugeMetricFamily(f"llm_router_{name}_bytes", text, None, labels)

    budget = gauge("device_memory_budget", "Memory that models may use.", "device")
    total = gauge("device_memory_total", "Memory that the device has.", "device")
    free = gauge("device_memory_free", "Memory that nobody holds.", "device")
    held = gauge("device_memory_held", "Memory that models were seen to hold.", "device")
    reserved = gauge("model_memory_reserved", "Memory that is kept for a model.", "model", "device")
    for status in statuses:
        for family, mib in (
            (budget, status.budget_mib),
            (total, status.total_mib),
            (free, status.free_mib),
            (held, status.held_mib),
        ):
            if mib is not None:
                family.add_metric([status.device], mib * _MIB)
        for model, mib in status.reserved_mib.items():
            kept = status.budget_mib if mib is None else mib
            if kept is not None:
                reserved.add_metric([model, status.device], kept * _MIB)
    yield from (budget, total, free, held, reserved)


def _histograms(name: str, text: str, label: str, found: Mapping[str, Histogram]) -> HistogramMetricFamily:
    family = HistogramMetricFamily(name, text, labels=[label])
    for value, histogram in found.items():
        sums = accumulate(histogram.counts)
        bounds = (*map(str, histogram.bounds), "+Inf")
        family.add_metric([value], list(zip(bounds, sums, strict=True)), histogram.total)
    return family
