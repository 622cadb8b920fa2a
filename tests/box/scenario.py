"""Runs inside a throwaway Debian with systemd, as root, with the standard library alone: installs llm-router and lives
through what a real machine does to it. Prints one JSON line for each thing that was seen.

    python3 scenario.py SOURCE MODELS [NAME...]

SOURCE: a checkout. MODELS: a folder with tiny-a.gguf, tiny-b.gguf, known-answer models. NAMEs: what alone is looked at.
The first run ends with a power cut; the second, with the names that come after, begins where the same machine boots
again. Counterpart: test_box.py.
"""

import contextlib
import json
import os
import pty
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
import traceback
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

SOURCE, MODELS = Path(sys.argv[1]), Path(sys.argv[2])
PORT = int(os.environ.get("BOX_PORT", "18902"))
ENGINE_PORTS = (PORT + 1, PORT + 2)
URL = f"http://127.0.0.1:{PORT}"
INSTALL = "/tmp/source/install.sh"
CONFIG = Path("/etc/llm-router/router_config.json")
STATE = Path("/var/lib/llm-router")
# What the second run must know of the first.
KNOWN = Path("/srv/known.json")
WATCHED = ("/etc", "/opt", "/usr/local", "/var/lib", "/home", "/root")
SEEN: list[Callable[[], object]] = []


def seen(look: Callable[[], object]) -> Callable[[], object]:
    SEEN.append(look)
    return look


# -- tools


def run(*argv: str, check: bool = True, **env: str) -> str:
    done = subprocess.run(argv, capture_output=True, text=True, stdin=subprocess.DEVNULL, env={**os.environ, **env})
    if check and done.returncode:
        raise AssertionError(f"{argv}: exit {done.returncode}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}")
    return done.stdout + done.stderr


def status_of(*argv: str) -> int:
    return subprocess.run(argv, capture_output=True, stdin=subprocess.DEVNULL).returncode


def until(is_so: Callable[[], object], what: str, limit_s: float = 30.0) -> float:
    began = time.monotonic()
    while not is_so():
        if time.monotonic() - began > limit_s:
            log = run("journalctl", "-u", "llm-router", "-n", "40", "-o", "cat", "--no-pager", check=False)
            raise AssertionError(f"{what}: not within {limit_s:g} s\n{log}")
        time.sleep(0.02)
    return time.monotonic() - began


