"""Public traces as they are published: who asked for how much, when, in large services.

- Azure LLM inference (2023, 2024): csv with `TIMESTAMP`, `ContextTokens`, `GeneratedTokens`; a file is one service, so
  each file is a model here, named as in the file's name: `code`, `conv`.
- BurstGPT: csv with `Timestamp` (seconds), `Model`, `Request tokens`, `Response tokens`, `Total tokens`, `Log Type`, in
  the third release `Session ID` and `Elapsed time` besides. A response of 0 tokens is a failed one and left out.

Counterpart: `files`, our own format. Columns are found by their names; times begin at the earliest request of all.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

from llm_router.simulation.files import TraceError, assemble
from llm_router.simulation.trace import Call, Trace

_AZURE = ("TIMESTAMP", "ContextTokens", "GeneratedTokens")
_BURSTGPT = ("Timestamp", "Model", "Request tokens", "Response tokens")


def read(paths: Sequence[Path], machine: Trace | None = None) -> Trace:
    """The requests of all these csv files, in the order of time. Raises: TraceError, OSError."""
    calls = sorted((call for path in paths for call in _calls(path)), key=lambda call: call.at)
    begin = calls[0].at if calls else 0.0
    calls = [call._replace(at=call.at - begin) for call in calls]
    names = " and ".join(path.name for path in paths)
    return assemble(paths[0].stem, calls, machine, names)


def _calls(path: Path) -> Iterator[Call]:
    with path.open(newline="", encoding="utf-8-sig") as file:
        rows = csv.DictReader(file)
        columns = rows.fieldnames or ()
        read: Callable[[Mapping[str, str], str], Call | None]
        if set(_AZURE) <= set(columns):
            read, model = _azure, path.stem.removesuffix("_1week").rpartition("_")[2]
        elif set(_BURSTGPT) <= set(columns):
            read, model = _burstgpt, ""
        else:
            raise TraceError(
                f"cannot read {path}:1: the columns are {', '.join(columns) or 'missing'}; "
                f"known are {', '.join(_AZURE)} (Azure) and {', '.join(_BURSTGPT)} (BurstGPT)"
            )
        for row in rows:
            try:
                call = read(row, model)
            except (ValueError, TypeError) as error:  # TypeError: a row that is too short
                expected = "a time and two whole numbers of tokens"
                raise TraceError(f"cannot read {path}:{rows.line_num}: {error}; expected are {expected}") from error
            if call is not None:
                yield call


def _azure(row: Mapping[str, str], model: str) -> Call:
    """Times are `2023-11-16 18:15:46.6805900` in the files of 2023, with an offset `+00:00` in those of 2024."""
    at = datetime.fromisoformat(row["TIMESTAMP"])
    at = at if at.tzinfo else at.replace(tzinfo=UTC)
    return Call(model, _count(row["ContextTokens"]), _count(row["GeneratedTokens"]), at.timestamp())


def _burstgpt(row: Mapping[str, str], _: str) -> Call | None:
    answer = _count(row["Response tokens"])
    if answer == 0:
        return None
    return Call(row["Model"], _count(row["Request tokens"]), answer, float(row["Timestamp"]))


def _count(text: str) -> int:
    count = int(text)
    if count < 0:
        raise ValueError(f"{count} is less than 0")
    return count
