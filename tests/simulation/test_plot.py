"""The picture is well-formed SVG with a curve and a lane for each rule, whatever the trace is called."""

from __future__ import annotations

from dataclasses import replace
from xml.etree import ElementTree

from small import WIDE, trace

from llm_router.simulation.compare import play
from llm_router.simulation.plot import svg

SVG = "{http://www.w3.org/2000/svg}"


def test_each_rule_has_a_curve_and_each_model_a_lane() -> None:
    made = trace("abab", gap_s=3)
    drawn = ElementTree.fromstring(svg(made, play(made, WIDE, rules=["llm-router", "fifo"])))
    texts = [text.text for text in drawn.iter(f"{SVG}text")]
    assert len(list(drawn.iter(f"{SVG}polyline"))) == 2
    assert texts.count("llm-router") == texts.count("fifo") == 2
    assert texts.count("a") == texts.count("b") == 2


def test_what_is_loaded_is_drawn_where_it_was() -> None:
    made = trace("ab", gap_s=100)
    [run] = play(made, WIDE, rules=["fifo"])
    picture = svg(made, [run])
    ready = [path.get("d") for path in ElementTree.fromstring(picture).iter(f"{SVG}path") if path.get("opacity") == "1"]
    across = 960 - 120 - 20
    end_s = run.figures.makespan_s
    assert ready[0] is not None and ready[0].startswith(f"M{120 + across * 10 / end_s:.1f} ")
    assert f"h{across * 91 / end_s:.2f}" in ready[0]


def test_names_are_escaped() -> None:
    made = replace(trace("a"), name="<a & b>")
    ElementTree.fromstring(svg(made, play(made, WIDE, rules=["fifo"])))


def test_a_trace_that_served_nobody_is_drawn_too() -> None:
    made = replace(trace("a"), calls=[])
    ElementTree.fromstring(svg(made, play(made, WIDE, rules=["fifo"])))