def ask(path: str, body: object = None) -> dict:
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(URL + path, data, {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=120) as reply:
            return json.load(reply)
    except urllib.error.HTTPError as error:
        return {"status": error.code, **json.load(error)}


def chat(model: str) -> str:
    reply = ask("/v1/chat/completions", {"model": model, "messages": [{"role": "user", "content": "hi"}]})
    if "choices" not in reply:
        raise AssertionError(f"{model}: {reply}")
    return reply["choices"][0]["message"]["content"]


def stream(model: str, **more: object) -> Iterator[str]:
    body = {"model": model, "stream": True, "messages": [{"role": "user", "content": "hi"}], **more}
    request = urllib.request.Request(
        URL + "/v1/chat/completions", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=120) as reply:
        yield from (line.decode().strip() for line in reply)


def show(unit: str, name: str) -> str:
    return run("systemctl", "show", "-P", name, unit).strip()


def pid_of(unit: str) -> int:
    return int(show(unit, "MainPID"))


def kill(unit: str, number: signal.Signals = signal.SIGKILL) -> int:
    """Its main process; the number that it had."""
    pid = pid_of(unit)
    assert pid, f"{unit} doesn't run"
    os.kill(pid, number)
    return pid


def state_of(model: str) -> str:
    with contextlib.suppress(OSError):
        return next(one["state"] for one in ask("/admin/status")["models"] if one["id"] == model)
    return "unreachable"


def answers() -> bool:
    with contextlib.suppress(OSError):
        return "data" in ask("/v1/models")
    return False


def files() -> set[str]:
    found = set()
    for place in WATCHED:
        for folder, names, leaves in os.walk(place):
            found |= {f"{folder}/{name}" for name in (*names, *leaves)}
    own = rf"/var/lib/(systemd|private|polkit-1|dbus)|{Path.home()}/\.cache|__pycache__"  # other programs' doings
    noise = re.compile(own + r"|/etc/(passwd|shadow|group|gshadow|sub[ug]id)")
    return {path for path in found if not noise.search(path)}


def as_user(user: str, *argv: str) -> int:
    return status_of("runuser", "-u", user, "--", *argv)


def log() -> str:
    """What the router has written since this machine is up."""
    return run("journalctl", "-b", "-u", "llm-router", "-o", "cat", "--no-pager")


def loads() -> list[dict]:
    return json.loads(run("llm-router", "history", "--json", "-n", "1000"))["loads"]


def script(name: str, model: str, before: str = "", options: str = "-c 1024") -> str:
    path = Path("/srv/scripts") / name
    path.parent.mkdir(exist_ok=True)
    engine = "/opt/llm-router/current/bin/python -m llm_router.engine.llamacpp"
    path.write_text(
        f'#!/bin/sh\n{before}\nexec {engine} -m {MODELS}/{model}.gguf --host 127.0.0.1 --port "$PORT"'
        f' --alias "$MODEL" {options} -ngl 0 --sse-ping-interval 1\n'
    )
    path.chmod(0o755)
    return str(path)


def configure(**changes: object) -> str:
    models = {
        "a": {"backend": "llamacpp", "script": script("a.sh", "tiny-a"), "service": "llamacpp.service"},
        "c": {"backend": "llamacpp", "script": script("c.sh", "tiny-b"), "service": "llamacpp.service"},
        "b": {
            "backend": "llamacpp",
            "script": script("b.sh", "tiny-b"),
            "service": "second.service",
            "port": ENGINE_PORTS[1],
        },
        "slow": {
            "backend": "llamacpp",
            "script": script("slow.sh", "tiny-a", "echo waiting; sleep 600 & wait"),
            "service": "llamacpp.service",
        },
        "many": {
            "backend": "llamacpp",
            "script": script("many.sh", "tiny-a", options="-c 24576 -np 20"),
            "service": "second.service",
            "port": ENGINE_PORTS[1],
            "concurrency": 20,
        },
        "own": {"backend": "llamacpp", "path": f"{MODELS}/tiny-b.gguf", "context_length": 1024},
    }
    config = {
        "router_port": PORT,
        "model_load_timeout": 60,
        "memory": "exclusive",
        "patience": 0,
        "backends": {"llamacpp": {"port": ENGINE_PORTS[0]}},
        "models": models,
        **changes,
    }
    path = Path.home() / "router_config.json"
    path.write_text(json.dumps(config, indent=1))
    return str(path)


# -- what is seen, in this order

BEFORE: set[str] = set()


@seen
def an_unattended_installation_ends_with_a_chat() -> str:
    # Beside /root, so that what the scenario itself writes doesn't count as left behind.
    config = configure()
    BEFORE.update(files())
    KNOWN.write_text(json.dumps({"files": sorted(BEFORE)}))
    began = time.monotonic()
    out = run(INSTALL, "--yes", "--config", config)
    assert "It works. a: " in out, out
    assert "tiny-a: 1 2 3" in out, out
    return f"{time.monotonic() - began:.0f} s"


@seen
def a_second_run_changes_nothing() -> None:
    pid = pid_of("llm-router")
    out = run("llm-router", "install", "--yes", "--no-proof")
    assert "Everything was there already." in out, out
    assert pid_of("llm-router") == pid


@seen
def a_model_runs_in_its_unit_as_the_routers_user() -> None:
    assert "tiny-a" in chat("a")
    pid = pid_of("llamacpp")
    assert show("llamacpp", "ActiveState") == "active"
    assert Path(f"/proc/{pid}").owner() == "llm-router"


@seen
def its_log_is_shown_by_the_router() -> None:
    assert "srv" in run("llm-router", "logs", "a", "--url", URL)


@seen
def a_switch_on_one_unit_turns_its_link() -> str:
    began = time.monotonic()
    assert "tiny-b" in chat("c")
    assert (STATE / "active/llamacpp.service").readlink() == Path("/srv/scripts/c.sh")
    assert state_of("a") == "unloaded"
    return f"{time.monotonic() - began:.2f} s"


@seen
def a_switch_between_two_units_stops_the_one_and_starts_the_other() -> str:
    began = time.monotonic()
    assert "tiny-b" in chat("b")
    took = time.monotonic() - began
    assert show("second", "ActiveState") == "active"
    assert show("llamacpp", "ActiveState") == "inactive"
    assert "tiny-a" in chat("a")
    assert show("second", "ActiveState") == "inactive"
    return f"{took:.2f} s"


@seen
def a_killed_router_comes_back_and_takes_over_without_a_load() -> str:
    engine, router = pid_of("llamacpp"), kill("llm-router")
    took = until(lambda: pid_of("llm-router") not in (0, router) and answers(), "the router is back")
    until(lambda: state_of("a") == "ready", "it took over")
    assert "tiny-a" in chat("a")
    assert pid_of("llamacpp") == engine
    return f"{took:.2f} s"


@seen
def a_unit_stopped_behind_its_back_is_noticed() -> str:
    run("systemctl", "stop", "llamacpp")
    took = until(lambda: state_of("a") == "unloaded", "noticed", 5)
    assert "tiny-a" in chat("a")
    return f"{took:.2f} s"


@seen
def a_unit_that_somebody_else_started_is_recognised_by_its_script() -> str:
    began = time.monotonic()
    run("systemctl", "stop", "llm-router")
    took = time.monotonic() - began
    assert show("llamacpp", "ActiveState") == "inactive"
    run("systemctl", "start", "llamacpp")
    engine = pid_of("llamacpp")
    run("systemctl", "start", "llm-router")
    until(lambda: state_of("a") == "ready", "it took over")
    assert "tiny-a" in chat("a")
    assert pid_of("llamacpp") == engine
    return f"stopped in {took:.2f} s"


@seen
def an_engine_killed_mid_stream_ends_the_stream_with_an_error_and_is_started_again() -> str:
    chat("a")
    engine, lines = pid_of("llamacpp"), []
    for line in stream("a", ignore_eos=True, max_tokens=900):
        if '"content"' in line and not any('"content"' in earlier for earlier in lines):
            os.kill(engine, signal.SIGKILL)
        lines.append(line)
    told = [json.loads(line[6:]) for line in lines if line.startswith("data: {")]
    assert any("choices" in chunk for chunk in told), lines[:20]
    assert "error" in told[-1] and "choices" not in told[-1], lines[-5:]
    assert [line for line in lines if line][-1] == "data: [DONE]", lines[-5:]
    assert not any(chunk.get("usage") for chunk in told), "it ended as if it were whole"
    began = time.monotonic()
    assert "tiny-a" in chat("a")
    assert pid_of("llamacpp") not in (0, engine)
    return f"{told[-1]['error']['code']}; answers again after {time.monotonic() - began:.2f} s"


@seen
def an_engine_killed_mid_load_is_told_at_once_and_another_model_is_served() -> str:
    found: dict = {}
    body = {"model": "slow", "messages": [{"role": "user", "content": "x"}]}
    asking = threading.Thread(target=lambda: found.update(ask("/v1/chat/completions", body)))
    asking.start()
    until(lambda: state_of("slow") == "starting" and pid_of("llamacpp"), "it loads")
    until(lambda: "waiting" in run("llm-router", "logs", "slow", "--url", URL, check=False), "its line is seen")
    began = time.monotonic()
    kill("llamacpp")
    asking.join(30)
    took = time.monotonic() - began
    assert "SIGKILL" in json.dumps(found), found
    assert took < 5, took
    assert "tiny-a" in chat("a")
    return f"{took:.2f} s"


@seen
def a_good_and_a_broken_file_are_read_while_twenty_streams_run_and_none_is_cut() -> str:
    chat("many")
    router, engine, before = pid_of("llm-router"), pid_of("second"), CONFIG.read_text()
    streams: list[list[str]] = [[] for _ in range(20)]

    def follow(lines: list[str]) -> None:
        lines.extend(stream("many", ignore_eos=True, max_tokens=1000))

    asking = [threading.Thread(target=follow, args=(lines,)) for lines in streams]
    for one in asking:
        one.start()
    until(lambda: all(any('"content"' in line for line in lines) for lines in streams), "all of them speak")
    good = json.loads(before)
    good["models"]["a"]["aliases"] = ["another-name"]
    good["models"]["later"] = {**good["models"]["c"]}
    CONFIG.write_text(json.dumps(good))
    run("llm-router", "reload", "--url", URL)
    assert "later" in [one["id"] for one in ask("/v1/models")["data"]]
    CONFIG.write_text('{"models": {"a": {"backend": "llamacpp"}}}')
    said = run("llm-router", "reload", "--url", URL, check=False)
    assert "how the model starts" in said, said
    assert ask("/admin/status")["config_problems"]
    assert "later" in [one["id"] for one in ask("/v1/models")["data"]]
    running = sum(one.is_alive() for one in asking)
    for one in asking:
        one.join(120)
    whole = [any('"usage"' in line for line in lines) and lines[-2:].count("data: [DONE]") for lines in streams]
    assert whole == [1] * 20, [lines[-4:] for lines in streams]
    assert not any('"error"' in line for lines in streams for line in lines)
    assert (pid_of("llm-router"), pid_of("second")) == (router, engine)
    CONFIG.write_text(before)
    run("llm-router", "reload", "--url", URL)
    assert not ask("/admin/status").get("config_problems")
    return f"{running} of 20 ran on after both"


@seen
def everything_killed_at_once_is_no_reason_to_stay_away() -> None:
    chat("a")
    for unit in ("llm-router", "llamacpp"):
        kill(unit)
    until(answers, "the router is back")
    assert "tiny-a" in chat("a")


@seen
def a_router_that_hangs_is_restarted_by_the_watchdog() -> str:
    assert show("llm-router", "WatchdogUSec") == "30s"
    router = kill("llm-router", signal.SIGSTOP)
    return f"{until(lambda: pid_of('llm-router') not in (0, router) and answers(), 'restarted', 60):.0f} s"


@seen
def the_routers_user_can_use_the_units_of_the_configuration() -> None:
    # While it is in use its end is noticed at once, and the router's own stop may cancel the start that follows.
    run("llm-router", "unload", "a", "--url", URL)
    for verb in ("start", "restart", "stop"):
        run("runuser", "-u", "llm-router", "--", "systemctl", "--no-ask-password", verb, "llamacpp.service")


@seen
def and_no_other_unit_nor_anything_else() -> None:
    Path("/etc/systemd/system/other.service").write_text("[Service]\nExecStart=/bin/sleep 9\n")
    run("systemctl", "daemon-reload")
    for verb in (("start", "other.service"), ("stop", "systemd-logind.service"), ("enable", "llamacpp.service"),
                 ("daemon-reload",), ("reboot",), ("set-property", "llamacpp.service", "User=root")):  # fmt: skip
        assert as_user("llm-router", "systemctl", "--no-ask-password", *verb) != 0, verb
    assert show("other", "ActiveState") == "inactive"
    Path("/etc/systemd/system/other.service").unlink()
    run("systemctl", "daemon-reload")


@seen
def another_user_cant_use_the_rule() -> None:
    for verb in ("start", "stop", "restart"):
        assert as_user("nobody", "systemctl", "--no-ask-password", verb, "llamacpp.service") != 0, verb


@seen
def the_units_are_verified_and_rated() -> str:
    chat("b")  # a unit without its link has nothing to run yet, and is told so
    names = ("llm-router.service", "llamacpp.service", "second.service")
    for name in names:
        said = run("systemd-analyze", "verify", f"/etc/systemd/system/{name}")
        assert not said.strip(), said
    rated = (run("systemd-analyze", "security", "--no-pager", name).strip().splitlines()[-1] for name in names[:2])
    return " | ".join(line.split(":", 1)[1].split()[0] for line in rated)


@seen
def an_upgrade_keeps_configuration_and_history() -> None:
    release = Path("/opt/llm-router/current").readlink()
    config = CONFIG.read_text()
    history = (STATE / "history.sqlite").stat().st_ino
    run(INSTALL, "--yes")
    assert Path("/opt/llm-router/current").readlink() != release
    assert not release.exists()
    assert CONFIG.read_text() == config
    assert (STATE / "history.sqlite").stat().st_ino == history
    assert "tiny-a" in chat("a")


@seen
def a_configuration_with_a_mistake_is_refused_before_anything_changes() -> None:
    path = Path.home() / "broken.json"
    path.write_text('{"models": {"a": {"backend": "llamacpp"}}}')
    out = run("llm-router", "install", "--yes", "--config", str(path), check=False)
    path.unlink()
    assert "it has mistakes" in out and "how the model starts" in out, out


@contextlib.contextmanager
def small_state() -> Iterator[None]:
    """Another disk as state folder, of 3 MB, with the router restarted on it; afterwards the usual one again."""
    run("systemctl", "stop", "llm-router")
    run("mount", "-t", "tmpfs", "-o", "size=3m,mode=0750,uid=llm-router,gid=llm-router", "tmpfs", str(STATE))
    try:
        run("systemctl", "start", "llm-router")
        until(answers, "it serves")
        yield
    finally:
        run("systemctl", "stop", "llm-router", check=False)
        while status_of("mountpoint", "-q", str(STATE)) == 0:
            run("umount", "--lazy", str(STATE))
        run("systemctl", "start", "llm-router")
        until(answers, "it serves again")


def fill(folder: Path) -> Path:
    path = folder / "fill"
    with contextlib.suppress(OSError), path.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(512))
    return path


