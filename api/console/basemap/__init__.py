"""The basemap under every map: `world.pmtiles`, and in `world.json` what it was built of.

It ships with the console, so that a map needs no network. `make basemap` builds it anew from npm and compares.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final

from stemma.errors import CheckFailed

ARCHIVE: Final = Path(__file__).with_name("world.pmtiles")
MANIFEST: Final = Path(__file__).with_name("world.json")


@dataclass(frozen=True, slots=True)
class Manifest:
    """The package and the file of it that the archive was built of, and the hashes of both (SHA-256, hexadecimal)."""

    package: str
    version: str
    licence: str
    source: str
    source_sha256: str
    archive_sha256: str


def manifest() -> Manifest:
    """What `world.json` says."""
    return Manifest(**json.loads(MANIFEST.read_text()))


@cache
def sha256() -> str:
    """The hash of the archive that is served."""
    return hashlib.sha256(ARCHIVE.read_bytes()).hexdigest()


def check() -> None:
    """Raises CheckFailed where the archive is not the one that the manifest names."""
    if hashlib.sha256(ARCHIVE.read_bytes()).hexdigest() != manifest().archive_sha256:
        raise CheckFailed("basemap_differs", "world.pmtiles is not as world.json says.", hint="Run `make basemap`.")
