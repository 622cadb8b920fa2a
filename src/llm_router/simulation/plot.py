"""One picture of a comparison, as SVG: how long requests waited under each rule, and which model was loaded when.

Counterpart: `report`, which says it in figures. Pure: text in, text out; whoever wants pixels converts it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from html import escape

from llm_router.simulation.compare import Run
from llm_router.simulation.measure import times_to_first_token_s
from llm_router.simulation.outcome import Stay
from llm_router.simulation.trace import Trace

_WIDTH, _LEFT, _RIGHT = 960, 120, 20
_CURVES_TOP, _CURVES_HEIGHT = 60, 260
_ROW, _LANE_GAP = 14, 18
_COLOURS = ("#0b6e99", "#d9730d", "#0f7b6c", "#ad1a72", "#6940a5", "#9f6b53", "#787774", "#dfab01")
_MOST_POINTS = 400
_SHORTEST_S = 0.1  # what is faster than this looks alike
_STYLE = (
    # Named one by one: what makes pixels of it may not know what sans-serif means on this machine.
    "text{font:12px 'DejaVu Sans','Liberation Sans','Noto Sans',Arial,sans-serif;fill:#333}"
    ".t{font-size:15px;font-weight:bold}"
    ".g{stroke:#ddd}.e{text-anchor:end}.m{text-anchor:middle}"
)


def svg(trace: Trace, runs: Sequence[Run]) -> str:
    models = list(dict.fromkeys(stay.model for run in runs for stay in run.outcome.stays))
    lanes_top = _CURVES_TOP + _CURVES_HEIGHT + 90
    body = [*_curves(trace, runs)]
    top = lanes_top
    for run in runs:
        body += _lanes(run, models, top, max(run.figures.makespan_s for run in runs) or 1.0)
        top += len(models) * _ROW + _LANE_GAP
    head = _text(_LEFT, 24, f"{trace.name}: {trace.about}", "t")
    caption = _text(_LEFT, lanes_top - 16, "Which model was loaded when (pale: loading)", "t")
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {top}" width="{_WIDTH}" height="{top}">',
            f'<style>{_STYLE}</style><rect width="{_WIDTH}" height="{top}" fill="#fff"/>',
            head,
            *body,
            caption,
            "</svg>\n",
        ]
    )


def _curves(trace: Trace, runs: Sequence[Run]) -> Iterator[str]:
    """The share of requests that had their first token after so long; the time in decades."""
    times = [sorted(times_to_first_token_s(trace, run.outcome)) for run in runs]
    longest = max([1.0, *(ascending[-1] for ascending in times if ascending)])
    decades = math.log10(longest / _SHORTEST_S)

    def x(seconds: float) -> float:
        return _LEFT + _across() * math.log10(max(seconds, _SHORTEST_S) / _SHORTEST_S) / decades

    def y(share: float) -> float:
        return _CURVES_TOP + _CURVES_HEIGHT * (1 - share)

    for share in (0, 0.5, 0.95, 1):
        yield f'<path class="g" d="M{_LEFT} {y(share):.1f}H{_WIDTH - _RIGHT}"/>'
        yield _text(_LEFT - 8, y(share) + 4, f"{share:.0%}", "e")
    for exponent in range(math.floor(decades) + 1):
        seconds = _SHORTEST_S * 10**exponent
        yield f'<path class="g" d="M{x(seconds):.1f} {_CURVES_TOP}v{_CURVES_HEIGHT}"/>'
        yield _text(x(seconds), y(0) + 18, f"{seconds:g} s", "m")
    yield _text(_LEFT, y(0) + 38, "Time to first token, and the share of requests that had it by then")
    for number, (run, ascending) in enumerate(zip(runs, times, strict=True)):
        step = max(1, len(ascending) // _MOST_POINTS)
        chosen = range(step - 1, len(ascending), step)
        points = " ".join(f"{x(ascending[i]):.1f},{y((i + 1) / len(ascending)):.1f}" for i in chosen)
        colour = _COLOURS[number % len(_COLOURS)]
        yield f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="2"/>'
        yield _text(_LEFT + 12, _CURVES_TOP + 18 + 16 * number, run.rule, "", colour)


def _lanes(run: Run, models: Sequence[str], top: float, end_s: float) -> Iterator[str]:
    yield _text(4, top + _ROW, run.rule)
    yield f'<path class="g" d="M{_LEFT} {top + len(models) * _ROW}H{_WIDTH - _RIGHT}"/>'
    for number, model in enumerate(models):
        stays = [stay for stay in run.outcome.stays if stay.model == model]
        colour, y = _COLOURS[number % len(_COLOURS)], top + number * _ROW
        yield _text(_LEFT - 8, y + _ROW - 3, model, "e", colour)
        for opacity, ready in ((0.35, False), (1, True)):
            path = "".join(f"M{x:.1f} {y + _ROW / 2}h{width:.2f}" for x, width in _spans(stays, end_s, ready=ready))
            yield f'<path d="{path}" stroke="{colour}" stroke-width="{_ROW - 3}" opacity="{opacity}"/>'


def _spans(stays: Sequence[Stay], end_s: float, *, ready: bool) -> Iterator[tuple[float, float]]:
    """Left edge and width of each time a model was ready, or not yet."""
    for stay in stays:
        gone_at = end_s if stay.gone_at is None else min(stay.gone_at, end_s)
        ready_at = gone_at if stay.ready_at is None else min(stay.ready_at, gone_at)
        begin, end = (ready_at, gone_at) if ready else (stay.started_at, ready_at)
        if end > begin:
            yield _LEFT + _across() * begin / end_s, _across() * (end - begin) / end_s


def _across() -> float:
    return _WIDTH - _LEFT - _RIGHT


def _text(x: float, y: float, text: str, kind: str = "", colour: str = "") -> str:
    classes = f' class="{kind}"' if kind else ""
    style = f' style="fill:{colour}"' if colour else ""
    return f'<text x="{x:.1f}" y="{y:.1f}"{classes}{style}>{escape(text)}</text>'