@seen
def a_full_disk_costs_only_what_cannot_be_written_and_nothing_when_there_is_room_again() -> str:
    with small_state():
        assert "tiny-a" in chat("a")
        known = len(loads())
        filling = fill(STATE)
        assert "tiny-b" in chat("own"), "a process of its own"
        refused = ask("/v1/chat/completions", {"model": "c", "messages": [{"role": "user", "content": "x"}]})
        assert "tiny-a" in chat("a"), "what its unit runs already needs no room"
        assert "No space left" in json.dumps(refused) and "make room" in json.dumps(refused), refused
        assert "cannot write history" in log()
        filling.unlink()
        assert "tiny-b" in chat("b")
        until(lambda: len(loads()) >= known + 3, "what could not be written is written")
        assert "is written to" in log()
        return json.dumps(refused["error"]["message"])


@seen
def a_disk_that_can_only_be_read_costs_a_warning_and_no_model() -> str:
    with small_state():
        assert "tiny-b" in chat("own")
        engine = engine_of("own")
        # For whoever comes from now on: what has files open there keeps the disk itself from becoming read-only.
        run("mount", "--bind", str(STATE), str(STATE))
        run("mount", "-o", "remount,bind,ro", str(STATE))
        router = kill("llm-router")
        until(lambda: pid_of("llm-router") not in (0, router) and answers(), "the router is back")
        until(lambda: state_of("own") == "ready", "it took over")
        assert engine_of("own") == engine
        assert "tiny-b" in chat("own")
        said = [line for line in log().splitlines() if "can only be read" in line or "readonly" in line]
        assert said
        return said[-1]


