"""The process tree with real children: order, readiness, restarts, and what it leaves behind."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from stemma import processes
from stemma.errors import Conflict, Unavailable
from stemma.processes import ProcessTree, Service

_TREE = """
import json, sys, urllib.request
from pathlib import Path
from stemma.errors import StemmaError
from stemma.processes import ProcessTree, Service

home, services = Path(sys.argv[1]), json.loads(sys.argv[2])
def answers(port):
    return lambda: urllib.request.urlopen(f"http://127.0.0.1:{port}/").status == 200
def service(s):
    port = s.get("port")
    ready = answers(port) if port else lambda: True
    known = {"ready": ready, "port": port, "setting": "STEMMA_API_PORT"}
    return Service(s["name"], s["argv"], patience=20, grace=1, **known)
tree = ProcessTree(
    home, list(map(service, services)),
    on_change=lambda s: print(json.dumps([s.name, s.state, s.pid]), flush=True),
    backoff=0.05, stable_after=0.5, log_bytes=5000, sweep_grace=0.5,
)
try:
    tree.run(started=lambda: print('["tree", "started", 0]', flush=True))
except StemmaError as error:
    print(json.dumps([error.code, error.field, str(error)]), flush=True)
    sys.exit(error.exit_code)
"""
_STUBBORN = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)"


class _Tree:
    """A tree in a process of its own, as the command line runs it."""

    def __init__(self, home: Path, *services: dict[str, object]) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", _TREE, str(home), json.dumps(services)], stdout=subprocess.PIPE, text=True
        )

    def next(self) -> list[object]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        return list(json.loads(line)) if line else []

    def until(self, name: str, state: str) -> int:
        while (event := self.next())[:2] != [name, state]:
            assert event, f"the tree ended before {name} was {state}"
        assert isinstance(event[2], int)
        return event[2]

    def rest(self) -> list[list[object]]:
        return list(iter(self.next, []))


@pytest.fixture
def tree(tmp_path: Path) -> Iterator[Callable[..., _Tree]]:
    trees: list[_Tree] = []

    def start(*services: dict[str, object]) -> _Tree:
        trees.append(_Tree(tmp_path, *services))
        return trees[-1]

    yield start
    for each in trees:
        each.process.kill()
        each.process.communicate()
    processes.end_leftovers(tmp_path)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _server(name: str) -> dict[str, object]:
    port = _free_port()
    return {
        "name": name,
        "port": port,
        "argv": [sys.executable, "-m", "http.server", str(port), "--bind", "127.0.0.1"],
    }


def _sleeper(name: str, code: str = "import time; time.sleep(600)") -> dict[str, object]:
    return {"name": name, "argv": [sys.executable, "-c", code]}


def _until(condition: Callable[[], bool], seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "the condition did not come true"
        time.sleep(0.02)


def _lives(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_services_start_in_order_and_stop_in_reverse(
    tree: Callable[..., _Tree], tmp_path: Path, number: signal.Signals
) -> None:
    running = tree(_server("first"), _server("second"))
    events = [running.next() for _ in range(5)]
    assert [event[:2] for event in events] == [
        ["first", "starting"],
        ["first", "ready"],
        ["second", "starting"],
        ["second", "ready"],
        ["tree", "started"],
    ]
    state = processes.running(tmp_path)
    assert state is not None and state.pid == running.process.pid
    assert [(service.name, service.state) for service in state.services] == [
        ("first", "ready"),
        ("second", "ready"),
    ]
    running.process.send_signal(number)
    assert [event[:2] for event in running.rest()] == [["second", "stopped"], ["first", "stopped"]]
    assert running.process.wait(20) == 0
    assert not any(_lives(service.pid or 0) for service in state.services)
    assert processes.running(tmp_path) is None
    assert "GET / HTTP" in (tmp_path / "logs" / "first.log").read_text()


def test_a_service_that_dies_is_restarted(tree: Callable[..., _Tree], tmp_path: Path) -> None:
    running = tree(_server("web"), _sleeper("other"))
    first = running.until("web", "ready")
    running.until("tree", "started")
    for _ in range(2):
        os.kill(first, signal.SIGKILL)
        second = running.until("web", "ready")
        assert second != first and _lives(second)
        first = second
    state = processes.running(tmp_path)
    assert state is not None
    web = state.services[0]
    assert (web.restarts, web.detail, state.services[1].restarts) == (2, "it ended with SIGKILL", 0)


def test_a_service_that_keeps_dying_is_retried_more_and_more_slowly(tree: Callable[..., _Tree], tmp_path: Path) -> None:
    flag = tmp_path / "once"
    code = f"import pathlib, time\nif pathlib.Path({str(flag)!r}).exists(): raise SystemExit(3)\ntime.sleep(600)"
    running = tree(_sleeper("moody", code))
    pid = running.until("moody", "ready")
    flag.touch()
    os.kill(pid, signal.SIGKILL)
    _until(lambda: (state := processes.running(tmp_path)) is not None and state.services[0].restarts >= 4)
    state = processes.running(tmp_path)
    assert state is not None and "status 3" in state.services[0].detail
    flag.unlink()
    _until(lambda: (state := processes.running(tmp_path)) is not None and state.services[0].state == "ready")


def test_a_first_start_that_fails_stops_what_ran_and_says_why(tree: Callable[..., _Tree]) -> None:
    broken = {**_server("broken"), "argv": [sys.executable, "-c", "raise SystemExit('the disk is missing')"]}
    running = tree(_server("first"), broken)
    first = running.until("first", "ready")
    events = running.rest()
    code, _, message = events[-1]
    assert code == "service_failed" and "broken" in str(message) and "the disk is missing" in str(message)
    assert running.process.wait(20) == Unavailable.exit_code
    assert not _lives(first)


def test_a_program_that_does_not_exist_is_named(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match="/no/such/program") as caught:
        ProcessTree(tmp_path, [Service("ghost", ["/no/such/program"])]).run()
    assert caught.value.code == "service_failed"
    assert processes.running(tmp_path) is None


def test_a_service_that_is_never_ready_is_given_up(tmp_path: Path) -> None:
    service = Service("slow", [sys.executable, "-c", "import time; time.sleep(600)"], ready=lambda: False, patience=0.3)
    pids: list[int] = []
    with pytest.raises(Unavailable) as caught:
        ProcessTree(tmp_path, [service], on_change=lambda s: pids.extend([s.pid] if s.pid else [])).run()
    assert caught.value.code == "service_not_ready"
    assert pids and not any(map(_lives, pids))


def test_a_second_tree_on_the_same_home_is_refused(tree: Callable[..., _Tree], tmp_path: Path) -> None:
    running = tree(_server("web"))
    web = running.until("web", "ready")
    running.until("tree", "started")
    with pytest.raises(Conflict, match=str(running.process.pid)) as caught:
        ProcessTree(tmp_path, []).run()
    assert caught.value.code == "already_running"
    assert _lives(web)


def test_a_taken_port_is_told_with_its_owner_and_setting(tree: Callable[..., _Tree]) -> None:
    service = _server("web")
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        other.bind(("127.0.0.1", int(str(service["port"]))))
        other.listen()
        events = tree(service).rest()
    code, field, message = events[-1]
    assert (code, field) == ("port_in_use", "STEMMA_API_PORT")
    assert str(service["port"]) in str(message) and str(os.getpid()) in str(message)


def test_a_killed_trees_leftovers_are_ended_by_the_next(tree: Callable[..., _Tree], tmp_path: Path) -> None:
    """Grandchildren too: they inherit the mark although they left their parent's session."""
    pid_file = tmp_path / "grandchild"
    code = (
        "import subprocess, sys, pathlib, time\n"
        "command = [sys.executable, '-c', 'import time; time.sleep(600)']\n"
        "p = subprocess.Popen(command, start_new_session=True)\n"
        f"pathlib.Path({str(pid_file)!r}).write_text(str(p.pid))\n"
        "time.sleep(600)"
    )
    web = _server("web")
    killed = tree(web, _sleeper("parent", code))
    old = killed.until("web", "ready")
    killed.until("tree", "started")
    _until(lambda: pid_file.exists() and pid_file.read_text() != "")
    grandchild = int(pid_file.read_text())
    killed.process.kill()
    killed.process.wait()
    assert _lives(old) and _lives(grandchild)
    assert processes.running(tmp_path) is None

    following = tree(web)
    new = following.until("web", "ready")
    assert new != old and not _lives(old) and not _lives(grandchild)
    following.process.terminate()
    assert following.process.wait(20) == 0


