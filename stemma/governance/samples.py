"""The samples of governance: their event types, policies and nodes, published."""

from __future__ import annotations

from stemma.access.principal import Principal
from stemma.ledger.service import Ledger
from stemma.registry.model import Published
from stemma.store.database import Database


def publish_samples(database: Database, ledger: Ledger, principal: Principal) -> tuple[Published, ...]:
    """Publish what of the samples is not published yet; returns what was new."""
    raise NotImplementedError
