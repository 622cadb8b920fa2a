"""The schema and the reference page that are checked in say what the code says."""

from __future__ import annotations

from pathlib import Path

from llm_router.config import reference
from llm_router.config.schema import BackendConfig, Config, ModelConfig, Parameters

DOCS = Path(__file__).parents[2] / "docs" / "reference"


def test_the_checked_in_pages_are_up_to_date(tmp_path: Path) -> None:
    reference.main(tmp_path)
    for name in (reference.SCHEMA_FILE, reference.PAGE_FILE):
        fresh, checked_in = (tmp_path / name).read_text(), (DOCS / name).read_text()
        assert fresh == checked_in, "run `python -m llm_router.config.reference`"


def test_every_key_is_described() -> None:
    page = reference.page()
    for section in (Config, ModelConfig, BackendConfig, Parameters):
        for key, field in section.model_fields.items():
            assert field.description, key
            assert f"| `{key}` |" in page
