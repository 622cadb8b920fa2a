"""What every backend owes a client and an operator, asked through a router of each kind in front of its fake.

The points themselves are in `conformance.points`, because real engines are asked the same: `make conformance`.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from conformance.points import POINTS, SLOW, CannotRunError, Point, Subject
from engines import KINDS, Standing


@pytest.fixture(scope="module", params=KINDS)
def subject(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Subject]:
    standing = Standing(KINDS[request.param], tmp_path_factory.mktemp(request.param))
    yield standing.subject
    standing.end()


ASKED = [
    pytest.param(point, id=name, marks=[pytest.mark.slow] if name in SLOW else []) for name, point in POINTS.items()
]


@pytest.mark.parametrize("point", ASKED)
async def test_point(subject: Subject, point: Point) -> None:
    try:
        await point(subject)
    except CannotRunError as reason:
        pytest.skip(str(reason))
