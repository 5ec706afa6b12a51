"""The sensor that settles decisions which wait no longer."""

from __future__ import annotations

from collections.abc import Callable

import dagster as dg

from sensors.decisions import decisions
from stemma.access.principal import local_principal
from stemma.governance import nodes, policies
from stemma.governance.decisions import catalog
from stemma.governance.decisions.deciding import Decider
from stemma.governance.decisions.model import State
from stemma.governance.events import types
from stemma.governance.events.model import NewEvent
from stemma.ledger.service import Ledger
from stemma.store.database import Database
from stemma.store.settings import REPOSITORY, Settings

SAMPLES = REPOSITORY / "samples"


def tick() -> str:
    skipped = decisions(dg.build_sensor_context())
    assert isinstance(skipped, dg.SkipReason) and skipped.skip_message
    return skipped.skip_message


def test_a_tick_settles_what_lapsed_and_the_next_has_nothing_to_do(
    settings: Settings, database: Database, pass_deadline: Callable[..., None]
) -> None:
    assert "No decision" in tick()
    me = local_principal()
    event_type, policy, tests, node = (
        (SAMPLES / name).read_text("utf-8")
        for name in (
            "event_types/DiscountRequested.yaml",
            "policies/finance/discounts.yaml",
            "policies/finance/discounts.tests.yaml",
            "nodes/finance.yaml",
        )
    )
    data = {"discount": 0.05, "amount": 100, "segment": "Corporate", "category": "Paper"}
    with Ledger(database.urls, settings) as ledger:
        ledger.commit(database.read(lambda c: types.publish(c, me, event_type))).result(20)
        ledger.commit(database.read(lambda c: policies.publish(c, me, policy, tests))).result(20)
        ledger.commit(database.read(lambda c: nodes.publish(c, me, node))).result(20)
        decider = Decider(database, settings)
        waiting = ledger.commit(decider.decide(me, "finance", NewEvent("DiscountRequested", data))).result(20)
    assert waiting.state is State.WAITING and "No decision" in tick()
    pass_deadline(waiting.approval_id)
    assert tick() == "Decisions that were settled: 1." and "No decision" in tick()
    assert database.read(lambda c: catalog.get_decision(c, waiting.id)).state is State.LAPSED
