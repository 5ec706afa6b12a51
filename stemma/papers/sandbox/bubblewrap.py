"""The command line of bubblewrap: namespaces of its own for everything, and a file system of what a program may see.

Source: bwrap(1), version 0.8.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_SYSTEM: Final = ("/usr", "/lib", "/lib64", "/bin")
_FILES: Final = ("/etc/ld.so.cache", "/etc/localtime")
NOBODY: Final = 65534


@dataclass(frozen=True, slots=True)
class View:
    """What a program sees: trees that it may read, folders that it may write, and how much scratch it has."""

    readable: Sequence[str]
    writable: Sequence[str]
    scratch_bytes: int


def command(
    bwrap: str, view: View, program: Sequence[str], *, folder: str, env: Mapping[str, str], filter_fd: int
) -> list[str]:
    """The arguments that start a program in `folder`; `filter_fd` is open on its seccomp filter."""
    arguments = [bwrap, "--unshare-all", "--unshare-user", "--disable-userns", "--uid", str(NOBODY)]
    arguments += ["--gid", str(NOBODY), "--hostname", "stemma", "--die-with-parent", "--new-session"]
    arguments += ["--cap-drop", "ALL", "--clearenv", "--seccomp", str(filter_fd)]
    for path in _SYSTEM:
        arguments += _as_it_is(path)
    for path in _FILES:
        if Path(path).exists():
            arguments += ["--ro-bind", os.path.realpath(path), path]
    arguments += ["--proc", "/proc", "--dev", "/dev"]
    for path in ("/tmp", "/dev/shm"):  # noqa: S108 - those of the sandbox
        arguments += ["--size", str(view.scratch_bytes), "--tmpfs", path]
    for path in view.readable:
        arguments += ["--ro-bind", path, path]
    for path in view.writable:
        arguments += ["--bind", path, path]
    arguments += ["--chdir", folder]
    # Both are kept in memory that nothing else counts.
    arguments += ["--remount-ro", "/dev", "--remount-ro", "/"]
    for name, value in env.items():
        arguments += ["--setenv", name, value]
    return [*arguments, "--", *program]


def _as_it_is(path: str) -> list[str]:
    if Path(path).is_symlink():
        return ["--symlink", str(Path(path).readlink()), path]
    return ["--ro-bind", path, path] if Path(path).exists() else []
