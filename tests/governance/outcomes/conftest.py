"""Decisions as they stand in the table, of the sample nodes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from uuid import UUID, uuid4

import pytest

from stemma.access.principal import local_principal
from stemma.governance.events import recording
from stemma.governance.events.model import NewEvent
from stemma.governance.samples import publish_samples
from stemma.ledger.service import Ledger
from stemma.store.database import Database
from stemma.store.settings import Settings

Decide = Callable[..., UUID]

_DATA = {"discount": 0.1, "amount": 100, "segment": "Consumer", "category": "Furniture"}
_INSERT = """
    WITH context AS (
        INSERT INTO decision_contexts (sha256, content) VALUES (sha256('{}'), '{}')
        ON CONFLICT (sha256) DO NOTHING
    )
    INSERT INTO decisions (
        id, node, node_version, event_id, event_type, policy, policy_version, policy_sha256, variant, verdict, level,
        reasons, verdict_sha256, context_sha256, state, effect, due_at, occurred_at, decided_at, decided_by,
        latency_ms, seq, entry_hash)
    VALUES (%(id)s, %(node)s, '1.0.0', %(event)s, 'DiscountRequested', %(policy)s, '1.0.0', '', %(variant)s,
        'approve', 'AL3', '[]', '', sha256('{}'), %(state)s, %(effect)s,
        CASE WHEN %(state)s = 'waiting' THEN now() END, now(), now(), 'test', 1, 1, '')
"""


@pytest.fixture
def decide(settings: Settings, database: Database) -> Decide:
    """Put a decision into the table, made from a request for a discount; returns its id."""
    principal = local_principal()
    with Ledger(database.urls, settings) as ledger:
        publish_samples(database, ledger, principal)
        request = NewEvent("DiscountRequested", _DATA)
        change = database.read(lambda c: recording.record(c, principal, [request]))
        (event,) = ledger.commit(change).result()

    def insert(**wanted: Any) -> UUID:
        row = {"id": uuid4(), "node": "finance", "policy": "finance.discounts", "variant": "baseline"}
        row |= {"event": event.id, "state": "final", "effect": "approve", **wanted}
        with database.transaction() as connection:
            connection.execute(_INSERT, row)
        return row["id"]

    return insert
