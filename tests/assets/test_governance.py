"""The assets of the loop's memory, by real runs: many days in one run, each with its own version and receipt."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime, timedelta
from uuid import uuid4

import dagster as dg
import pytest
from psycopg.types.json import Jsonb

import definitions
from cli import execution
from resources.instance import open_instance
from sensors.governance import late_days
from stemma.access.permissions import Role
from stemma.access.principal import Principal, local_principal
from stemma.agents import roster
from stemma.agents.memory.storing import remember_call
from stemma.agents.memory.vectors import Encoder
from stemma.agents.model import Exchange
from stemma.errors import CheckFailed, NotFound
from stemma.governance import nodes, policies
from stemma.governance.memory import drift, features, scorecards, snapshots
from stemma.governance.memory.inputs import Span
from stemma.knowledge.embedding import Embedder
from stemma.ledger.receipt_catalog import list_partitions, newest_receipt
from stemma.ledger.service import Ledger
from stemma.store.database import Database
from stemma.store.files import FileStore
from stemma.store.settings import REPOSITORY, Settings

FIRST = date(2025, 1, 1)
FEATURES, SNAPSHOTS, DRIFT = (
    dg.AssetKey(["governance", thing]) for thing in ("entity_features", "knowledge_snapshots", "drift")
)
YEAR = "2025-01-01...2025-12-31"


@pytest.fixture(scope="module")
def home(studio: tuple[Settings, Database], equip: Callable[[Settings], Embedder]) -> tuple[Settings, Database]:
    """A studio in which something happened at a node on each day of a year."""
    settings, database = studio
    equip(settings)
    samples = REPOSITORY / "samples"
    texts = [(samples / "policies" / "finance" / f"discounts{suffix}.yaml").read_text() for suffix in ("", ".tests")]
    node = (samples / "nodes" / "finance.yaml").read_text()
    with Ledger(database.urls, settings) as ledger:
        ledger.commit(database.read(lambda c: policies.publish(c, local_principal(), *texts))).result(20)
        ledger.commit(database.read(lambda c: nodes.publish(c, local_principal(), node))).result(20)
    happen(database, range(365))
    return settings, database


@pytest.fixture(scope="module")
def instance(home: tuple[Settings, Database]) -> Iterator[dg.DagsterInstance]:
    with open_instance(home[0], home[1].urls) as opened:
        yield opened


def happen(database: Database, days: range) -> None:
    with database.transaction() as connection, connection.cursor() as cursor:
        cursor.executemany(
            "INSERT INTO events (id, type, type_version, entity, occurred_at, received_at, actor, data, sha256)"
            " VALUES (%s, 'DiscountRequested', '1.0.0', %s, %s, now(), 'test', %s, %s)",
            [
                (
                    event,
                    f"c{day % 5}",
                    FIRST + timedelta(days=day),
                    Jsonb({"amount": day, "discount": 0.1}),
                    event.bytes,
                )
                for day in days
                for event in [uuid4()]
            ],
        )


def versions(instance: dg.DagsterInstance, key: dg.AssetKey) -> dict[str, str]:
    kind = dg.DagsterEventType.ASSET_MATERIALIZATION
    tags = instance.event_log_storage.get_latest_tags_by_partition(key, kind, ["dagster/data_version"])
    return {partition: of["dagster/data_version"] for partition, of in tags.items()}


def runs(instance: dg.DagsterInstance) -> int:
    return instance.get_runs_count()


def test_a_year_is_one_run_and_a_late_event_changes_its_day_alone(
    home: tuple[Settings, Database], instance: dg.DagsterInstance
) -> None:
    settings, database = home
    both = 'key:"governance/entity_features" or key:"governance/knowledge_snapshots"'
    outcome = execution.materialize(settings, database, both, YEAR)
    assert runs(instance) == 1 and outcome.receipts == 2 * 365
    assert {built.metadata["made"] for built in outcome.built} == {365}
    before = {key: versions(instance, key) for key in (FEATURES, SNAPSHOTS)}
    assert all(len(set(of.values())) == 365 for of in before.values())
    happen(database, range(200, 201))
    again = execution.materialize(settings, database, both, YEAR)
    assert {built.metadata["made"] for built in again.built} == {1}
    after = {key: versions(instance, key) for key in (FEATURES, SNAPSHOTS)}
    for key in (FEATURES, SNAPSHOTS):
        assert {day for day in after[key] if after[key][day] != before[key][day]} == {"2025-07-20"}
    unchanged = execution.materialize(settings, database, "governance/entity_features", "2025-07-20")
    assert [(built.partition, built.changed) for built in unchanged.built] == [("2025-07-20...2025-07-20", False)]
    with FileStore.open_default(settings).open("governance/entity_features/finance/2025-07.parquet") as file:
        assert file.read(4) == b"PAR1"


def test_each_day_has_a_receipt_that_names_the_same_day_of_what_it_is_made_from(
    home: tuple[Settings, Database],
) -> None:
    settings, database = home
    execution.materialize(settings, database, "governance/drift", "2025-03-01...2025-03-03")
    receipt = database.read(lambda connection: newest_receipt(connection, "governance/drift", "2025-03-02"))
    assert [(made_from.asset, made_from.partition) for made_from in receipt.inputs] == [
        ("governance/entity_features", "2025-03-02")
    ]
    assert [artifact.name for artifact in receipt.artifacts] == ["governance/drift/2025-03-02"]


def test_features_that_do_not_agree_with_events_stop_what_is_built_on_them(home: tuple[Settings, Database]) -> None:
    settings, database = home
    with database.transaction() as connection:
        connection.execute("UPDATE entity_features SET entity = 'eve' WHERE day = '2025-02-01'")
    selection = 'key:"governance/entity_features" or key:"governance/drift"'
    with pytest.raises(CheckFailed, match="features_equal_events"):
        execution.materialize(settings, database, selection, "2025-02-01")
    with database.transaction() as connection:
        connection.execute("DELETE FROM memory_days WHERE day = '2025-02-01'")
    assert execution.materialize(settings, database, selection, "2025-02-01").checks[0].passed


@pytest.mark.parametrize("days", ["2025-02-30", "2013-01-01", "2025-02-02...2025-02-01", "9999-01-01", "x"])
def test_what_is_no_day_that_is_over_is_refused(home: tuple[Settings, Database], days: str) -> None:
    with pytest.raises(NotFound) as refused:
        execution.materialize(*home, "governance/drift", days)
    assert refused.value.field == "--partition"


def test_the_sensor_requests_late_days_of_the_assets_that_are_stale(
    home: tuple[Settings, Database], instance: dg.DagsterInstance
) -> None:
    settings, database = home
    year = Span(FIRST, FIRST + timedelta(days=364))
    features.sync_features(database, year)
    snapshots.sync_snapshots(database, settings, year)
    drift.sync_drift(database, year)
    scorecards.sync_scorecards(database, year)
    happen(database, range(100, 102))
    graph = definitions.build_defs().get_repository_def()
    with dg.build_sensor_context(instance=instance, repository_def=graph) as context:
        result = late_days(context)
        assert isinstance(result, dg.SensorResult)
        requested = {
            (key.path[-1], request.tags["dagster/asset_partition_range_start"])
            for request in result.run_requests or []
            for key in request.asset_selection or []
        }
    days = {thing for thing, first in requested if first == "2025-04-11"}
    assert days == {"entity_features", "knowledge_snapshots", "decision_embeddings", "drift"}
    assert len(requested) == 4
    with dg.build_sensor_context(instance=instance, repository_def=graph, cursor=result.cursor) as context:
        assert isinstance(late_days(context), dg.SkipReason)


def test_what_agents_learned_is_distilled_by_days_as_well(home: tuple[Settings, Database]) -> None:
    settings, database = home
    noon = datetime.now(UTC).replace(hour=12, minute=0, second=0, microsecond=0)
    days = [noon - timedelta(days=ago) for ago in (4, 3, 2)]
    ada, encoder = Principal("key:ada", Role.BUILDER, frozenset()), Encoder(settings)
    with database.transaction() as connection:
        for day in days[1:]:
            exchange = Exchange(uuid4(), "r", "Where is the depot?", "The depot stands near the river.")
            remember_call(connection, roster.load().find("nova"), ada, exchange, day, encoder)
    span = f"{days[0].date()}...{days[-1].date()}"
    outcome = execution.materialize(settings, database, "agents/semantic_memory", span)
    assert [check.passed for check in outcome.checks] == [True]
    with database.snapshot() as connection:
        receipts = list_partitions(connection, "agents/semantic_memory").data
        facts = connection.execute("SELECT day, text FROM agent_memories WHERE day IS NOT NULL ORDER BY day").fetchall()
    assert [receipt.partition for receipt in receipts] == [day.date().isoformat() for day in days]
    assert len({receipt.data_version for receipt in receipts}) == 3
    assert facts == [(day.date(), "The depot stands near the river.") for day in days[1:]]
    with database.transaction() as connection:
        connection.execute("UPDATE agent_memories SET text = 'Nobody said this.' WHERE day IS NOT NULL")
    with pytest.raises(CheckFailed, match="facts_are_grounded"):
        execution.materialize(settings, database, "agents/semantic_memory", span)
