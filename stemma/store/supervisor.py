"""The process that owns the embedded PostgreSQL: starts it, restarts it, stops it when nobody uses it.

One supervisor at a time holds `supervisor.lock`; `server.json` says what it has running. Its clients belong
to `embedded`, the cluster's making to `cluster`. Standard library only, and run without site-packages:
this process lives as long as the server does.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from types import FrameType
from typing import Any

from stemma.errors import Unavailable
from stemma.store import cluster, privileges
from stemma.store.privileges import Runtime
from stemma.store.server_files import Layout, ServerState, try_lock, write_atomically

_STABLE_AFTER = 60.0
_LONGEST_BACKOFF = 30.0
_LONGEST_PAUSE = 5.0
_KEPT_LOGS = 5
_PR_SET_CHILD_SUBREAPER = 36


class _Stopped(Exception):
    """A signal asked to stop while something was awaited."""


class Supervisor:
    """Owns one server. `run()` returns when the server is down; raises Unavailable if it never came up."""

    def __init__(
        self,
        layout: Layout,
        binaries: Path,
        *,
        shared_buffers: str,
        idle: float,
        report: Callable[[Unavailable | None], None],
    ) -> None:
        self._layout = layout
        self._binaries = binaries
        self._shared_buffers = shared_buffers
        self._idle = idle
        self._report = report
        self._state = ServerState("starting", os.getpid())
        self._written: ServerState | None = None
        self._server: int | None = None
        self._stopping = False
        self._wakeup, self._waker = socket.socketpair()
        self._leases = os.open(layout.leases, os.O_RDWR | os.O_CREAT, 0o600)
        self._last_used = time.time()

    def run(self) -> None:
        """Start the server and keep it running until SIGTERM, SIGINT or `idle` seconds without a lease."""
        self._listen_for_signals()
        try:
            self._publish(state="starting")
            runtime = privileges.choose(self._binaries, self._layout.root)
            self._start(runtime)
            self._report(None)
            self._watch(runtime)
        except _Stopped:
            pass
        finally:
            self._stop()

    def _listen_for_signals(self) -> None:
        self._wakeup.setblocking(False)
        self._waker.setblocking(False)
        signal.set_wakeup_fd(self._waker.fileno(), warn_on_full_buffer=False)
        signal.signal(signal.SIGTERM, self._on_stop)
        signal.signal(signal.SIGINT, self._on_stop)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)

    def _on_stop(self, _number: int, _frame: FrameType | None) -> None:
        self._stopping = True

    def _pause(self, seconds: float) -> None:
        """Wait for a signal, `seconds` at most; raises _Stopped when one asked to stop."""
        if not self._stopping:
            self._sleep(seconds)
        if self._stopping:
            raise _Stopped
        self._reap()

    def _sleep(self, seconds: float) -> None:
        select.select([self._wakeup], [], [], seconds)
        with contextlib.suppress(BlockingIOError):
            while self._wakeup.recv(4096):
                pass

    def _publish(self, **changes: Any) -> None:
        self._state = replace(self._state, **changes)
        self._write_state()

    def _write_state(self) -> None:
        if self._state == self._written:
            return
        text = json.dumps(asdict(self._state), indent=1) + "\n"
        try:
            write_atomically(self._layout.state, text)
        except OSError:
            # A full disk still has the room that the last state took.
            if not self._layout.state.exists():
                raise
            with self._layout.state.open("r+", encoding="utf-8") as file:
                file.write(text)
                file.truncate()
        self._written = self._state

    # Starting

    def _start(self, runtime: Runtime) -> None:
        data = runtime.root / "data"
        programs = cluster.version(runtime)
        cluster.require_version(data, programs)
        cluster.end_leftovers(data, self._pause)
        cluster.sweep_unfinished(runtime)
        port = cluster.choose_port(self._layout.port)
        passwords = self._passwords(runtime, data)
        if not (data / "PG_VERSION").exists():
            cluster.create(runtime, data, passwords["postgres"], programs)
        folder = cluster.socket_folder(runtime, port)
        self._publish(
            port=port,
            socket_dir=str(folder) if folder else None,
            data=str(data),
            binaries=str(runtime.binaries),
            strategy=runtime.strategy,
            version=programs,
        )
        self._run_server(runtime)
        cluster.bootstrap(runtime, str(folder or cluster.HOST), port, passwords)
        self._publish(state="ready")

    def _passwords(self, runtime: Runtime, data: Path) -> dict[str, str]:
        """The passwords by role, made on the first start; where the file was lost, all roles get new ones."""
        known = self._layout.read_credentials()
        if known.keys() >= set(cluster.ROLES):
            return known
        passwords = {role: known.get(role, os.urandom(24).hex()) for role in cluster.ROLES}
        if (data / "PG_VERSION").exists():
            cluster.reset_superuser(runtime, data, passwords["postgres"])
        write_atomically(self._layout.credentials, json.dumps(passwords, indent=1) + "\n")
        return passwords

    def _run_server(self, runtime: Runtime) -> None:
        """Start `postgres` as a child and wait, however long recovery takes, until it accepts connections."""
        data, port, began = runtime.root / "data", self._state.port, time.time()
        assert port is not None
        cluster.require_port(port, self._layout.port)
        logs = runtime.root / "log"
        logs.mkdir(mode=0o700, exist_ok=True)
        runtime.identity.give(logs, 0o700)
        command = runtime.identity.command(runtime.binaries / "postgres", "-D", data)
        parameters = cluster.configuration(logs, port, self._state.socket_dir, self._shared_buffers)
        for name, value in parameters.items():
            command += ["-c", f"{name}={value}"]
        with self._layout.startup_log.open("wb") as startup:
            process = subprocess.Popen(command, stdout=startup, stderr=startup, **runtime.identity.options)
        # Children are reaped all in one place, so Popen must not wait for this one.
        process.returncode = 0
        self._server = process.pid
        self._publish(pid=self._server)
        while not cluster.accepts_connections(data, process.pid):
            self._pause(0.02 if time.time() - began < 2 else 0.25)
            if self._server is None:
                raise cluster.start_failed(cluster.last_words(self._layout.startup_log, logs, began))

    # Running

    def _watch(self, runtime: Runtime) -> None:
        failures, next_try, running_since = 0, 0.0, time.monotonic()
        was_running = True
        while True:
            self._reap()
            if was_running and self._server is None:
                failures = 0 if time.monotonic() - running_since > _STABLE_AFTER else failures
                next_try = time.monotonic() + _backoff(failures)
            if self._server is None and time.monotonic() >= next_try:
                failures += 1
                self._restart(runtime)
                next_try = time.monotonic() + _backoff(failures)
                running_since = time.monotonic()
            was_running = self._server is not None
            if self._unused():
                return
            self._remove_old_logs(runtime.root / "log")
            # On a full disk the state is written as soon as there is room again.
            with contextlib.suppress(OSError):
                self._write_state()
            wait = _LONGEST_PAUSE if was_running else max(0.0, next_try - time.monotonic())
            self._pause(min(_LONGEST_PAUSE, self._idle / 4, wait))

    def _restart(self, runtime: Runtime) -> None:
        """Bring a server that ended up again; where it does not come up, the state says why."""
        try:
            self._publish(state="restarting", pid=None)
            cluster.end_leftovers(runtime.root / "data", self._pause)
            self._run_server(runtime)
            self._publish(state="ready", code=None, message=None, hint=None)
        except (Unavailable, OSError) as error:
            failure = error if isinstance(error, Unavailable) else cluster.start_failed(str(error))
            if self._server is None:
                self._state = replace(
                    self._state,
                    state="failing",
                    pid=None,
                    code=failure.code,
                    message=failure.message,
                    hint=failure.hint,
                )

    def _reap(self) -> None:
        """Reap every child that has ended, the backends of a killed server included."""
        with contextlib.suppress(ChildProcessError):
            while (pid := os.waitpid(-1, os.WNOHANG)[0]) != 0:
                if pid == self._server:
                    self._server = None

    def _unused(self) -> bool:
        """Whether nobody held a lease for the idle time; if so, nobody gets one before this process ends."""
        if not try_lock(self._leases, fcntl.LOCK_EX):
            self._last_used = time.time()
            return False
        self._last_used = max(self._last_used, os.fstat(self._leases).st_mtime)
        if 0 <= time.time() - self._last_used < self._idle:
            fcntl.flock(self._leases, fcntl.LOCK_UN)
            return False
        return True

    def _remove_old_logs(self, logs: Path) -> None:
        for log in sorted(logs.glob("postgres-*.log"))[:-_KEPT_LOGS]:
            log.unlink(missing_ok=True)

    # Stopping

    def _stop(self) -> None:
        self._reap()
        if self._server is not None:
            with contextlib.suppress(OSError):
                self._publish(state="stopping")
            cluster.shut_down(self._server, self._server_runs, self._sleep)

    def _server_runs(self) -> bool:
        self._reap()
        return self._server is not None


def _backoff(failures: int) -> float:
    return min(_LONGEST_BACKOFF, 0.1 * 2.0**failures) if failures else 0.0


@contextlib.contextmanager
def _sole_supervisor(layout: Layout) -> Iterator[bool]:
    """Hold the supervisor's lock; yields False where another supervisor has it."""
    descriptor = os.open(layout.supervisor_lock, os.O_RDWR | os.O_CREAT, 0o600)
    # A client that asks whether a supervisor lives holds this lock for an instant.
    deadline = time.monotonic() + 5
    while not (held := try_lock(descriptor, fcntl.LOCK_EX)) and time.monotonic() < deadline:
        time.sleep(0.01)
    try:
        yield held
    finally:
        os.close(descriptor)


