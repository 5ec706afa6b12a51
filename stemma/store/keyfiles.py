"""Files in `STEMMA_HOME/keys`: a private folder (mode 700) that one process at a time changes.

What the keys are for is the business of the capability that owns the file.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from stemma.store.files import staged, storage_error
from stemma.store.settings import Settings


def keys_folder(settings: Settings) -> Path:
    """Where the keys are."""
    return settings.home / "keys"


def write_key(path: Path, data: bytes, mode: int) -> None:
    """Write a file with these permissions, whole or not at all, durable on return."""
    with staged(path.parent) as file:
        file.path.chmod(mode)
        file.write(data)
        file.flush()
        file.replace(path)


@contextlib.contextmanager
def locked_keys(settings: Settings) -> Iterator[Path]:
    """The folder of keys, held by this process alone; raises Unavailable where it cannot be made."""
    folder = keys_folder(settings)
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        raise storage_error(error) from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield folder
    finally:
        os.close(descriptor)
