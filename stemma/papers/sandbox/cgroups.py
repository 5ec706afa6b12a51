"""Control groups of version 2 or 1: the kernel's own limits on memory and processes of a whole tree.

Source: Documentation/admin-guide/cgroup-v2.rst and cgroup-v1 of the Linux kernel.
"""

from __future__ import annotations

import contextlib
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_MOUNT: Final = Path("/sys/fs/cgroup")
_V1: Final = ("memory", "pids")
_PATIENCE: Final = 5.0


@dataclass(frozen=True, slots=True)
class Group:
    """One group; in version 1 a folder for each controller."""

    folders: tuple[Path, ...]

    def add(self, pid: int) -> None:
        """Put a process in; what it starts is in it too."""
        for folder in self.folders:
            (folder / "cgroup.procs").write_text(str(pid))

    def ran_out_of_memory(self) -> bool:
        """Whether the kernel killed something in it for want of memory."""
        for name in ("memory.events", "memory.oom_control"):
            for folder in self.folders:
                with contextlib.suppress(OSError):
                    facts = dict(line.split() for line in (folder / name).read_text().splitlines())
                    return int(facts.get("oom_kill", 0)) > 0
        return False

    def kill(self) -> None:
        """Kill everything in it at once, where the kernel can."""
        for folder in self.folders:
            with contextlib.suppress(OSError):
                (folder / "cgroup.kill").write_text("1")

    def remove(self) -> None:
        """Remove the empty group."""
        deadline = time.monotonic() + _PATIENCE
        for folder in self.folders:
            while True:
                try:
                    folder.rmdir()
                    break
                except FileNotFoundError:
                    break
                except OSError:
                    if time.monotonic() > deadline:
                        break
                    time.sleep(0.01)


def create(name: str, *, memory_bytes: int, tasks: int) -> Group | None:
    """A new group with these limits; None where this machine or this user has no such groups."""
    return _create_v2(name, memory_bytes, tasks) or _create_v1(name, memory_bytes, tasks)


def _create_v2(name: str, memory_bytes: int, tasks: int) -> Group | None:
    for parent in _parents_v2():
        folder = parent / name
        try:
            folder.mkdir()
        except OSError:
            continue
        try:
            (folder / "memory.max").write_text(str(memory_bytes))
            (folder / "pids.max").write_text(str(tasks))
            with contextlib.suppress(OSError):
                (folder / "memory.swap.max").write_text("0")
            _require_entry(folder)
            return Group((folder,))
        except OSError:
            with contextlib.suppress(OSError):
                folder.rmdir()
    return None


def _parents_v2() -> list[Path]:
    if not (_MOUNT / "cgroup.controllers").exists():
        return []
    own = Path("/proc/self/cgroup").read_text().partition("0::/")[2].splitlines()
    return [_MOUNT, *([(_MOUNT / own[0]).parent, _MOUNT / own[0]] if own and own[0] else [])]


def _create_v1(name: str, memory_bytes: int, tasks: int) -> Group | None:
    made: list[Path] = []
    try:
        for controller in _V1:
            folder = _MOUNT / controller / name
            folder.mkdir()
            made.append(folder)
        (made[0] / "memory.limit_in_bytes").write_text(str(memory_bytes))
        with contextlib.suppress(OSError):
            (made[0] / "memory.memsw.limit_in_bytes").write_text(str(memory_bytes))
        (made[1] / "pids.max").write_text(str(tasks))
        # Beside version 1, version 2 often has no controllers, and still kills a tree at once.
        unified = _MOUNT / "unified" / name
        with contextlib.suppress(OSError):
            unified.mkdir()
            made.append(unified)
        for folder in made:
            _require_entry(folder)
        return Group(tuple(made))
    except OSError:
        for folder in made:
            with contextlib.suppress(OSError):
                folder.rmdir()
        return None


def _require_entry(folder: Path) -> None:
    """Raises OSError where a process cannot be put in, which making the folder does not tell."""
    entering = ["/bin/sh", "-c", 'echo 0 > "$1"', "sh", str(folder / "cgroup.procs")]
    if subprocess.run(entering, check=False, capture_output=True, stdin=subprocess.DEVNULL).returncode != 0:
        raise PermissionError(f"{folder} takes no process")
