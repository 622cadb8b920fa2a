"""What the log says of a request that failed: by the number that its client has, too."""

from __future__ import annotations

import logging

import pytest
from wire import Bench


@pytest.mark.parametrize("sink", ["protocol"])
async def test_a_failed_request_is_logged_by_its_number(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    async def breaks_off(*_: object) -> None:
        return

    caplog.set_level(logging.INFO)
    bench.upstream.script = breaks_off
    client = await bench.client()
    client.chat(headers="x-request-id: mine:3\r\n")
    assert (await client.answer()).status == 502
    [line] = [record for record in caplog.records if hasattr(record, "request_id")]
    assert (line.request_id, line.getMessage()) == ("mine:3", "request mine:3: 502")
