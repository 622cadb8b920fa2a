"""What every backend owes a client and an operator, asked through a router of each kind in front of its fake.

The points themselves are in `conformance.points`, because real engines are asked the same: `make conformance`.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from conformance.points import POINTS, CannotRunError, Point, Subject
from engines import KINDS, Standing


@pytest.fixture(scope="module", params=KINDS)
def subject(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Subject]:
    standing = Standing(KINDS[request.param], tmp_path_factory.mktemp(request.param))
    yield standing.subject
    standing.end()


@pytest.mark.parametrize("point", POINTS.values(), ids=POINTS)
async def test_point(subject: Subject, point: Point) -> None:
    try:
        await point(subject)
    except CannotRunError as reason:
        pytest.skip(str(reason))
