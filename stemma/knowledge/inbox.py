"""Noticing that the inbox changed, without reading its files; reading them is the work of `sources`."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path


def fingerprint(folder: Path) -> str:
    """A hex digest of every visible file's path, size and modification time; a missing folder counts as empty."""
    digest = hashlib.sha256()
    for root, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            path = Path(root, name)
            if name.startswith("."):
                continue
            try:
                state = path.stat()
            except OSError:
                continue
            entry = f"{path.relative_to(folder)}\0{state.st_size}\0{state.st_mtime_ns}\n"
            digest.update(entry.encode("utf-8", "surrogateescape"))
    return digest.hexdigest()
