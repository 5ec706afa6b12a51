"""The processes below this one: which there are, what they use, and ending all of them.

Only what runs below a process that adopts orphans (`adopt_orphans`) can be found when its parent is gone.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_SET_CHILD_SUBREAPER: Final = 36
_PAGE: Final = os.sysconf("SC_PAGE_SIZE")
_FREEZES: Final = 20


@dataclass(frozen=True, slots=True)
class Usage:
    """Processes with their threads, and resident bytes."""

    tasks: int
    memory_bytes: int


def adopt_orphans() -> None:
    """Become the parent of every descendant whose own parent ends."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_CHILD_SUBREAPER)")


def descendants(root: int) -> list[int]:
    """The processes below one, zombies included."""
    found: list[int] = []
    waiting = [root]
    while waiting:
        children = _children(waiting.pop())
        found += children
        waiting += children
    return found


def usage(root: int) -> Usage:
    """What the processes below one use; memory that they share counts once where that can be told."""
    tasks, resident, pids = 0, 0, descendants(root)
    for pid in pids:
        with contextlib.suppress(OSError, ValueError, IndexError):
            tasks += sum(1 for _ in Path(f"/proc/{pid}/task").iterdir())
            resident += int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * _PAGE
    return Usage(tasks, resident)


def proportional_memory(root: int) -> int:
    """Bytes of memory below a process, what is shared divided by who shares it; slower than `usage`."""
    return sum(map(_proportional, descendants(root)))


def kill_below(root: int) -> None:
    """Kill and reap every process below this one; returns when none is left."""
    known: set[int] = set()
    # What is stopped cannot fork: no new ones come up while the others are killed.
    for _ in range(_FREEZES):
        found = set(descendants(root))
        if not found - known:
            break
        for pid in found - known:
            _signal(pid, signal.SIGSTOP)
        known |= found
    while found_now := descendants(root):
        for pid in found_now:
            _signal(pid, signal.SIGKILL)
        reap()
        time.sleep(0.002)


def reap() -> dict[int, int]:
    """The exit status of each child that has ended."""
    ended = {}
    with contextlib.suppress(ChildProcessError):
        while True:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                break
            ended[pid] = os.waitstatus_to_exitcode(status)
    return ended


def _signal(pid: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.kill(pid, number)


def _children(pid: int) -> list[int]:
    found: list[int] = []
    with contextlib.suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            with contextlib.suppress(OSError):
                found += map(int, (task / "children").read_text().split())
    return found


def _proportional(pid: int) -> int:
    try:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) * 1024
    except (OSError, ValueError, IndexError):
        pass
    with contextlib.suppress(OSError, ValueError, IndexError):
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * _PAGE
    return 0
