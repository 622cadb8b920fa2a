"""What every backend owes a client and an operator, asked through a router of each kind in front of its fake.

The points themselves are in `conformance.points`, because real engines are asked the same: `make conformance`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
from conformance.points import POINTS, SLOW, CannotRunError, Point, Subject
from engines import KINDS, Make, Standing


@pytest.fixture(scope="module", params=KINDS)
def subject(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Subject]:
    standing = Standing(KINDS[request.param], tmp_path_factory.mktemp(request.param))
    yield standing.subject
    standing.end()


def points(*, slow: bool) -> list[Point]:
    return [point for name, point in POINTS.items() if (name in SLOW) is slow]


def name_of(point: Point) -> str:
    return point.__name__


@pytest.mark.parametrize("point", points(slow=False), ids=name_of)
async def test_point(subject: Subject, point: Point) -> None:
    try:
        await point(subject)
    except CannotRunError as reason:
        pytest.skip(str(reason))


@pytest.mark.slow
@pytest.mark.timeout(400)
@pytest.mark.parametrize("point", points(slow=True), ids=name_of)
async def test_point_that_is_mostly_waiting_of_all_kinds_at_once(point: Point, tmp_path: Path) -> None:
    async def ask(kind: str, make: Make) -> str:
        (tmp_path / kind).mkdir()
        async with make(tmp_path / kind) as subject:
            try:
                return f"{kind}: {await point(subject)}"
            except CannotRunError as reason:
                return f"{kind}: not asked: {reason}"
            except Exception as error:
                error.add_note(f"asked of {kind}")
                raise

    print(*await asyncio.gather(*(ask(kind, make) for kind, make in KINDS.items())), sep="\n")
