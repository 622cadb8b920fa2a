"""What docs/reference/compatibility.md says of each dialect, feature and backend is what a router does."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import compatibility
import compatibility_rows
import pytest
import pytest_asyncio
from compatibility import BACKENDS, FEATURES, Table, line

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "compatibility.md"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def table(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Table]:
    async with compatibility.table(tmp_path_factory.mktemp("compatibility")) as table:
        yield table


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("name", FEATURES)
async def test_a_row_of_the_page_is_what_is_seen(table: Table, name: str) -> None:
    seen = await table.seen(FEATURES[name])
    assert line(FEATURES[name], seen) in PAGE.read_text().splitlines(), "run `make reference`"


def test_every_row_of_the_page_is_one_that_is_asked() -> None:
    asked = {f"| {row.name} " for row in FEATURES.values()}
    rows = [text for text in PAGE.read_text().splitlines() if text.startswith("| ") and " --- " not in text]
    rows = [text for text in rows if not text.startswith("| | ")]
    assert len(rows) == len(FEATURES)
    assert {text[: text.index("| ", 2)] for text in rows} == asked


def test_the_rest_of_the_page_is_up_to_date() -> None:
    seen = dict.fromkeys(FEATURES, ["x"] * len(BACKENDS))
    rows = {line(row, seen[name]) for name, row in FEATURES.items()}
    prose = [text for text in compatibility.page(seen).splitlines() if text not in rows]
    assert [text for text in PAGE.read_text().splitlines() if not text.startswith("| ") or text in prose] == prose
    sections = [text.removeprefix("## ") for text in prose if text.startswith("## ")]
    assert sections == ["OpenAI", "Anthropic", "Ollama", "llama.cpp's management"] == list(compatibility_rows.DIALECTS)
