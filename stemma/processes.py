"""A tree of long-running services under one supervisor: started in order, restarted, stopped in reverse.

It knows processes, ports and logs; which services a studio consists of is for the caller to say. The embedded
PostgreSQL is no member: it has a supervisor of its own that outlives this one (`stemma.store.supervisor`).
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import secrets
import select
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType
from typing import Literal

import psutil

from stemma.errors import Conflict, Unavailable
from stemma.store.server_files import try_lock, write_atomically
from stemma.store.supervisor import adopt_orphans

HOME_MARK = "STEMMA_UP_HOME"
TOKEN_MARK = "STEMMA_UP_TOKEN"  # noqa: S105

State = Literal["waiting", "starting", "ready", "restarting", "stopped"]

_LONGEST_BACKOFF = 30.0
_LOG_BYTES = 10_000_000
_READY_POLL = 0.1
_WATCH_POLL = 1.0


@dataclass(frozen=True, slots=True)
class Service:
    """One service: how it is started and how one knows that it is ready.

    `port` is checked before the start, `setting` names the setting it comes from. It has `patience` seconds
    to become ready (an OSError of `ready` counts as no), and `grace` seconds from SIGTERM to SIGKILL.
    """

    name: str
    argv: Sequence[str]
    env: Mapping[str, str] = field(default_factory=dict)
    ready: Callable[[], bool] = lambda: True
    port: int | None = None
    setting: str | None = None
    cwd: Path | None = None
    patience: float = 90.0
    grace: float = 10.0


@dataclass(frozen=True, slots=True)
class ServiceState:
    """What a service is doing; `since` is an ISO 8601 time in UTC, `detail` says why it was restarted."""

    name: str
    state: State = "waiting"
    pid: int | None = None
    port: int | None = None
    restarts: int = 0
    since: str = ""
    detail: str = ""


@dataclass(frozen=True, slots=True)
class TreeState:
    """A running tree as its state file shows it."""

    pid: int
    started_at: str
    services: tuple[ServiceState, ...]


class _Stopped(Exception):
    """A signal or `stop()` asked to end."""


class _Child:
    """A service with its process and the history that the backoff needs."""

    def __init__(self, service: Service) -> None:
        self.service = service
        self.state = ServiceState(service.name, port=service.port)
        self.process: subprocess.Popen[bytes] | None = None
        self.failures = 0
        self.started = 0.0
        self.next_start = 0.0


class ProcessTree:
    """Runs services until a signal. `run()` belongs to the main thread; `stop()` may be called from any."""

    def __init__(
        self,
        home: Path,
        services: Sequence[Service],
        *,
        on_change: Callable[[ServiceState], None] = lambda _: None,
        backoff: float = 0.5,
        stable_after: float = 60.0,
        log_bytes: int = _LOG_BYTES,
        sweep_grace: float = 5.0,
    ) -> None:
        self._home = home.resolve()
        self._children = [_Child(service) for service in services]
        self._on_change = on_change
        self._backoff = backoff
        self._stable_after = stable_after
        self._log_bytes = log_bytes
        self._sweep_grace = sweep_grace
        self._token = secrets.token_hex(16)
        self._started_at = _now()
        self._signals = 0
        self._wakeup, self._waker = socket.socketpair()
        self._wakeup.setblocking(False)
        self._waker.setblocking(False)

    def run(self, started: Callable[[], None] = lambda: None) -> None:
        """Start everything, call `started` once all is ready, keep it running until SIGINT or SIGTERM.

        Raises Conflict with code `already_running`, Unavailable with code `port_in_use`, `service_failed` or
        `service_not_ready`; then nothing is left running.
        """
        folder = self._home / "up"
        folder.mkdir(parents=True, exist_ok=True)
        (self._home / "logs").mkdir(exist_ok=True)
        with _sole_tree(folder / "lock"), self._signal_handlers():
            adopt_orphans()
            end_leftovers(self._home)
            for child in self._children:
                _require_port(child.service)
            try:
                for child in self._children:
                    self._start_first(child)
                started()
                while True:
                    self._watch()
            except _Stopped:
                pass
            finally:
                self._stop_all()
                (folder / "state.json").unlink(missing_ok=True)

    def stop(self) -> None:
        """Ask `run` to end as SIGTERM does; the second call spares no grace."""
        self._signals += 1
        with contextlib.suppress(BlockingIOError):
            self._waker.send(b"\0")

    # Waiting

    @contextlib.contextmanager
    def _signal_handlers(self) -> Iterator[None]:
        def on_stop(_number: int, _frame: FrameType | None) -> None:
            self._signals += 1

        handlers = {
            signal.SIGINT: on_stop,
            signal.SIGTERM: on_stop,
            signal.SIGHUP: on_stop,
            signal.SIGCHLD: lambda *_: None,
        }
        former = {number: signal.signal(number, handler) for number, handler in handlers.items()}
        descriptor = signal.set_wakeup_fd(self._waker.fileno(), warn_on_full_buffer=False)
        try:
            yield
        finally:
            signal.set_wakeup_fd(descriptor)
            for number, handler in former.items():
                signal.signal(number, handler)

    def _sleep(self, seconds: float) -> None:
        select.select([self._wakeup], [], [], max(0.0, seconds))
        with contextlib.suppress(BlockingIOError):
            while self._wakeup.recv(4096):
                pass

    def _pause(self, seconds: float) -> None:
        if not self._signals:
            self._sleep(seconds)
        if self._signals:
            raise _Stopped

    # Starting and watching

    def _start_first(self, child: _Child) -> None:
        """Start a service and wait until it is ready; the first start has to succeed."""
        self._spawn(child)
        assert child.process is not None
        while not _is_ready(child.service):
            if child.process.poll() is not None:
                raise Unavailable(
                    "service_failed",
                    f"{child.service.name} ended with {_outcome(child.process)}: {self._last_line(child)}.",
                    hint=f"Its log is {self._log(child)}.",
                )
            if time.monotonic() - child.started > child.service.patience:
                raise Unavailable(
                    "service_not_ready",
                    f"{child.service.name} is not ready after {child.service.patience:.0f} s.",
                    hint=f"Its log is {self._log(child)}.",
                )
            self._pause(_READY_POLL)
        self._show(child, "ready")

    def _watch(self) -> None:
        now = time.monotonic()
        poll = _WATCH_POLL
        for child in self._children:
            process = child.process
            if process is None and now >= child.next_start:
                self._restart(child)
            elif process is not None and process.poll() is not None:
                self._plan_restart(child, f"it ended with {_outcome(process)}")
            elif process is not None and child.state.state == "starting":
                if _is_ready(child.service):
                    self._show(child, "ready")
                elif now - child.started > child.service.patience:
                    process.kill()
                    process.wait()
                    self._plan_restart(child, f"it was not ready after {child.service.patience:.0f} s")
            if child.process is None:
                poll = min(poll, max(0.0, child.next_start - time.monotonic()))
            elif child.state.state == "starting":
                poll = min(poll, _READY_POLL)
            self._bound_log(child)
        self._reap_orphans()
        self._pause(poll)

    def _spawn(self, child: _Child) -> None:
        service = child.service
        marks = {HOME_MARK: str(self._home), TOKEN_MARK: self._token}
        with self._log(child).open("ab") as log:
            try:
                child.process = subprocess.Popen(
                    list(service.argv),
                    env={**os.environ, **service.env, **marks},
                    cwd=service.cwd,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,
                )
            except OSError as error:
                raise Unavailable(
                    "service_failed",
                    f"{service.name} cannot be started: {error.strerror}: {service.argv[0]}.",
                ) from error
        child.started = time.monotonic()
        self._show(child, "starting", pid=child.process.pid)

    def _restart(self, child: _Child) -> None:
        try:
            self._spawn(child)
        except Unavailable as error:
            self._plan_restart(child, error.message)

    def _plan_restart(self, child: _Child, detail: str) -> None:
        if time.monotonic() - child.started > self._stable_after:
            child.failures = 0
        child.next_start = time.monotonic() + min(_LONGEST_BACKOFF, self._backoff * 2.0**child.failures)
        child.failures += 1
        child.process = None
        self._show(child, "restarting", pid=None, restarts=child.state.restarts + 1, detail=detail)

    def _reap_orphans(self) -> None:
        """Reap what a dead service left to this process; its own children are waited for by name."""
        if sys.platform != "linux":
            return
        own = {child.process.pid for child in self._children if child.process is not None}
        with contextlib.suppress(ChildProcessError):
            while ended := os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT):
                if ended.si_pid in own:
                    return
                os.waitpid(ended.si_pid, os.WNOHANG)

    # Stopping

    def _stop_all(self) -> None:
        for child in reversed(self._children):
            if child.process is not None:
                self._end(child)
                self._show(child, "stopped", pid=None)
        _end_processes(_marked(self._home, self._token), grace=self._sweep_grace)
        self._reap_orphans()

    def _end(self, child: _Child) -> None:
        process = child.process
        assert process is not None
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        deadline = time.monotonic() + child.service.grace
        while process.poll() is None and time.monotonic() < deadline and self._signals < 2:
            self._sleep(min(_READY_POLL, deadline - time.monotonic()))
        if process.poll() is None:
            process.kill()
            process.wait()

    # What is shown

    def _show(self, child: _Child, state: State, **changes: object) -> None:
        child.state = replace(child.state, state=state, since=_now(), **changes)  # type: ignore[arg-type]
        tree = TreeState(os.getpid(), self._started_at, tuple(each.state for each in self._children))
        # A full disk must not end the services.
        with contextlib.suppress(OSError):
            write_atomically(self._home / "up" / "state.json", json.dumps(asdict(tree), indent=1) + "\n")
        self._on_change(child.state)

    def _log(self, child: _Child) -> Path:
        return self._home / "logs" / f"{child.service.name}.log"

    def _bound_log(self, child: _Child) -> None:
        """Keep one former log: services append, so that cutting the file at zero is safe while they write."""
        log = self._log(child)
        with contextlib.suppress(OSError):
            if log.stat().st_size > self._log_bytes:
                shutil.copyfile(log, log.with_suffix(".log.1"))
                os.truncate(log, 0)

    def _last_line(self, child: _Child) -> str:
        with self._log(child).open("rb") as log:
            log.seek(max(0, log.seek(0, os.SEEK_END) - 4096))
            lines = log.read().decode("utf-8", errors="replace").splitlines()
        return next((line.strip().rstrip(".") for line in reversed(lines) if line.strip()), "it said nothing")


def running(home: Path) -> TreeState | None:
    """The tree that runs on `home`, or None; the lock tells, so that a dead one's state is not believed."""
    folder = home.resolve() / "up"
    try:
        with (folder / "lock").open("rb") as lock:
            if try_lock(lock.fileno(), fcntl.LOCK_SH):
                return None
        fields = json.loads((folder / "state.json").read_text(encoding="utf-8"))
        services = tuple(ServiceState(**service) for service in fields.pop("services"))
        return TreeState(**fields, services=services)
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return None


