"""A studio with the sample nodes, and ways to let events, decisions and outcomes of any day happen in it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from functools import partial
from typing import Any
from uuid import UUID, uuid4

import pytest
from psycopg.types.json import Jsonb

from stemma.access.principal import local_principal
from stemma.governance import nodes, policies
from stemma.knowledge.embedding import Embedder
from stemma.ledger.change import Change
from stemma.ledger.service import Ledger
from stemma.store.database import Connection, Database
from stemma.store.settings import REPOSITORY, Settings

SAMPLES = REPOSITORY / "samples"
FIRST = date(2025, 1, 1)


@dataclass
class World:
    """What happens in a studio, written as it would be."""

    settings: Settings
    database: Database
    first: date = FIRST

    def day(self, number: int) -> date:
        return self.first + timedelta(days=number)

    def happen(self, rows: Sequence[Mapping[str, Any]]) -> list[UUID]:
        """Events, decided unless they say otherwise, with an outcome where they have metrics; the decisions' ids."""
        ids = [(uuid4(), uuid4()) for _ in rows]
        content = b"{}"
        with self.database.transaction() as connection, connection.cursor() as cursor:
            connection.execute(
                "INSERT INTO decision_contexts VALUES (%s, %s) ON CONFLICT DO NOTHING",
                (hashlib.sha256(content).digest(), content),
            )
            cursor.executemany(
                "INSERT INTO events (id, type, type_version, entity, occurred_at, received_at, actor, data, sha256)"
                " VALUES (%s, %s, '1.0.0', %s, %s, now(), 'test', %s, %s)",
                [
                    (event, self.kind(row), row["entity"], self.at(row), Jsonb(row["data"]), self.digest(event, row))
                    for (event, _), row in zip(ids, rows, strict=True)
                ],
            )
            cursor.executemany(
                "INSERT INTO decisions (id, node, node_version, event_id, event_type, entity, policy, policy_version,"
                " policy_sha256, variant, verdict, level, reasons, verdict_sha256, context_sha256, state, effect,"
                " occurred_at, decided_at, decided_by, latency_ms, seq, entry_hash) VALUES (%s, 'finance', '1.0.0', %s,"
                " %s, %s, 'finance.discounts', '1.0.0', '', %s, %s, 'AL2', %s, '', %s, 'final', %s, %s, now(), 'test',"
                " 1, 1, '')",
                [
                    (
                        decision,
                        event,
                        self.kind(row),
                        row["entity"],
                        row.get("variant", "baseline"),
                        row.get("verdict", "approve"),
                        Jsonb([{"rule": "margin/usual", "text": "The discount is a usual one."}]),
                        hashlib.sha256(content).digest(),
                        "deny" if row.get("verdict") == "deny" else "approve",
                        self.at(row),
                    )
                    for (event, decision), row in zip(ids, rows, strict=True)
                    if row.get("decided", True)
                ],
            )
            cursor.executemany(
                "INSERT INTO outcomes (decision_id, metrics, success, counted, observed_at, revision, updated_at,"
                " updated_by) VALUES (%s, %s, %s, true, %s, 1, now(), 'test')",
                [
                    (decision, Jsonb(row["metrics"]), row["metrics"]["profit"] > 0, self.at(row, row.get("later", 1)))
                    for (_, decision), row in zip(ids, rows, strict=True)
                    if "metrics" in row
                ],
            )
        return [decision for _, decision in ids]

    def kind(self, row: Mapping[str, Any]) -> str:
        return str(row.get("type", "DiscountRequested"))

    def at(self, row: Mapping[str, Any], later: int = 0) -> datetime:
        day = self.day(row["day"] + later)
        return datetime(day.year, day.month, day.day, 12, tzinfo=UTC) + timedelta(seconds=row.get("second", 0))

    def digest(self, event: UUID, row: Mapping[str, Any]) -> bytes:
        return hashlib.sha256(f"{event}{json.dumps(row['data'])}".encode()).digest()

    def revise(self, decision: UUID, metrics: Mapping[str, Any]) -> None:
        """Tell an outcome anew."""
        with self.database.transaction() as connection:
            connection.execute(
                "UPDATE outcomes SET metrics = %s, success = %s, revision = revision + 1 WHERE decision_id = %s",
                (Jsonb(metrics), metrics["profit"] > 0, decision),
            )


def asked(day: int, entity: str, *, amount: float = 100.0, discount: float = 0.1, **more: Any) -> dict[str, Any]:
    """A discount that is asked for."""
    data = {"amount": amount, "discount": discount, "segment": "Consumer", "category": "Paper", "region": "West"}
    return {"day": day, "entity": entity, "data": data, **more}


def publish_samples(settings: Settings, database: Database) -> None:
    """The sample policies and nodes."""
    changes: list[Callable[[Connection], Change[Any]]] = []
    for name in ("finance/discounts", "hr/leave"):
        policy, tests = ((SAMPLES / "policies" / f"{name}{suffix}.yaml").read_text() for suffix in ("", ".tests"))
        changes.append(partial(policies.publish, principal=local_principal(), policy_text=policy, tests_text=tests))
    for name in ("finance", "hr"):
        text = (SAMPLES / "nodes" / f"{name}.yaml").read_text()
        changes.append(partial(nodes.publish, principal=local_principal(), text=text))
    with Ledger(database.urls, settings) as ledger:
        for change in changes:
            ledger.commit(database.read(change)).result(20)


@pytest.fixture
def world(settings: Settings, database: Database, equip: Callable[[Settings], Embedder]) -> World:
    """An empty studio with the sample nodes and a query encoder."""
    equip(settings)
    publish_samples(settings, database)
    return World(settings, database)


@pytest.fixture
def ask() -> Callable[..., dict[str, Any]]:
    """Make a discount that is asked for."""
    return asked
