"""`llm-router discover --from-llama-swap`: imports, prints what became of it, and hands it to a configuration file."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from llm_router.cli.target import Target
from llm_router.config import llama_swap
from llm_router.config.merge import is_yaml, written
from llm_router.errors import ConfigError


def run(source: Path, target: Target, *, as_json: bool) -> None:
    """Raises: ConfigError for a file that llama-swap would refuse too, and where the result can't be written."""
    target.check()
    try:
        text = source.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read {source}: {error}; name llama-swap's configuration file") from error
    one_line = target.file is not None and not is_yaml(target.file)
    imported = llama_swap.convert(text, source, one_line=one_line or as_json)
    if not as_json and target.file is None:
        print(written(imported.data, Path("router_config.yaml")), end="")
    if not as_json:
        for note in imported.notes:
            print(note, file=sys.stderr)
    outcome = target.put(imported.data, quiet=as_json)
    if as_json:
        notes = [{"key": note.key, "kind": note.kind, "message": note.message} for note in imported.notes]
        print(
            json.dumps(
                {
                    "configuration": imported.data,
                    "notes": notes,
                    "written": outcome.as_json() if outcome else None,
                },
                indent=2,
            )
        )
    elif outcome is not None and outcome.kept:
        print("there already, and left as it was: " + ", ".join(outcome.kept), file=sys.stderr)