def require_none(home: Path) -> None:
    """Raise Conflict with code `already_running` when a tree runs on `home`."""
    tree = running(home)
    if tree is not None:
        raise _already_running(tree.pid)


def _already_running(pid: int | str) -> Conflict:
    return Conflict(
        "already_running",
        f"The services of this studio run already (process {pid}).",
        hint="Stop them first, or set STEMMA_HOME for a second studio.",
    )


def end_leftovers(home: Path) -> int:
    """End what an earlier tree on `home` left when it was killed; returns how many processes that were."""
    return _end_processes(_marked(home.resolve(), None), grace=10.0)


def port_owner(port: int) -> int | None:
    """The pid that listens on `port`, where the system tells it."""
    try:
        connections = psutil.net_connections(kind="tcp")
    except psutil.Error:
        return None
    listening = (c.pid for c in connections if c.status == psutil.CONN_LISTEN and c.laddr[1:] == (port,))
    return next((pid for pid in listening if pid), None)


def port_is_free(port: int, host: str = "127.0.0.1") -> bool:
    """Whether a server could bind `port` on `host` now."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
    return True


def _require_port(service: Service) -> None:
    if service.port is None or port_is_free(service.port):
        return
    owner = port_owner(service.port)
    who = f"process {owner}" if owner else "another program"
    raise Unavailable(
        "port_in_use",
        f"Port {service.port} for {service.name} is used by {who}.",
        field=service.setting,
        hint=f"End it, or set {service.setting} to a free port." if service.setting else "End it first.",
    )


@contextlib.contextmanager
def _sole_tree(lock: Path) -> Iterator[None]:
    descriptor = os.open(lock, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        # Whoever asks for the state holds the lock for an instant.
        deadline = time.monotonic() + 1
        while not try_lock(descriptor, fcntl.LOCK_EX):
            if time.monotonic() > deadline:
                pid = os.pread(descriptor, 20, 0).decode("ascii", errors="replace").strip()
                raise _already_running(pid)
            time.sleep(0.02)
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        yield
    finally:
        os.close(descriptor)


def _marked(home: Path, token: str | None) -> list[psutil.Process]:
    """Processes that carry the marks of a tree on `home`: of the one with `token`, or of any."""
    spared = {os.getpid(), *(parent.pid for parent in psutil.Process().parents())}
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            environment = process.environ() if process.pid not in spared else {}
            if environment.get(HOME_MARK) == str(home) and token in (None, environment.get(TOKEN_MARK)):
                found.append(process)
    return found


def _end_processes(found: Sequence[psutil.Process], *, grace: float) -> int:
    """SIGTERM, then SIGKILL; psutil compares the start time, so that a reused pid is never hit."""
    left = list(found)
    for action, patience in ((psutil.Process.terminate, grace), (psutil.Process.kill, 5.0)):
        for process in left:
            with contextlib.suppress(psutil.Error):
                action(process)
        deadline = time.monotonic() + patience
        while (left := [process for process in left if _lives(process)]) and time.monotonic() < deadline:
            time.sleep(0.05)
    return len(found)


def _lives(process: psutil.Process) -> bool:
    """A zombie does not: nobody may ever reap it where process 1 does not."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


def _is_ready(service: Service) -> bool:
    try:
        return service.ready()
    except OSError:
        return False


def _outcome(process: subprocess.Popen[bytes]) -> str:
    code = process.returncode
    if code is not None and code < 0:
        return signal.Signals(-code).name
    return f"status {code}"


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")
