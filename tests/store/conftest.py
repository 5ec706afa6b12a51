"""Fixtures for tests that start database servers of their own."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

_MEMORY = Path("/dev/shm")
_NEEDED = 1 << 30


@pytest.fixture(scope="session")
def new_home() -> Iterator[Callable[[], Path]]:
    """Make empty private folders, in memory where there is room: making a cluster syncs a thousand files."""
    roomy = _MEMORY.is_dir() and shutil.disk_usage(_MEMORY).free > _NEEDED
    made: list[Path] = []

    def make() -> Path:
        made.append(Path(tempfile.mkdtemp(prefix="stemma-test-", dir=_MEMORY if roomy else None)))
        return made[-1]

    yield make
    for folder in made:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def quick_path(new_home: Callable[[], Path]) -> Iterator[Path]:
    """An empty private folder for one test."""
    folder = new_home()
    yield folder
    shutil.rmtree(folder)
