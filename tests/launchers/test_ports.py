"""Ports that nobody has, and who has the others."""

import os
import socket
from collections.abc import Iterator

import pytest

from llm_router.errors import LaunchError
from llm_router.launchers import ports
from llm_router.launchers.ports import Ports, ensure_free, ephemeral_range


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server


def port_of(server: socket.socket) -> int:
    return int(server.getsockname()[1])


def test_ports_are_given_out_once_until_released() -> None:
    given = Ports()
    taken = {given.take() for _ in range(50)}
    assert len(taken) == 50
    assert not taken & set(ephemeral_range())


def test_what_others_use_or_hold_is_not_given_out(listener: socket.socket, monkeypatch: pytest.MonkeyPatch) -> None:
    free = Ports().take()
    monkeypatch.setattr(ports, "ephemeral_range", lambda: range(0))
    monkeypatch.setattr(ports, "_PREFERRED", (port_of(listener), free))
    given = Ports()
    assert given.take() == free
    with pytest.raises(LaunchError, match="cannot find a free port"):
        given.take()
    given.release(free)
    assert given.take() == free
    given.release(free)
    given.hold(free)
    with pytest.raises(LaunchError):
        given.take()


def test_configured_ports_are_for_who_claims_them(monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = Ports().take(), Ports().take()
    monkeypatch.setattr(ports, "_PREFERRED", (first, second))
    given = Ports(configured=[first])
    assert given.take() == second
    assert given.claim(first) == first
    with pytest.raises(LaunchError, match="another model is using it"):
        given.claim(first)
    given.release(first)
    assert given.claim(first) == first


def test_a_units_port_is_claimed_though_the_unit_listens_already(listener: socket.socket) -> None:
    given = Ports()
    assert given.claim(port_of(listener), of_unit=True) == port_of(listener)
    with pytest.raises(LaunchError, match="another model is using it"):
        given.claim(port_of(listener), of_unit=True)


def test_a_configured_port_that_someone_else_has_is_not_claimed(listener: socket.socket) -> None:
    given = Ports(configured=[port_of(listener)])
    with pytest.raises(LaunchError, match=f"pid {os.getpid()} "):
        given.claim(port_of(listener))


def test_a_free_port_is_free() -> None:
    ensure_free(Ports().take())


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0", "::"])
def test_whoever_listens_is_named(host: str) -> None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with (
        socket.create_server((host, 0), family=family, dualstack_ipv6=":" in host) as server,
        pytest.raises(LaunchError) as caught,
    ):
        ensure_free(port_of(server))
    assert f"pid {os.getpid()} (" in caught.value.message
    assert caught.value.message.startswith("cannot use port ")


def test_what_reuses_its_port_is_seen_all_the_same() -> None:
    with socket.create_server(("127.0.0.1", 0), reuse_port=True) as server, pytest.raises(LaunchError):
        ensure_free(port_of(server))


def test_connections_winding_down_do_not_count(listener: socket.socket) -> None:
    port = port_of(listener)
    client = socket.create_connection(("127.0.0.1", port))
    server, _ = listener.accept()
    listener.close()
    server.close()  # closed first: this side keeps the port in TIME_WAIT
    assert client.recv(1) == b""
    client.close()
    ensure_free(port)
