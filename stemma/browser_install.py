"""Getting a Chromium onto the machine: Playwright's own download, else Debian's package where we are root."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from stemma.browser import find, version
from stemma.errors import Unavailable
from stemma.store.settings import Settings

_PLAYWRIGHT: Final = (sys.executable, "-m", "playwright", "install", "chromium")
_IMPATIENT: Final = ("-o", "Acquire::Retries=0", "-o", "Acquire::http::Timeout=10", "-o", "Acquire::https::Timeout=10")
_CONNECT_MS = "10000"
_LONGEST_SECONDS = 900


def find_or_install(settings: Settings) -> Path:
    """The Chromium that is there and starts, or one that is installed now, which takes minutes.

    Raises Unavailable with code `chromium_not_installed` where none can be had, `chromium_missing` where
    `STEMMA_CHROMIUM` names what is none, `chromium_not_starting` where it lacks libraries.
    """
    try:
        path = find(settings)
    except Unavailable:
        if settings.chromium is not None:
            raise
        path = _installed(settings)
    version(path)
    return path


def _installed(settings: Settings) -> Path:
    failures = [_failure(_PLAYWRIGHT, {"PLAYWRIGHT_DOWNLOAD_CONNECTION_TIMEOUT": _CONNECT_MS})]
    if failures[0] is None:
        path = find(settings)
        try:
            version(path)
        except Unavailable as error:
            # Debian's package brings the libraries along, which the download lacks.
            failures[0] = error.message
        else:
            return path
    if os.geteuid() == 0 and shutil.which("apt-get"):
        failures.append(_failure(("apt-get", "update", "--quiet", *_IMPATIENT)))
        install = ("apt-get", "install", "--yes", "--quiet", "--no-install-recommends", *_IMPATIENT, "chromium")
        failures.append(_failure(install, {"DEBIAN_FRONTEND": "noninteractive"}))
        if failures[-1] is None:
            return find(settings)
    why = "; ".join(failure for failure in failures if failure)
    raise Unavailable(
        "chromium_not_installed",
        f"Chromium could not be installed: {why}.",
        hint="With a network, run this again; without one, install a Chromium and name it in STEMMA_CHROMIUM.",
    )


def _failure(command: Sequence[str], environment: Mapping[str, str] | None = None) -> str | None:
    """Run a command, with what it says on standard error; why it failed, None where it did not."""
    name = "Playwright's download" if command is _PLAYWRIGHT else " ".join(command[:2])
    try:
        ended = subprocess.run(
            command,
            env={**os.environ, **(environment or {})},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=_LONGEST_SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"{name}: {error}"
    if ended.returncode == 0:
        return None
    lines = [line.strip() for line in ended.stdout.splitlines() if line.strip()]
    told = next(
        (line for line in lines if "rror" in line or line.startswith("E:")), lines[-1] if lines else "no output"
    )
    return f"{name}: {told.removeprefix('Error:').removeprefix('E:').strip().rstrip('.')}"
