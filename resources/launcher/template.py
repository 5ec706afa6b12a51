"""The process that runs are forked from: it has imported what they need, and has no thread and no connection.

It listens on a socket in Dagster's folder and forks a supervisor with its worker for each run that it is asked for.
When a file that it has imported changed, it becomes a fresh image of itself before the next run: no run executes code
that is no longer there. When its code cannot be imported, it says so to whoever asks and tries again. It ends with its
parent.

    python -m resources.launcher.template MODULE FOLDER
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import os
import select
import socket
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final, NoReturn

import psutil

from resources.launcher.request import LONGEST_MESSAGE, address

if TYPE_CHECKING:
    from dagster._core.instance.ref import InstanceRef

_NAME: Final = "resources.launcher.template"
_BACKLOG = 64
_REQUEST_PATIENCE = 5.0
_SECONDS_BETWEEN_LOOKS: Final = 2.0
_IMPORTED_LATE: Final = (
    "dagster._core.executor.in_process",
    "dagster._core.instance.factory",
    "dagster._core.system_config.composite_descent",
    "psycopg2.extras",
    "upath.implementations.local",
)
"""What Dagster imports only when it opens an instance or begins a step."""
_IMPORTED_BY_STEPS: Final = (
    "resources.materializations",
    "stemma.agents.memory.distilling",
    "stemma.governance.memory.alarms",
    "stemma.governance.memory.drift",
    "stemma.governance.memory.embeddings",
    "stemma.governance.memory.parquet",
    "stemma.governance.memory.recount",
    "stemma.governance.memory.scorecards",
    "stemma.governance.memory.snapshots",
    "stemma.jobs.running",
    "stemma.knowledge.checks",
    "stemma.knowledge.chunks",
    "stemma.knowledge.documents",
    "stemma.knowledge.golden",
    "stemma.maps.lifecycle",
    "stemma.papers.checks",
    "stemma.papers.claims.reading",
    "stemma.papers.planning",
    "stemma.papers.reports.checks",
    "stemma.papers.reports.closing",
    "stemma.papers.reports.leaderboard",
    "stemma.papers.steps",
    "stemma.revision",
    "stemma.telemetry.costs",
    "stemma.telemetry.error_budget",
    "stemma.telemetry.health_days",
    "stemma.telemetry.latency",
    "stemma.telemetry.tracing",
)
"""What steps of ours import only when they begin, apart from what starts threads (pyarrow) or few need (Chromium)."""

Supervise = Callable[[socket.socket, str], None]


@dataclass(frozen=True, slots=True)
class Preloaded:
    """What was imported, by which files; `supervise` is None where `problem` says why runs cannot be forked."""

    supervise: Supervise | None = None
    problem: str = ""
    files: dict[str, tuple[int, int, int]] = field(default_factory=dict)
    edited_meanwhile: bool = False

    def is_stale(self) -> bool:
        """Whether it has to be loaded anew before the next run."""
        changed = any(_identity(path) != known for path, known in self.files.items())
        return bool(self.problem) or self.edited_meanwhile or changed


def preload(module: str, folder: Path) -> Preloaded:
    """Import `module`, what executes runs and what this instance is configured with; nothing is opened."""
    began = time.time_ns()
    try:
        from dagster._core.workspace.autodiscovery import loadable_targets_from_python_module

        from resources.instance import worker_reference
        from resources.launcher.worker import supervise

        for target in loadable_targets_from_python_module(module, working_directory=str(Path.cwd())):
            _resolve(target.target_definition)
        reference = worker_reference(folder)
        _import_classes(reference)
        import_late()
        _require_forkable()
    except Exception as error:
        traceback.print_exc()
        return Preloaded(problem=f"the template cannot load {module} ({type(error).__name__}: {error})")
    imported = {str(known.__file__) for known in list(sys.modules.values()) if getattr(known, "__file__", None)}
    imported.add(str(folder / "dagster.yaml"))
    files = {path: identity for path in imported if (identity := _identity(path)) is not None}
    ended = time.time_ns()
    edited = any(began <= modified <= ended for modified, _, _ in files.values())
    mebibytes = psutil.Process().memory_full_info().pss / 2**20
    _say(f"{module} in {(ended - began) / 1e9:.1f} s: {len(files):,} files, {mebibytes:.0f} MiB")
    return Preloaded(partial(supervise, reference), files=files, edited_meanwhile=edited)


def import_late() -> None:
    """Import what a run would import only once it runs."""
    for name in (*_IMPORTED_LATE, *_IMPORTED_BY_STEPS):
        importlib.import_module(name)


def _resolve(definitions: object) -> None:
    """Have Dagster build the jobs here, once, instead of in each worker."""
    import dagster as dg

    if isinstance(definitions, dg.Definitions):
        definitions.get_repository_def().get_all_jobs()


def _import_classes(reference: InstanceRef) -> None:
    """Import what the instance consists of; making its objects would connect to the database."""
    from dagster._serdes import ConfigurableClassData

    for configured in reference:
        if isinstance(configured, ConfigurableClassData):
            importlib.import_module(configured.module_name)


def _require_forkable() -> None:
    """Fork once, which ends the threads of libraries that know of forking (OpenBLAS); no other may be left."""
    child = os.fork()
    if child == 0:
        os._exit(0)
    os.waitpid(child, 0)
    threads = psutil.Process().num_threads()
    if threads > 1:
        raise RuntimeError(f"{threads} threads are left by what it imports, and a fork copies only one")


def _identity(path: str) -> tuple[int, int, int] | None:
    try:
        # A `Path` takes as long to make as the file to look at, and there are 1,700.
        status = os.stat(path)  # noqa: PTH116
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size, status.st_ino


@dataclass(frozen=True, slots=True)
class Request:
    """A run that somebody asked for, and the connection on which they wait."""

    connection: socket.socket
    run_id: str


def serve(module: str, folder: Path, owner: int, listener: socket.socket, waiting: Request | None = None) -> None:
    """Fork a run for each request until `owner` is gone; `waiting` is the one that this image was made for."""
    loaded = preload(module, folder)
    gc.collect()
    gc.freeze()
    if waiting is not None:
        _start(loaded, listener, waiting)
    while os.getppid() == owner:
        request = _next(listener)
        _reap()
        if request is None:
            continue
        if loaded.is_stale():
            _become_fresh(module, folder, owner, listener, request)
        _start(loaded, listener, request)


def _next(listener: socket.socket) -> Request | None:
    ready, _, _ = select.select([listener], [], [], _SECONDS_BETWEEN_LOOKS)
    if not ready:
        return None
    connection, _ = listener.accept()
    connection.settimeout(_REQUEST_PATIENCE)
    with contextlib.suppress(OSError, UnicodeDecodeError):
        if run_id := connection.recv(LONGEST_MESSAGE).decode():
            connection.settimeout(None)
            return Request(connection, run_id)
    connection.close()
    return None


def _reap() -> None:
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG) != (0, 0):
            pass


def _start(loaded: Preloaded, listener: socket.socket, request: Request) -> None:
    with request.connection as connection:
        if loaded.supervise is None:
            with contextlib.suppress(OSError):
                connection.sendall(loaded.problem.encode()[:LONGEST_MESSAGE])
            return
        sys.stdout.flush()
        sys.stderr.flush()
        if os.fork() == 0:
            try:
                listener.close()
                loaded.supervise(connection, request.run_id)
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(0)


def _become_fresh(module: str, folder: Path, owner: int, listener: socket.socket, request: Request) -> NoReturn:
    """Go on as a new image of this program, with the same process id, children and socket."""
    _say("its files changed: loading them anew")
    kept = (listener.fileno(), request.connection.fileno())
    for descriptor in kept:
        os.set_inheritable(descriptor, True)
    program = [sys.executable, "-m", _NAME, module, str(folder)]
    os.execv(sys.executable, [*program, str(owner), *map(str, kept), request.run_id])  # noqa: S606


def _listen(folder: Path) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    with address(folder) as name:
        with contextlib.suppress(FileNotFoundError):
            Path(name).unlink()
        listener.bind(name)
        Path(name).chmod(0o600)
    listener.listen(_BACKLOG)
    return listener


def main(module: str, folder: str, *handed_over: str) -> None:
    """Begin anew, or go on with the owner, the socket and the request of the former image."""
    if not handed_over:
        owner = os.getppid()
        serve(module, Path(folder), owner, _listen(Path(folder)))
        return
    former_owner, listener, connection, run_id = handed_over
    listening, waiting = socket.socket(fileno=int(listener)), socket.socket(fileno=int(connection))
    for kept in (listening, waiting):
        kept.set_inheritable(False)
    serve(module, Path(folder), int(former_owner), listening, Request(waiting, run_id))


def _say(what: str) -> None:
    sys.stderr.write(f"run template: {what}\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
