"""The polkit rule: the router's user may start and stop exactly the units of the configuration. Pure."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable

# To end what doesn't listen, and to start again what failed too often.
VERBS = ("start", "stop", "restart", "kill", "reset-failed")
# Of version 0, the first that reads rules in JavaScript (polkit's NEWS). The ones before read `.pkla` files, which know
# the action alone: one for it would let the router's user start and stop every unit of the machine.
_FIRST = 106
REMEDY = (
    'leave "service" out of the configuration (the router then starts "path", "command" or "script" itself), '
    "install with --user, or use a newer system (Debian 12, Ubuntu 24.04)"
)


def version(said: str) -> str | None:
    """What `pkaction --version` says; None: no version."""
    found = re.search(r"\d+(?:\.\d+)*", said)
    return found and found[0]


def reads_rules(version: str) -> bool:
    """Whether a polkit of this version heeds a rule as below; the others never look at it."""
    major, _, minor = version.partition(".")
    return int(major) > 0 or int(minor.partition(".")[0] or 0) >= _FIRST


def rule(user: str, units: Iterable[str]) -> str:
    """The rule's text. Names are written as JSON, which is JavaScript too: whatever is in them stays a name."""
    names = json.dumps(sorted(set(units)))
    return f"""\
// Written by `llm-router install`: {user} may start and stop the units of its configuration, and no others.
// After a change of the units in the configuration, run that again.
polkit.addRule(function(action, subject) {{
    var units = {names};
    var verbs = {json.dumps(VERBS)};
    if (action.id === "org.freedesktop.systemd1.manage-units" &&
            subject.user === {json.dumps(user)} &&
            units.indexOf(action.lookup("unit")) >= 0 &&
            verbs.indexOf(action.lookup("verb")) >= 0) {{
        return polkit.Result.YES;
    }}
    return polkit.Result.NOT_HANDLED;
}});
"""


def read(text: str) -> tuple[str, frozenset[str]] | None:
    """The user and the units of a rule as above; None: it isn't one."""
    units = re.search(r"^ +var units = (\[.*\]);$", text, re.MULTILINE)
    user = re.search(r'^ +subject\.user === (".*") &&$', text, re.MULTILINE)
    if units is None or user is None:
        return None
    try:
        return str(json.loads(user[1])), frozenset(map(str, json.loads(units[1])))
    except ValueError:
        return None