def engine_of(model: str) -> int:
    return next(one["pid"] for one in ask("/admin/status")["models"] if one["id"] == model)


@seen
def the_power_is_cut() -> None:
    """The last of the first run: nothing is stopped, nothing is said to anybody."""
    chat("own")
    known = {"loads": loads(), "config": CONFIG.read_text(), "boot": boot()}
    KNOWN.write_text(json.dumps({**json.loads(KNOWN.read_text()), **known}))
    print(json.dumps({"name": "the_power_is_cut", "ok": True, "took_s": 0, "detail": None}), flush=True)
    os.sync()
    run("systemctl", "poweroff", "--force", "--force")
    time.sleep(60)
    raise AssertionError("it goes on")


def boot() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text()


@seen
def after_the_next_boot_it_serves_by_itself_and_knows_what_it_knew() -> str:
    known = json.loads(KNOWN.read_text())
    assert boot() != known["boot"]
    took = until(answers, "it serves", 60)
    assert CONFIG.read_text() == known["config"]
    assert loads() == known["loads"]
    assert state_of("own") == "unloaded"
    assert list((STATE / "instances").iterdir()) == []
    assert "tiny-b" in chat("own")
    assert "tiny-a" in chat("a")
    until(lambda: [one["model"] for one in loads()[-2:]] == ["own", "a"], "new loads are written down")
    return f"after {took:.1f} s; {len(known['loads'])} loads known"


