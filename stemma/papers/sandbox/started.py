"""Starting a program in a sandbox, and what the process that asked for it holds.

The program's keeper (`keeper`) does the rest: it kills the whole tree when it is asked to, and when this process dies.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Final

from stemma.papers.sandbox.keeper import Reason, Report, Task
from stemma.papers.sandbox.levels import Level, machine
from stemma.papers.sandbox.limits import Limits
from stemma.store.settings import REPOSITORY

_END_SECONDS: Final = 20
_KEEPER: Final = (
    f"import sys; sys.path.insert(0, {str(REPOSITORY)!r}); from stemma.papers.sandbox.keeper import main; main()"
)


class Sandbox:
    """A program that was started; `end` has to be called, and may be called again."""

    def __init__(self, keeper: subprocess.Popen[bytes]) -> None:
        self._keeper = keeper
        self._report: Report | None = None

    @property
    def pid(self) -> int:
        """The keeper's process id."""
        return self._keeper.pid

    def is_running(self) -> bool:
        """Whether the program lives."""
        return self._keeper.poll() is None

    def end(self) -> Report:
        """Kill the program with everything below it, unless that has happened, and say why it is no more."""
        if self._report is None:
            self._report = self._ended()
        return self._report

    def wait(self, seconds: float) -> bool:
        """Wait until the program is no more; whether it is."""
        try:
            self._keeper.wait(seconds)
        except subprocess.TimeoutExpired:
            return False
        return True

    def _ended(self) -> Report:
        try:
            said, _ = self._keeper.communicate(b"end\n", timeout=_END_SECONDS)
        except subprocess.TimeoutExpired:
            self._keeper.kill()
            said, _ = self._keeper.communicate()
        lines = said.decode(errors="replace").splitlines()
        return Report(**json.loads(lines[-1])) if lines else Report("exit", None)


def start(
    level: Level,
    program: Sequence[str],
    *,
    base: Path,
    folder: Path,
    env: Mapping[str, str],
    limits: Limits,
) -> Sandbox:
    """Start a program that sees its own Python read-only and may write in the folders that are in `base` now alone.

    `folder`, where it starts, is one of them; what it prints goes to `output.log` in `base`. `base` is removed where
    this process dies before it has ended the sandbox.
    """
    task = Task(
        level=level.value,
        name=f"stemma-{uuid.uuid4().hex}",
        bwrap=machine().bwrap,
        program=list(program),
        env=dict(env),
        base=str(base),
        folder=str(folder),
        output=str(base / "output.log"),
        # Not `base` itself: what is done in there by path, is done to what this process put there.
        writable=[str(path) for path in base.iterdir() if path.is_dir()],
        readable=python_trees(),
        memory_bytes=limits.memory_bytes,
        tasks=limits.tasks,
        disk_bytes=limits.disk_bytes,
        scratch_bytes=limits.scratch_bytes,
        files=limits.files,
    )
    keeper = subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", _KEEPER],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=(base / "keeper.log").open("wb"),
    )
    assert keeper.stdin is not None
    keeper.stdin.write(json.dumps(asdict(task)).encode() + b"\n")
    keeper.stdin.flush()
    return Sandbox(keeper)


def python_trees() -> list[str]:
    """The folders that this Python and the packages beside it consist of."""
    found = {sys.prefix, sys.base_prefix, sysconfig.get_path("stdlib"), *map(os.path.realpath, (sys.executable,))}
    return sorted(path for path in found if Path(path).is_dir())


__all__ = ["Reason", "Report", "Sandbox", "python_trees", "start"]
