"""The process beside a sandbox: confines a program, starts it, watches it, and kills it with everything below it.

It imports nothing but the standard library and its neighbours. On standard input it reads what to do, as one JSON line
(`Task`), and then waits for one of two things: a further line, which asks for the end, or the end of the input, which
says that whoever asked is dead. Then it cleans up after both. Its last words, on standard output, are a `Report`.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import resource
import select
import signal
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, Literal

from stemma.papers.sandbox import bubblewrap, cgroups, folders, landlock, seccomp, trees

Reason = Literal["exit", "asked", "lost", "memory", "tasks", "disk"]

_POLL: Final = 0.05
_DISK_POLL: Final = 0.25
_FIRST_UID: Final = 61184
_UIDS: Final = 4096
_OPEN_FILES: Final = 512
_PR_SET_PDEATHSIG, _PR_SET_KEEPCAPS, _PR_SET_NO_NEW_PRIVS, _PR_CAP_AMBIENT = 1, 8, 38, 47
_CAP_DAC_READ_SEARCH: Final = 2
_CAPABILITY_V3: Final = 0x20080522
_NOT_STARTED: Final = 127
_READABLE: Final = (
    "/usr", "/lib", "/lib64", "/bin", "/etc/ld.so.cache", "/etc/localtime", "/proc/cpuinfo", "/proc/meminfo",
    "/proc/stat", "/sys/devices/system/cpu",
)  # fmt: skip
_DEVICES: Final = ("/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom")


@dataclass(frozen=True, slots=True)
class Task:
    """What to run and how.

    `base` is the folder of all that there is of it, of whose entries the program may write those in `writable`, with
    `folder`, where it starts, among them; `output` is the file that takes what it prints by itself.
    """

    level: str
    name: str
    bwrap: str | None
    program: list[str]
    env: dict[str, str]
    base: str
    folder: str
    output: str
    writable: list[str]
    readable: list[str]
    memory_bytes: int
    tasks: int
    disk_bytes: int
    scratch_bytes: int
    files: int


@dataclass(frozen=True, slots=True)
class Report:
    """Why the program is no more, and its exit code: negative for a signal, None where it was killed from here."""

    reason: Reason
    code: int | None


def main() -> None:
    """Carry out one task."""
    os.setsid()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    trees.adopt_orphans()
    line = _read_line()
    if not line:
        return
    task = Task(**json.loads(line))
    try:
        report = _keep(task)
    except OSError as error:
        sys.stderr.write(f"{type(error).__name__}: {error}\n")
        report = Report("exit", _NOT_STARTED)
    if report.reason == "lost":
        folders.remove(task.base)
        return
    with contextlib.suppress(BrokenPipeError):
        sys.stdout.write(json.dumps(asdict(report)) + "\n")
        sys.stdout.flush()


def _keep(task: Task) -> Report:
    group = None
    if task.level.endswith("+cgroups"):
        group = cgroups.create(task.name, memory_bytes=task.memory_bytes, tasks=task.tasks)
        if group is None:
            raise PermissionError("the control group could not be made")
    try:
        child = _start(task, group)
        try:
            reason, code = _watch(task, child, group)
        finally:
            if group is not None:
                group.kill()
            trees.kill_below(os.getpid())
        if reason == "exit" and group is not None and group.ran_out_of_memory():
            reason = "memory"
        return Report(reason, code)
    finally:
        if group is not None:
            group.remove()


def _watch(task: Task, child: int, group: cgroups.Group | None) -> tuple[Reason, int | None]:
    handle = os.pidfd_open(child)
    looked = time.monotonic()
    try:
        while True:
            ready, _, _ = select.select([0, handle], [], [], _POLL)
            if 0 in ready:
                return ("asked" if _read_line() else "lost"), None
            if handle in ready:
                return "exit", trees.reap().get(child)
            # Whoever in the sandbox lost its parent is a child of this process by now.
            for pid, code in trees.reap().items():
                if pid == child:
                    return "exit", code
            if group is None and (over := _excess(task)):
                return over, None
            if time.monotonic() - looked > _DISK_POLL:
                if _is_full(task):
                    return "disk", None
                looked = time.monotonic()
    finally:
        os.close(handle)


def _excess(task: Task) -> Reason | None:
    used = trees.usage(os.getpid())
    if used.tasks > task.tasks:
        return "tasks"
    if used.memory_bytes > task.memory_bytes and trees.proportional_memory(os.getpid()) > task.memory_bytes:
        return "memory"
    return None


def _is_full(task: Task) -> bool:
    size = 0
    for files, entry in enumerate(folders.entries(task.base), 1):
        with contextlib.suppress(OSError):
            size += entry.stat(follow_symlinks=False).st_blocks * 512
        if files > task.files or size > task.disk_bytes:
            return True
    return False


def _start(task: Task, group: cgroups.Group | None) -> int:
    keeper, uid = os.getpid(), None
    if task.level == "landlock+seccomp" and os.geteuid() == 0:
        uid = _FIRST_UID + keeper % _UIDS
        for path in task.writable:
            for entry in folders.entries(path):
                os.chown(entry.path, uid, uid, follow_symlinks=False)
            os.chown(path, uid, uid)
    child = os.fork()
    if child:
        return child
    try:
        _become(task, group, keeper, uid)
    except BaseException as error:
        os.write(2, f"{type(error).__name__}: {error}\n".encode())
    os._exit(_NOT_STARTED)


def _become(task: Task, group: cgroups.Group | None, keeper: int, uid: int | None) -> None:
    os.setsid()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)
    output = os.open(task.output, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW, 0o600)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.closerange(3, 256)
    if group is not None:
        group.add(os.getpid())
    _limit(task, group, uid)
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != keeper:
        os._exit(_NOT_STARTED)
    program = task.program
    if task.level.startswith("bubblewrap"):
        assert task.bwrap is not None
        readable = [path for path in task.readable if not path.startswith(("/usr/", "/lib/", "/bin/"))]
        view = bubblewrap.View(readable, task.writable, task.scratch_bytes)
        fd = _piped(seccomp.namespaced(counted=group is not None))
        program = bubblewrap.command(task.bwrap, view, program, folder=task.folder, env=task.env, filter_fd=fd)
        os.execve(program[0], program, {})  # noqa: S606
    os.chdir(task.folder)
    if task.level == "landlock+seccomp":
        _confine(task, uid)
    os.execve(program[0], program, task.env)  # noqa: S606


def _confine(task: Task, uid: int | None) -> None:
    if uid is not None:
        _drop(uid)
        # A change of user clears it.
        _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)
    rules = [(path, landlock.READ) for path in (*_READABLE, *task.readable)]
    rules += [(path, landlock.USE) for path in _DEVICES]
    landlock.restrict([*rules, *((path, landlock.WRITE) for path in task.writable)])
    seccomp.install(seccomp.landlocked(os.getpid(), scoped=landlock.version() >= landlock.SCOPED))


def _drop(uid: int) -> None:
    """Become a user that owns nothing else, who may still pass folders on the way to what Landlock lets it read."""
    os.setgroups([])
    _prctl(_PR_SET_KEEPCAPS, 1)
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)
    header = (ctypes.c_uint32 * 2)(_CAPABILITY_V3, 0)
    bit = 1 << _CAP_DAC_READ_SEARCH
    data = (ctypes.c_uint32 * 6)(bit, bit, bit, 0, 0, 0)
    if ctypes.CDLL(None, use_errno=True).capset(header, data) != 0:
        raise OSError(ctypes.get_errno(), "capset")
    _prctl(_PR_CAP_AMBIENT, 2, _CAP_DAC_READ_SEARCH)


def _limit(task: Task, group: cgroups.Group | None, uid: int | None) -> None:
    limits = {
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_NOFILE: _OPEN_FILES,
        resource.RLIMIT_FSIZE: task.disk_bytes,
        resource.RLIMIT_MEMLOCK: 64 << 10,
    }
    if group is None and task.level != "unconfined":
        limits[resource.RLIMIT_DATA] = task.memory_bytes
    if task.level == "landlock+seccomp":
        limits[resource.RLIMIT_NPROC] = task.tasks if uid is not None else task.tasks + _tasks_of_user()
    for which, most in limits.items():
        _, hard = resource.getrlimit(which)
        most = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(which, (most, most))


def _tasks_of_user() -> int:
    count = 0
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if process.stat().st_uid == os.getuid():
                count += sum(1 for _ in (process / "task").iterdir())
    return count


def _piped(content: bytes) -> int:
    reading, writing = os.pipe()
    os.write(writing, content)
    os.close(writing)
    os.set_inheritable(reading, True)
    return reading


def _prctl(option: int, *values: Any) -> None:
    given = [ctypes.c_ulong(int(value)) for value in (*values, 0, 0, 0, 0)[:4]]
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(option, *given) != 0:
        raise OSError(ctypes.get_errno(), f"prctl({option})")


def _read_line() -> bytes:
    line = b""
    while not line.endswith(b"\n"):
        block = os.read(0, 1)
        if not block:
            return b""
        line += block
    return line
