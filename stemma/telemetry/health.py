"""The rows of `service_health`: how each service stood, as a machine's API process saw it, minute by minute.

A status that is not the one before gives an `alert` in the Historian, and goes out by `stemma.notify`. Looking is the
business of `checks`, `dependencies` and `providers`, doing it every minute `recorder`'s.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from psycopg.rows import class_row

from stemma.ledger.change import Change
from stemma.ledger.entries import NewEntry
from stemma.ledger.journal import transition
from stemma.ledger.writer import Statement
from stemma.notify.messages import Message
from stemma.notify.outbox import enqueue
from stemma.redaction import redact
from stemma.store.cursors import Page, cut_page, decode_cursor, encode_cursor
from stemma.store.database import Connection
from stemma.telemetry.checks import Check
from stemma.telemetry.metrics import Load

API: Final = "api"
"""The service that stands for the requests themselves."""
ERROR_RATE: Final = 0.05
"""The share of requests answered 5xx within a minute above which the API is `degraded`."""
KEPT_DAYS: Final = 30
TOPIC: Final = "alert.service"
"""The topic under which a change of status goes out."""

_FEWEST = 20
_LONGEST = 500


@dataclass(frozen=True, slots=True)
class Observation:
    """How a service stood at `ts`; `latency_p95` is in seconds, and both figures are of the minute before."""

    name: str
    status: str
    detail: str
    latency_p95: float | None
    error_rate: float | None
    ts: datetime


@dataclass(frozen=True, slots=True)
class ServiceHealth:
    """A row; `instance` is the machine whose process looked."""

    id: int
    instance: str
    name: str
    status: str
    latency_p95: float | None
    error_rate: float | None
    ts: datetime


def observe(checks: Mapping[str, Check], load: Load, ts: datetime) -> list[Observation]:
    """What a minute looked like: each check, and the API by its requests in that minute."""
    rate, p95 = load.error_rate, load.quantile(0.95)
    degraded = rate is not None and load.requests >= _FEWEST and rate > ERROR_RATE
    told = f"{load.requests:,.0f} requests, {load.errors:,.0f} of them answered 5xx."
    return [
        Observation(API, "degraded" if degraded else "ok", told, p95, rate, ts),
        *(Observation(name, check.status, check.detail, None, None, ts) for name, check in checks.items()),
    ]


def record(connection: Connection, instance: str, seen: Sequence[Observation]) -> Change[None]:
    """Write what was seen, in the order of time, and delete old rows.

    Its entries are the alerts of statuses that changed, often none; what was never seen before changes nothing.
    """
    known = _statuses(connection, instance, sorted({one.name for one in seen}))
    alerts, told = [], []
    for one in seen:
        before = known.get(one.name, one.status)
        if before != one.status:
            alert = _alert(instance, one, before)
            alerts.append(alert)
            told.append(enqueue(_message(alert, one, before)))
        known[one.name] = one.status
    return Change(tuple(alerts), (*(_insert(instance, one) for one in seen), *told, _expire()), lambda _: None)


def _statuses(connection: Connection, instance: str, names: Sequence[str]) -> dict[str, str]:
    """The last status of each service on this instance."""
    found = connection.execute(
        """
        SELECT n, last.status FROM unnest(%s::text[]) AS n CROSS JOIN LATERAL (
            SELECT status FROM service_health WHERE name = n COLLATE "C" AND instance = %s ORDER BY id DESC LIMIT 1
        ) AS last
        """,
        (list(names), instance),
    )
    return dict(found.fetchall())


def _alert(instance: str, one: Observation, before: str) -> NewEntry:
    data: dict[str, Any] = {
        "instance": instance,
        "before": before,
        "status": one.status,
        "detail": redact(one.detail).text[:_LONGEST],
        "at": one.ts.isoformat(),
    }
    if one.error_rate is not None:
        data["error_rate"] = round(one.error_rate, 4)
    return transition("alert", subject=f"service/{one.name}", actor="health", data=data)


def _message(alert: NewEntry, one: Observation, before: str) -> Message:
    status = one.status.replace("_", " ")
    text = f"It was {before.replace('_', ' ')} before. {alert.data['detail']}"
    return Message(TOPIC, f"{one.name} is {status}", text, dict(alert.data), id=alert.id)


def _insert(instance: str, one: Observation) -> Statement:
    return Statement(
        "INSERT INTO service_health (instance, name, status, latency_p95, error_rate, ts)"
        " VALUES (%s, %s, %s, %s, %s, %s)",
        (instance, one.name, one.status, one.latency_p95, one.error_rate, one.ts),
    )


def _expire() -> Statement:
    return Statement("DELETE FROM service_health WHERE ts < now() - make_interval(days => %s)", (KEPT_DAYS,))


def list_health(
    connection: Connection, *, name: str | None = None, cursor: str | None = None, limit: int = 50
) -> Page[ServiceHealth]:
    """Rows, the newest first, of one service where it is named; raises InvalidInput for a bad cursor."""
    before = decode_cursor("health", cursor, int)[0] if cursor is not None else None
    with connection.cursor(row_factory=class_row(ServiceHealth)) as rows:
        found = rows.execute(
            """
            SELECT id, instance, name, status, latency_p95, error_rate, ts FROM service_health
            WHERE (%(before)s::bigint IS NULL OR id < %(before)s) AND (%(name)s::text IS NULL OR name = %(name)s)
            ORDER BY id DESC LIMIT %(limit)s
            """,
            {"before": before, "name": name, "limit": limit + 1},
        ).fetchall()
    return cut_page(found, limit, lambda last: encode_cursor("health", last.id))


def latest(connection: Connection) -> tuple[ServiceHealth, ...]:
    """The last row of each service on each instance that was heard of within a day."""
    with connection.cursor(row_factory=class_row(ServiceHealth)) as rows:
        return tuple(
            rows.execute("""
                SELECT DISTINCT ON (instance, name) id, instance, name, status, latency_p95, error_rate, ts
                FROM service_health WHERE ts > now() - interval '1 day' ORDER BY instance, name, id DESC
            """)
        )
