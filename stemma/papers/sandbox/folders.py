"""The folder of a sandbox, which is full of what a program wrote: what is in it, and removing it."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path


def entries(folder: str) -> Iterator[os.DirEntry[str]]:
    """All below a folder; links are not followed."""
    with contextlib.suppress(OSError), os.scandir(folder) as found:
        for entry in found:
            yield entry
            if entry.is_dir(follow_symlinks=False):
                yield from entries(entry.path)


def remove(folder: str | Path) -> None:
    """Remove a folder whose program is dead, whatever rights it took from the folders below."""
    for entry in entries(str(folder)):
        if entry.is_dir(follow_symlinks=False):
            with contextlib.suppress(OSError):
                # Before it is looked into.
                Path(entry.path).chmod(0o700)
    shutil.rmtree(folder, ignore_errors=True)