def _detach() -> None:
    """Leave the starter: its own child ends at once, and this process belongs to no terminal."""
    if os.fork() > 0:
        os._exit(0)
    os.chdir("/")
    os.umask(0o077)


def adopt_orphans() -> None:
    """Become the parent of a killed server's backends: they are reaped even where process 1 reaps nothing."""
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def main(arguments: list[str] | None = None) -> int:
    """Run the supervisor; one line of JSON on the descriptor `--notify` says how the start went."""
    parser = argparse.ArgumentParser(prog="stemma.store.supervisor", description=__doc__)
    parser.add_argument("home", type=Path)
    parser.add_argument("--binaries", type=Path, required=True)
    parser.add_argument("--shared-buffers", required=True)
    parser.add_argument("--idle", type=float, required=True)
    parser.add_argument("--notify", type=int, required=True)
    given = parser.parse_args(arguments)
    _detach()
    adopt_orphans()

    def report(error: Unavailable | None) -> None:
        answer: dict[str, Any] = {"started": error is None}
        if error is not None:
            answer |= {"code": error.code, "message": error.message, "hint": error.hint, "field": error.field}
        with contextlib.suppress(OSError), os.fdopen(given.notify, "w", encoding="utf-8") as starter:
            starter.write(json.dumps(answer) + "\n")

    layout = Layout.of(given.home)
    with _sole_supervisor(layout) as alone:
        if not alone:
            return 0
        supervisor = Supervisor(
            layout, given.binaries, shared_buffers=given.shared_buffers, idle=given.idle, report=report
        )
        try:
            supervisor.run()
        except Unavailable as error:
            report(error)
            return 1
        except OSError as error:
            report(cluster.start_failed(str(error)))
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
