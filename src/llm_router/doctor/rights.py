"""Whether the router's user may start and stop the units of the configuration. Counterpart: `engines`, for the units.

Reads what is written and asks what is running; tries nothing, since a try would start a model.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

from llm_router.doctor.engines import Ask, ask
from llm_router.doctor.finding import Finding, ok, problem, warning

_ROUTER = "llm-router.service"
_AGAIN = "`sudo llm-router install`, which writes the rule for the units of the configuration"


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """polkit's rule for the router. `user`, `units`: None: the file is there, but can't be read or isn't ours."""

    file: str
    is_there: bool
    user: str | None = None
    units: frozenset[str] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TooOld:
    """A polkit that heeds no rule for single units, and what to do about it."""

    version: str
    remedy: str


def rights(
    services: Collection[str], rule: Rule, me: str, ask: Ask = ask, *, too_old: TooOld | None = None
) -> Iterator[Finding]:
    """`services`: units that models name. `me`: the user who looks; the router's, where it isn't a service.

    1. Units of one's own manager, and root, need no rule. 2. Without polkit, or with one too old for the rule, nobody
    else is let. 3. The rule is there,
    is ours and can be read. 4. It is for the router's user. 5. It names exactly the units of the configuration.
    """
    wanted = {unit for unit in services if _is_of_the_machine(unit, ask)}
    user = _user_of_the_router(me, ask)
    if not wanted or user == "root":  # 1
        return
    if too_old is not None:  # 2
        message = f"{too_old.version} can't tell one unit from another: {user} can't start {_and(wanted)}"
        yield problem("polkit", message, too_old.remedy)
        return
    yield _polkit(ask)
    if not rule.is_there:  # 3
        yield problem("polkit rule", f"{rule.file} isn't there: {user} can't start {_and(wanted)}", _AGAIN)
    elif rule.units is None:
        remedy = "look as root: `sudo llm-router doctor`"
        yield warning("polkit rule", f"{rule.file} can't be read, or isn't the router's", remedy)
    elif rule.user != user:  # 4
        yield problem("polkit rule", f"{rule.file} is for {rule.user}, and the router runs as {user}", _AGAIN)
    else:  # 5
        yield from _named(wanted, rule.units, rule.file, user)


def _named(wanted: set[str], named: frozenset[str], file: str, user: str) -> Iterator[Finding]:
    if missing := wanted - named:
        yield problem("polkit rule", f"{file} doesn't name {_and(missing)}: {user} can't start it", _AGAIN)
    if more := named - wanted:
        yield warning("polkit rule", f"{file} lets {user} use {_and(more)} too, which no model names", _AGAIN)
    if wanted == named:
        yield ok("polkit rule", f"{file} lets {user} use {_and(wanted)}, and no other unit")


def _polkit(ask: Ask) -> Finding:
    state = _properties(ask, "polkit.service", "LoadState", "ActiveState")
    if state.get("LoadState") != "loaded":
        return problem(
            "polkit", "isn't installed: only root can start units", "`sudo apt install polkitd`, or its like"
        )
    if state.get("ActiveState") == "failed":
        return problem("polkit", "has failed: only root can start units", "`sudo systemctl restart polkit`")
    return ok("polkit", "is there")  # one that isn't running is started when it is asked


def _is_of_the_machine(unit: str, ask: Ask) -> bool:
    if _properties(ask, unit, "LoadState", manager="--user").get("LoadState") == "loaded":  # which is looked for first
        return False
    return _properties(ask, unit, "LoadState").get("LoadState") == "loaded"


def _user_of_the_router(me: str, ask: Ask) -> str:
    service = _properties(ask, _ROUTER, "LoadState", "User")
    return (service.get("User") or "root") if service.get("LoadState") == "loaded" else me


def _properties(ask: Ask, unit: str, *names: str, manager: str = "--system") -> dict[str, str]:
    said = ask(("systemctl", manager, "show", unit, *(f"--property={name}" for name in names)))
    return dict(re.findall(r"^(\w+)=(.*)$", said.output, re.MULTILINE)) if said.status == 0 else {}


def _and(names: Collection[str]) -> str:
    listed: Sequence[str] = sorted(names)
    return ", ".join(listed)
