"""The embedded Postgres as its clients see it."""

from __future__ import annotations

from stemma.store.settings import Settings


def ensure_running(settings: Settings) -> dict[str, str]:
    raise NotImplementedError
