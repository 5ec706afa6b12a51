"""Which code runs: the commit of the checkout that Stemma runs from."""

from __future__ import annotations

import os
import subprocess
from functools import cache

from stemma.store.settings import REPOSITORY

_PATIENCE = 10.0


@cache
def commit() -> str | None:
    """The commit, with `-dirty` behind it when tracked files differ from it; None outside a git checkout."""
    command = ["git", "-C", str(REPOSITORY), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    # Without optional locks, nothing is written: other commands may be at work on the index.
    environment = os.environ | {"GIT_OPTIONAL_LOCKS": "0"}
    try:
        done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=_PATIENCE, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() or None
