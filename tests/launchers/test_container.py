import os
import shutil
import signal
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from launching import AT_ONCE, identity, is_alive, line_of

from llm_router.backends.base import Address, LaunchSpec, StopPlan
from llm_router.launchers.container import Container, ContainerLauncher, container_of
from llm_router.launchers.probe import wait_resumed
from llm_router.launchers.process import ProcessLauncher
from llm_router.runtime.look import family

FAKE = Path(__file__).parents[1] / "programs" / "fake_docker.sh"
SERVER = "import os, signal; print('up', os.getpid(), flush=True); signal.pause()"
HTTP = (
    "from http.server import *; "
    "BaseHTTPRequestHandler.do_GET = lambda self: (self.send_response(200), self.end_headers()); "
    "server = HTTPServer(('127.0.0.1', {port}), BaseHTTPRequestHandler); print('up 0', flush=True); "
    "server.serve_forever()"
)
DEAF = f"import signal; signal.signal(15, signal.SIG_IGN); {SERVER}"


@pytest.fixture
def docker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the containers are remembered; `docker` is on PATH."""
    (tmp_path / "bin").mkdir()
    program = tmp_path / "bin" / "docker"
    # Under its own name, as a real client is: a script would be its interpreter's.
    program.write_text(f'#!/bin/bash\nexec -a docker bash {FAKE} "$@"\n')
    program.chmod(0o755)
    folder = tmp_path / "containers"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    monkeypatch.setenv("FAKE_DOCKER", str(folder))
    return folder


def spec(*options: str, code: str = SERVER) -> LaunchSpec:
    command = ("docker", "run", *options, "image", sys.executable, "-IS", "-c", code)
    return LaunchSpec(argv=command, address=Address(host="127.0.0.1", port=1))


def names(docker: Path) -> list[str]:
    return [path.name for path in docker.iterdir()]


async def up(process: Container) -> int:
    return int((await line_of(process, "up")).split()[1])  # type: ignore[arg-type]


class TestNames:
    @pytest.mark.parametrize(
        ("argv", "name"),
        [
            (("docker", "run", "--rm", "--name", "a", "image"), "a"),
            (("/usr/bin/podman", "run", "--name=b", "image"), "b"),
            (("docker", "run", "image"), ""),
            (("docker", "compose", "up"), None),
            (("llama-server", "run"), None),
            ((), None),
        ],
    )
    def test_are_read_from_the_command_line(self, argv: tuple[str, ...], name: str | None) -> None:
        assert container_of(argv) == name


class TestContainers:
    async def test_one_without_a_name_gets_one(self, launcher: ProcessLauncher, docker: Path) -> None:
        process = await ContainerLauncher(launcher).start(spec("--rm", "-d"), identity(7, "org/m"))
        assert isinstance(process, Container)
        await up(process)
        assert names(docker) == ["llm-router-org-m-7"]
        await process.stop(AT_ONCE)

    async def test_what_runs_in_it_is_what_holds_the_models_memory(
        self, launcher: ProcessLauncher, docker: Path
    ) -> None:
        process = await ContainerLauncher(launcher).start(spec(), identity())
        assert isinstance(process, Container)
        inside = await up(process)
        assert family(process.pid) == {inside}
        await process.stop(AT_ONCE)
        assert family(process.pid) == frozenset()

    async def test_a_stop_reaches_what_runs_in_it(self, launcher: ProcessLauncher, docker: Path) -> None:
        process = await ContainerLauncher(launcher).start(spec("--name", "a"), identity())
        assert isinstance(process, Container)
        inside = await up(process)
        await process.stop(StopPlan())
        assert not is_alive(inside)
        assert names(docker) == []

    async def test_what_is_deaf_doesnt_outlive_its_client(self, launcher: ProcessLauncher, docker: Path) -> None:
        process = await ContainerLauncher(launcher).start(spec("--name", "a", code=DEAF), identity())
        assert isinstance(process, Container)
        inside = await up(process)
        await process.stop(AT_ONCE)
        assert not is_alive(inside)

    async def test_a_client_that_was_killed_leaves_nothing_once_it_is_buried(
        self, launcher: ProcessLauncher, docker: Path
    ) -> None:
        process = await ContainerLauncher(launcher).start(spec("--name", "a", code=DEAF), identity())
        assert isinstance(process, Container)
        inside = await up(process)
        os.kill(process.pid, signal.SIGKILL)
        await process.stop(StopPlan())
        assert not is_alive(inside)

    async def test_a_container_from_before_makes_way(self, launcher: ProcessLauncher, docker: Path) -> None:
        (docker / "a").write_text("999999999")
        process = await ContainerLauncher(launcher).start(spec("--name", "a"), identity())
        assert isinstance(process, Container)
        await up(process)
        await process.stop(AT_ONCE)

    async def test_the_next_router_finds_it_and_can_end_it(self, tmp_path: Path, docker: Path) -> None:
        first = ProcessLauncher(tmp_path / "shared")
        process = await ContainerLauncher(first).start(spec("--name", "a", code=DEAF), identity(3))
        assert isinstance(process, Container)
        inside = await up(process)
        first.close()
        second = ProcessLauncher(tmp_path / "shared")
        (found,) = await ContainerLauncher(second).survivors()
        assert isinstance(found, Container)
        assert found.identity == identity(3)
        await found.stop(AT_ONCE)
        assert not is_alive(inside)
        second.close()

    @pytest.mark.parametrize("network", ["--network=host", "--publish=8080:8080"])
    async def test_the_next_router_goes_on_with_what_listens_for_it(
        self, tmp_path: Path, docker: Path, unused_tcp_port: int, network: str
    ) -> None:
        serving = replace(
            spec(network, "--name", "a", code=HTTP.format(port=unused_tcp_port)),
            address=Address(host="127.0.0.1", port=unused_tcp_port),
        )
        first = ProcessLauncher(tmp_path / "shared")
        process = await ContainerLauncher(first).start(serving, identity(3))
        await line_of(process, "up")  # type: ignore[arg-type]
        first.close()
        second = ProcessLauncher(tmp_path / "shared")
        (found,) = await ContainerLauncher(second).survivors()
        await wait_resumed(found, serving, deadline_s=20, on_loading=lambda _: None)
        await found.stop(AT_ONCE)
        second.close()

    @pytest.mark.parametrize("lost", ["ledger", "state folder"])
    async def test_one_that_the_next_router_cant_know_is_ended_with_its_client(
        self, tmp_path: Path, docker: Path, lost: str
    ) -> None:
        folder = tmp_path / "shared"
        first = ProcessLauncher(folder)
        process = await ContainerLauncher(first).start(spec("--name", "a", code=DEAF), identity())
        assert isinstance(process, Container)
        inside = await up(process)
        first.close()
        shutil.rmtree(folder / "instances" if lost == "ledger" else folder)
        second = ProcessLauncher(folder)
        assert await ContainerLauncher(second).survivors() == []
        assert not is_alive(inside)
        assert names(docker) == []
        second.close()

    async def test_everything_else_is_a_process(self, launcher: ProcessLauncher) -> None:
        plain = LaunchSpec(argv=(sys.executable, "-c", SERVER), address=Address(host="127.0.0.1", port=1))
        process = await ContainerLauncher(launcher).start(plain, identity())
        assert not isinstance(process, Container)
        await process.stop(AT_ONCE)