@seen
def uninstalling_leaves_nothing() -> None:
    chat("a")
    run("llm-router", "install", "--uninstall", "--yes")
    assert sorted(files() - BEFORE) == [], sorted(files() - BEFORE)[:20]
    assert status_of("id", "llm-router") != 0
    assert status_of("systemctl", "cat", "llm-router.service") != 0
    assert not [path for path in Path("/proc").glob("[0-9]*") if b"llm_router" in cmdline(path)]


def cmdline(process: Path) -> bytes:
    with contextlib.suppress(OSError):
        return (process / "cmdline").read_bytes()
    return b""


@seen
def questions_without_a_terminal_are_refused() -> None:
    out = run(INSTALL, check=False)
    assert "there is no terminal" in out and "--yes" in out, out
    assert sorted(files() - BEFORE) == [], sorted(files() - BEFORE)[:20]


@seen
def a_dry_run_prints_each_step_and_its_undo_and_changes_nothing() -> None:
    out = run(INSTALL, "--dry-run", "--config", configure())
    assert out.count("    undo: ") >= 9, out
    assert sorted(files() - BEFORE) == [], sorted(files() - BEFORE)[:20]


@seen
def an_interactive_installation_is_answered_on_a_terminal() -> None:
    answers_to = {
        "Which models": "all",
        "Run them in a systemd unit": "y",
        "Port of the router": str(PORT),
        "Go on?": "y",
    }
    child, terminal = pty.fork()
    if child == 0:
        os.execv(INSTALL, [INSTALL])
    text = ""
    while True:
        try:
            data = os.read(terminal, 4096)
        except OSError:
            break
        if not data:
            break
        text += data.decode(errors="replace")
        for question, answer in list(answers_to.items()):
            if question in text and text.rstrip().endswith(":"):
                os.write(terminal, answer.encode() + b"\n")
                del answers_to[question]
                break
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0, text
    assert not answers_to, (answers_to, text)
    assert "It works." in text, text
    assert show("llamacpp", "ActiveState") == "active"
    run("llm-router", "install", "--uninstall", "--yes")
    assert sorted(files() - BEFORE) == [], sorted(files() - BEFORE)[:20]


