"""In what a notebook runs: every installed distribution by its content, Python, linear algebra, threads and processor.

Two runs with the same hash ran in the same environment; a lock says what it consists of.
"""

from __future__ import annotations

import functools
import hashlib
import json
import platform
import sys
from importlib.metadata import distributions
from pathlib import Path
from typing import Any, Final

from stemma.papers.notebooks.variables import THREADS

_OURS: Final = "stemma-studio"


@functools.cache
def lock() -> dict[str, Any]:
    """What the environment consists of; a distribution stands by the hash of its RECORD, which hashes its files.

    Source: "Recording installed projects", packaging.python.org.
    """
    return {
        "python": sys.version,
        "platform": platform.platform(),
        "libc": " ".join(platform.libc_ver()),
        "linear_algebra": _linear_algebra(),
        "threads": dict.fromkeys(THREADS, "1"),
        "cpu": _cpu(),
        "packages": _packages(),
    }


def env_hash() -> str:
    """SHA-256 (hexadecimal) of the lock."""
    return hashlib.sha256(json.dumps(lock(), sort_keys=True).encode()).hexdigest()


def _packages() -> list[dict[str, str]]:
    found = {}
    for distribution in distributions():
        name = (distribution.metadata["Name"] or "").lower()
        if name and name != _OURS and name not in found:
            record = distribution.read_text("RECORD") or ""
            digest = hashlib.sha256("\n".join(sorted(record.splitlines())).encode()).hexdigest()
            found[name] = {"name": name, "version": distribution.version, "record_sha256": digest}
    return [found[name] for name in sorted(found)]


def _linear_algebra() -> Any:
    import numpy

    built = numpy.show_config(mode="dicts")
    return built.get("Build Dependencies", {}) if isinstance(built, dict) else {}


def _cpu() -> dict[str, Any]:
    facts: dict[str, str] = {}
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            name, _, value = line.partition(":")
            facts.setdefault(name.strip(), value.strip())
    except OSError:
        pass
    flags = facts.get("flags") or facts.get("Features") or ""
    return {"machine": platform.machine(), "model": facts.get("model name", ""), "flags": sorted(flags.split())}
