"""Fixtures for tests that start database servers of their own."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest


@pytest.fixture
def quick_path(new_home: Callable[[], Path]) -> Iterator[Path]:
    """An empty private folder for one test."""
    folder = new_home()
    yield folder
    shutil.rmtree(folder)