@seen
def one_user_installs_it_without_root() -> str:
    if status_of("apt-get", "update", "-qq") or status_of("apt-get", "install", "-y", "-qq", "dbus-user-session"):
        return "not looked at: dbus-user-session can't be installed here"
    run("useradd", "--create-home", "bob")
    run("loginctl", "enable-linger", "bob")
    runtime = Path("/run/user") / run("id", "-u", "bob").strip()
    until((runtime / "bus").exists, "bob's manager")
    shutil.copytree("/tmp/source", "/home/bob/source")
    engine = "/home/bob/.local/share/llm-router/current/bin/python -m llm_router.engine.llamacpp"
    start = Path("/home/bob/start.sh")
    start.write_text(
        f'#!/bin/sh\nexec {engine} -m {MODELS}/tiny-a.gguf --port "$PORT" --alias "$MODEL" -c 1024 -ngl 0\n'
    )
    start.chmod(0o755)
    model = {"backend": "llamacpp", "script": str(start), "service": "llamacpp"}
    Path("/home/bob/c.json").write_text(json.dumps({"router_port": PORT, "models": {"a": model}}))
    run("chown", "-R", "bob", "/home/bob")
    bob = ("runuser", "-u", "bob", "--", "env", f"XDG_RUNTIME_DIR={runtime}", "HOME=/home/bob")
    out = run(*bob, "/home/bob/source/install.sh", "--user", "--yes", "--config", "/home/bob/c.json")
    assert "It works. a: " in out, out
    assert run(*bob, "systemctl", "--user", "is-active", "llamacpp").strip() == "active"
    assert status_of("systemctl", "cat", "llamacpp.service") != 0
    run(*bob, "/home/bob/.local/bin/llm-router", "install", "--user", "--uninstall", "--yes")
    left = [path for path in Path("/home/bob").rglob("*") if "llm-router" in path.name and "source" not in path.parts]
    assert left == []
    return "with a unit of bob's own manager"


def main() -> int:
    leave_out = shutil.ignore_patterns(".venv", ".git", ".hypothesis", "__pycache__")
    shutil.copytree(SOURCE, "/tmp/source", ignore=leave_out, dirs_exist_ok=True)
    if KNOWN.exists():
        BEFORE.update(json.loads(KNOWN.read_text())["files"])
    wanted = sys.argv[3:]
    failed = 0
    for look in SEEN:
        if wanted and look.__name__ not in wanted:
            continue
        began = time.monotonic()
        try:
            detail, is_so = look(), True
        except Exception:  # noqa: BLE001 -- told like any other failure
            detail, is_so = traceback.format_exc(), False
        failed += not is_so
        took = round(time.monotonic() - began, 2)
        print(json.dumps({"name": look.__name__, "ok": is_so, "took_s": took, "detail": detail}), flush=True)
    return min(failed, 80)


if __name__ == "__main__":
    sys.exit(main())