def test_what_ignores_the_polite_signal_is_killed(tree: Callable[..., _Tree]) -> None:
    spawner = (
        "import subprocess, sys, time\n"
        f"subprocess.Popen([sys.executable, '-c', {_STUBBORN!r}], start_new_session=True)\n"
        "print('spawned', flush=True)\ntime.sleep(600)"
    )
    running = tree(_sleeper("stubborn", _STUBBORN), _sleeper("spawner", spawner))
    stubborn = running.until("stubborn", "ready")
    running.until("tree", "started")
    _until(lambda: len(psutil.Process(running.process.pid).children(recursive=True)) == 3)
    family = psutil.Process(running.process.pid).children(recursive=True)
    running.process.terminate()
    assert running.process.wait(30) == 0
    assert not _lives(stubborn) and not any(_lives(process.pid) for process in family)


def test_logs_stay_within_their_bound(tree: Callable[..., _Tree], tmp_path: Path) -> None:
    code = "import time\nwhile True: print('x' * 999, flush=True); time.sleep(0.002)"
    running = tree(_sleeper("chatty", code))
    running.until("tree", "started")
    log = tmp_path / "logs" / "chatty.log"
    _until(lambda: log.with_suffix(".log.1").exists())
    cut = log.stat().st_ino
    _until(lambda: log.stat().st_size > 5000)
    assert log.stat().st_ino == cut, "the service still writes to the file that is shown"
