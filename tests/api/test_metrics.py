"""What Prometheus reads: valid in both formats, true, and as documented; the dashboard asks only for what there is."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from fastapi import FastAPI
from prometheus_client import Metric
from prometheus_client.openmetrics.parser import text_string_to_metric_families as read_openmetrics
from prometheus_client.parser import text_string_to_metric_families as read_text
from starlette.testclient import TestClient

from llm_router.api.catalog import Catalog, Entry
from llm_router.api.metrics import Metrics
from llm_router.backends.base import Facts
from llm_router.core.events import InstanceReady, RequestArrived
from llm_router.core.scheduler import Scheduler
from llm_router.core.specs import ModelSpec, PolicySpec
from llm_router.relay.headers import RequestHead
from llm_router.relay.recorder import Ended
from llm_router.relay.request import Kind
from llm_router.runtime.status import DeviceStatus
from llm_router.runtime.switches import Switches
from llm_router.runtime.tally import Requests

DOCS = Path(__file__).parents[2] / "docs"
REFERENCE = DOCS / "reference" / "metrics.md"
DASHBOARD = DOCS / "grafana-dashboard.json"
GIB = 1024**3


def entry(name: str) -> Entry:
    return Entry(
        name=name,
        backend="llamacpp",
        title=name,
        description=None,
        aliases=(),
        capabilities=(),
        context_length=None,
        hidden=False,
    )


class Router:
    """Two models, of which "a" is ready with one request running and one that ended, and "b" waits for its room."""

    def __init__(self) -> None:
        self.at = 100.0
        scheduler = Scheduler(
            {name: ModelSpec(name=name, footprint_mib=800) for name in ("a", 'b "2"')}, PolicySpec(budgets={"0": 1024})
        )
        self.requests = Requests()
        self.switches = Switches(now=lambda: self.at, decisions=scheduler.decisions, room_s=lambda _: 0.25)
        self.handle = SimpleNamespace(scheduler=scheduler)
        for event in (RequestArrived(at=100.0, request=1, model="a"), InstanceReady(at=104.0, instance=1)):
            for command in scheduler.handle(event):
                self.switches.commanded(command)
            self.at = event.at + 4.0
            if isinstance(event, InstanceReady):
                self.switches.reported(event)
        scheduler.handle(RequestArrived(at=105.0, request=2, model='b "2"'))
        self.requests.ended(
            Ended("a", Kind.CHAT, "completed", 100.0, 104.0, 105.5, 107.0, 12, 30, 45.0, RequestHead([]), None)
        )
        self.requests.ended(
            Ended("a", Kind.EMBEDDING, "cancelled", 100.0, 0.0, 0.0, 100.25, 0, 0, 0.0, RequestHead([]), None)
        )
        self.requests.ended(
            Ended("", Kind.CHAT, "model_not_found", 100.0, 0.0, 0.0, 100.0, 0, 0, 0.0, RequestHead([]), None)
        )
        self.requests.replayed("a")
        self.catalog = Catalog([entry("a"), entry('b "2"')], scheduler, lambda _: Facts(), 0)

    def devices(self) -> list[DeviceStatus]:
        status = DeviceStatus(
            device="0",
            title="RTX",
            budget_mib=1024,
            reserved_mib={"a": None},
            total_mib=2048,
            free_mib=512,
            held_mib=None,
            is_there=True,
        )
        return [status]

    def held_mib(self, instance: int) -> Mapping[str, int]:
        return {"0": 512}


def metrics_of(router: Router) -> Metrics:
    admin = SimpleNamespace(reloading=SimpleNamespace(problems=["a mistake"]))
    return Metrics(cast("Any", router), router.catalog, cast("Any", admin))


@pytest.fixture
def client() -> TestClient:
    app = FastAPI()
    app.include_router(metrics_of(Router()).routes())
    return TestClient(app)


def samples(families: Iterable[Metric]) -> dict[str, float]:
    """By name with labels, as it is written."""
    found = {}
    for family in families:
        for sample in family.samples:
            labels = ",".join(f"{key}={value}" for key, value in sorted(sample.labels.items()))
            found[f"{sample.name}{{{labels}}}"] = sample.value
    return found


def test_it_is_in_the_text_format_unless_another_is_asked_for(client: TestClient) -> None:
    reply = client.get("/metrics")
    assert reply.headers["content-type"].startswith("text/plain; version=")
    assert "llm_router_build_info" in reply.text
    list(read_text(reply.text))


def test_openmetrics_is_there_for_who_asks(client: TestClient) -> None:
    reply = client.get("/metrics", headers={"accept": "application/openmetrics-text; version=1.0.0"})
    assert reply.headers["content-type"].startswith("application/openmetrics-text")
    families = {family.name for family in read_openmetrics(reply.text)}
    assert "llm_router_requests" in families


def test_it_tells_what_happened(client: TestClient) -> None:
    found = samples(read_text(client.get("/metrics").text))
    assert (
        found.items()
        >= {
            "llm_router_requests_total{kind=chat,model=a,outcome=completed}": 1,
            "llm_router_requests_total{kind=embedding,model=a,outcome=cancelled}": 1,
            "llm_router_requests_total{kind=chat,model=,outcome=model_not_found}": 1,
            "llm_router_prompt_tokens_total{model=a}": 12,
            "llm_router_completion_tokens_total{model=a}": 30,
            "llm_router_replays_total{model=a}": 1,
            "llm_router_request_duration_seconds_count{model=a}": 2,
            "llm_router_request_duration_seconds_sum{model=a}": 7.25,
            "llm_router_queue_wait_seconds_count{model=a}": 1,
            "llm_router_queue_wait_seconds_sum{model=a}": 4,
            "llm_router_time_to_first_token_seconds_bucket{le=5.0,model=a}": 0,
            "llm_router_time_to_first_token_seconds_bucket{le=10.0,model=a}": 1,
            "llm_router_tokens_per_second_sum{model=a}": 45,
            "llm_router_switches_total{model=a,outcome=ready}": 1,
            "llm_router_switch_phase_seconds_count{phase=load}": 1,
        }.items()
    )


def test_it_tells_what_is_true_now(client: TestClient) -> None:
    found = samples(read_text(client.get("/metrics").text))
    assert (
        found.items()
        >= {
            "llm_router_config_problems{}": 1,
            "llm_router_open_leases{model=a}": 1,
            'llm_router_waiting_requests{model=b "2"}': 1,
            "llm_router_instance_state{model=a,state=ready}": 1,
            "llm_router_instance_state{model=a,state=unloaded}": 0,
            'llm_router_instance_state{model=b "2",state=unloaded}': 1,
            "llm_router_device_memory_budget_bytes{device=0}": GIB,
            "llm_router_device_memory_total_bytes{device=0}": 2 * GIB,
            "llm_router_device_memory_free_bytes{device=0}": GIB / 2,
            "llm_router_model_memory_held_bytes{device=0,model=a}": GIB / 2,
            "llm_router_model_memory_reserved_bytes{device=0,model=a}": GIB,
        }.items()
    )
    assert "llm_router_device_memory_held_bytes{device=0}" not in found, "nobody measured it"


def test_a_model_is_told_of_before_anything_happened_to_it(client: TestClient) -> None:
    found = samples(read_text(client.get("/metrics").text))
    for name in ("completion_tokens_total", "evictions_total", "crashes_total"):
        assert found[f'llm_router_{name}{{model=b "2"}}'] == 0


def test_the_process_is_told_of_too(client: TestClient) -> None:
    found = samples(read_text(client.get("/metrics").text))
    assert found["process_open_fds{}"] > 0
    assert found["process_resident_memory_bytes{}"] > 0


def test_a_thousand_models_are_no_trouble() -> None:
    router = Router()
    for number in range(1000):
        router.requests.ended(
            Ended(f"m{number}", Kind.CHAT, "completed", 0.0, 0.1, 0.2, 1.0, 1, 1, 1.0, RequestHead([]), None)
        )
    assert len(list(metrics_of(router).collect())) > 10


# -- the reference page and the dashboard


def families() -> dict[str, Metric]:
    """By the name that is queried."""
    found = {}
    for family in metrics_of(Router()).collect():
        ending = {"counter": "_total", "info": "_info"}.get(family.type, "")
        found[family.name + ending] = family
    return found


def documented() -> dict[str, list[str]]:
    sys.path.insert(0, str(DOCS.parent / "tests" / "docs"))
    try:
        import pages
    finally:
        sys.path.pop(0)
    return {pages.codes(row[0])[0]: row for row in pages.rows(REFERENCE.read_text()) if "llm_router_" in row[0]}


def test_every_metric_is_documented_with_its_type_and_labels() -> None:
    page = documented()
    assert set(page) == set(families())
    for name, family in families().items():
        _, kind, labels, meaning = page[name]
        said = set(re.findall(r"`(\w+)`", labels))
        used = {label for sample in family.samples for label in sample.labels} - {"le"}
        assert kind == family.type, name
        assert not family.samples or said == used, name
        assert meaning, name


def queries() -> list[str]:
    found: list[str] = []

    def look(value: object) -> None:
        if isinstance(value, dict):
            found.extend(value[key] for key in ("expr", "definition") if isinstance(value.get(key), str))
            for inner in value.values():
                look(inner)
        elif isinstance(value, list):
            for inner in value:
                look(inner)

    look(json.loads(DASHBOARD.read_text()))
    return found


def test_the_dashboard_asks_only_for_metrics_and_labels_that_there_are() -> None:
    known = families()
    process = {"process_resident_memory_bytes", "process_open_fds", "process_cpu_seconds_total"}
    assert len(queries()) > 15
    for query in queries():
        names = set(re.findall(r"\b(?:llm_router|process)_\w+", query))
        assert names, query
        labels: set[str] = {"le", "instance", "job"}
        for name in names - process:
            family = known.get(re.sub(r"_(bucket|sum|count)$", "", name)) or known.get(name)
            assert family is not None, f"{name} in {query}"
            labels |= {label for sample in family.samples for label in sample.labels}
        asked = set(re.findall(r"(\w+)\s*(?:=~|!~|!=|=)\s*\"", query))
        for group in re.findall(r"\bby\s*\(([^)]*)\)", query):
            asked |= {label.strip() for label in group.split(",")}
        assert asked <= labels, query


def test_the_dashboard_is_one_that_grafana_imports() -> None:
    board = json.loads(DASHBOARD.read_text())
    assert board["title"] == "llm-router"
    assert board["uid"]
    assert board["schemaVersion"] >= 36
    panels = board["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    for panel in panels:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        if panel["type"] == "row":
            continue
        assert panel["title"]
        assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
        assert panel["targets"]
        refs = [target["refId"] for target in panel["targets"]]
        assert len(set(refs)) == len(refs)
    places = [(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in panels]
    assert len(set(places)) == len(places), "two panels lie on each other"
    variables = {variable["name"] for variable in board["templating"]["list"]}
    used = set(re.findall(r"\$\{?(\w+)", DASHBOARD.read_text())) - {"__rate_interval", "__all"}
    assert used <= variables


def test_the_alerts_of_the_how_to_ask_for_metrics_that_there_are() -> None:
    text = (DOCS / "how-to" / "monitoring.md").read_text()
    named = {re.sub(r"_(bucket|sum|count)$", "", name) for name in re.findall(r"llm_router_\w+", text)}
    assert named <= set(families())
