"""Which sandboxes this machine allows, found out by trying, and which one is in force.

The strongest comes first; where there is none, nothing runs, unless the owner of the studio opts down.
"""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
import uuid
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from stemma.errors import Unavailable
from stemma.papers.sandbox import cgroups, landlock, seccomp
from stemma.store.settings import Settings

_PATIENCE: Final = 10


class Level(StrEnum):
    """How code that nobody here wrote is kept in, the strongest way first."""

    BUBBLEWRAP_CGROUPS = "bubblewrap+cgroups"
    BUBBLEWRAP = "bubblewrap+rlimits"
    LANDLOCK = "landlock+seccomp"
    UNCONFINED = "unconfined"


@dataclass(frozen=True, slots=True)
class Machine:
    """What was found here: bubblewrap's path where it works, control groups, the version of Landlock."""

    bwrap: str | None
    cgroups: bool
    landlock: int
    seccomp: bool

    @property
    def levels(self) -> tuple[Level, ...]:
        """What it allows, the strongest first."""
        namespaces = self.bwrap is not None and self.seccomp
        allowed = {
            Level.BUBBLEWRAP_CGROUPS: namespaces and self.cgroups,
            Level.BUBBLEWRAP: namespaces,
            Level.LANDLOCK: self.seccomp and self.landlock >= landlock.LEAST,
        }
        return tuple(level for level, possible in allowed.items() if possible)


@functools.cache
def machine() -> Machine:
    """What this machine allows; tried once for each process."""
    return Machine(_bwrap(), _has_cgroups(), landlock.version(), seccomp.is_known())


def in_force(settings: Settings) -> Level:
    """The level at which notebooks run; raises Unavailable where the machine has none and nobody opted down."""
    levels = machine().levels
    if levels:
        return levels[0]
    if settings.papers_unconfined:
        return Level.UNCONFINED
    raise Unavailable(
        "E_SANDBOX_UNAVAILABLE",
        "This machine can keep a notebook in neither by bubblewrap nor by Landlock with seccomp.",
        hint="Install bubblewrap, or set STEMMA_PAPERS_UNCONFINED=true to run notebooks without a sandbox.",
    )


def _bwrap() -> str | None:
    found = shutil.which("bwrap")
    if found is None:
        return None
    tried = [found, "--unshare-all", "--unshare-user", "--disable-userns", "--cap-drop", "ALL", "--die-with-parent"]
    tried += ["--ro-bind", "/", "/", "--proc", "/proc", "--size", "4096", "--tmpfs", "/tmp", "true"]  # noqa: S108
    try:
        subprocess.run(tried, check=True, capture_output=True, timeout=_PATIENCE, stdin=subprocess.DEVNULL)
    except (OSError, subprocess.SubprocessError):
        return None
    return found


def _has_cgroups() -> bool:
    group = cgroups.create(f"stemma-{uuid.uuid4().hex}", memory_bytes=64 << 20, tasks=os.cpu_count() or 1)
    if group is not None:
        group.remove()
    return group is not None
