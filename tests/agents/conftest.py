"""Agents, whose tests pass where there is no network."""

from __future__ import annotations

import pytest


@pytest.fixture(scope="module", autouse=True)
def offline(loopback_only: None) -> None:
    """All of it passes where there is no network."""
