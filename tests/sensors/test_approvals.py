"""The sensor that settles what nobody decided in time."""

from __future__ import annotations

from collections.abc import Callable

import dagster as dg

from sensors.approvals import approvals
from stemma.access.principal import local_principal
from stemma.approvals.catalog import get_approval
from stemma.approvals.model import State
from stemma.approvals.requests import Proposal, request
from stemma.ledger.service import Ledger
from stemma.store.database import Database
from stemma.store.settings import Settings


def tick() -> str:
    skipped = approvals(dg.build_sensor_context())
    assert isinstance(skipped, dg.SkipReason) and skipped.skip_message
    return skipped.skip_message


def test_a_tick_writes_what_expired_and_the_next_has_nothing_to_do(
    settings: Settings, database: Database, pass_deadline: Callable[..., None]
) -> None:
    assert "No approval" in tick()
    proposal = Proposal("publish", "page", b"hello", "It is ready.")
    with Ledger(database.urls, settings) as ledger:
        asked = ledger.commit(database.read(lambda c: request(c, local_principal(), proposal))).result(20)
    pass_deadline(asked.id)
    assert tick() == "Approvals that expired: 1." and "No approval" in tick()
    assert database.read(lambda c: get_approval(c, asked.id)).state is State.EXPIRED
    with database.snapshot() as connection:
        kinds = connection.execute("SELECT kind, actor FROM ledger WHERE chain = 'approvals' ORDER BY seq").fetchall()
    assert kinds == [("approval.requested", local_principal().actor), ("approval.expired", "studio")]
