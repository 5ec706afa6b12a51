"""The sensor that stops what does harm, settles promotions and fills in shadows."""

from __future__ import annotations

from collections.abc import Callable

import dagster as dg

from sensors.learning import learning
from stemma.access.principal import local_principal
from stemma.governance.decisions import flags
from stemma.ledger.service import Ledger
from stemma.store.database import Database
from stemma.store.settings import Settings


def tick() -> str:
    skipped = learning(dg.build_sensor_context())
    assert isinstance(skipped, dg.SkipReason) and skipped.skip_message
    return skipped.skip_message


def test_a_tick_does_what_is_due_and_the_next_has_nothing_to_do(
    settings: Settings, database: Database, open_desk: Callable[..., None]
) -> None:
    assert tick() == "Variants stopped, proposed or published: 0; shadows filled in: 0."
    open_desk(settings, database, 8)
    with Ledger(database.urls, settings) as ledger:
        flag = database.read(
            lambda c: flags.set_flag(c, local_principal(), "desk", flags.SHADOW, "desk.asked@1.0.0", "To see.")
        )
        ledger.commit(flag).result(20)
    with database.transaction() as connection:
        connection.execute("UPDATE node_flags SET set_at = '2020-01-01'")
        connection.execute("DELETE FROM policy_variants_stats")
        connection.execute(
            "INSERT INTO policy_variants_stats (node, policy, variant, successes, failures, updated_at) VALUES"
            " ('desk', 'desk.asked@1.0.0', 'baseline', 700, 300, now()),"
            " ('desk', 'desk.asked@1.0.0', 'generous', 20, 80, now())"
        )
    assert tick() == "Variants stopped, proposed or published: 1; shadows filled in: 8."
    assert tick() == "Variants stopped, proposed or published: 0; shadows filled in: 0."
