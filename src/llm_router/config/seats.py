"""Who may be loaded together and who never is: from groups, fixed ports, and servers that hold one model.

Counterpart: `room`, which says the same of memory.
"""

from __future__ import annotations

from llm_router.config.schema import Config

# Servers that hold one model and are given another: whoever shares such a server takes turns on it.
_ONE_MODEL_SERVERS = ("tabbyapi", "tabbyapi-exl2")


def seats(config: Config, name: str) -> frozenset[str]:
    """What only one loaded model can have at a time, of all that this model needs: a group whose models are never
    together, a fixed port of this machine, a systemd unit, a server elsewhere that holds one model.

    Servers that the router starts on free ports are no seat, even from one folder: two of them may hold two models.
    """
    model = config.models[name]
    found = {
        f"group {group}"
        for group, members in config.groups.items()
        if members.together == "never" and name in map(config.canonical, members.models)
    }
    port = config.fixed_port(name)
    if model.url is None and port is not None:
        found.add(f"port {port}")
    if model.service is not None:
        found.add(f"service {model.service.removesuffix('.service')}")
    if model.url and model.backend in _ONE_MODEL_SERVERS:
        found.add(f"server {model.url[0].rstrip('/')}")
    return frozenset(found)


def companions(config: Config, name: str) -> frozenset[str]:
    """The models that may share devices with this one whatever their footprints say."""
    allowed = [group.models for group in config.groups.values() if group.together == "allowed"]
    members = [{config.canonical(member) or member for member in models} for models in allowed]
    return frozenset().union(*(group for group in members if name in group)) - {name}
