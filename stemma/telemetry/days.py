"""Days and weeks of telemetry: made anew by one statement each, and known by a hash of their rows.

What is summed up, and how, is the business of `costs`, `latency`, `error_budget` and `health_days`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Any, Final, LiteralString

from stemma.store.database import Connection

_LOCK: Final = 0x74656C


@dataclass(frozen=True, slots=True)
class Span:
    """Days from `first` to `last`, both among them, in UTC."""

    first: date
    last: date

    @property
    def since(self) -> datetime:
        """The moment at which it begins."""
        return datetime(self.first.year, self.first.month, self.first.day, tzinfo=UTC)

    @property
    def until(self) -> datetime:
        """The moment before which it ends."""
        return datetime(self.last.year, self.last.month, self.last.day, tzinfo=UTC) + timedelta(days=1)

    @property
    def parameters(self) -> dict[str, Any]:
        """For statements that name its moments and days."""
        return {"since": self.since, "until": self.until, "first": self.first, "last": self.last}

    @property
    def weeks(self) -> Span:
        """From the Monday of its first week to that of its last."""
        return Span(*(day - timedelta(days=day.weekday()) for day in (self.first, self.last)))


@dataclass(frozen=True, slots=True)
class Kept:
    """What is kept of a day or week: the SHA-256 of its rows, how many there are, and whether they are others now."""

    version: str
    rows: int
    changed: bool


NOTHING: Final = Kept("0" * 64, 0, changed=False)


def remake(
    connection: Connection, table: LiteralString, day: LiteralString, span: Span, *statements: LiteralString
) -> Mapping[date, Kept]:
    """Run the statements that replace a table's rows of a span, in the caller's transaction; the column `day` says of
    which day or week they are.

    One at a time; what is made is what was committed when the statements began.
    """
    connection.execute("SELECT pg_advisory_xact_lock(%s, hashtext(%s))", (_LOCK, table))
    before = _contents(connection, table, day, span)
    for statement in statements:
        connection.execute(statement, span.parameters)
    after = _contents(connection, table, day, span)
    return {
        of: Kept(*after.get(of, (NOTHING.version, 0)), changed=before.get(of) != after.get(of))
        for of in sorted(before.keys() | after.keys())
    }


def stretches(days: Iterable[date]) -> list[Span]:
    """Days that follow each other, together."""
    found: list[Span] = []
    for day in sorted(days):
        if found and day - found[-1].last == timedelta(days=1):
            found[-1] = Span(found[-1].first, day)
        else:
            found.append(Span(day, day))
    return found


def _contents(
    connection: Connection, table: LiteralString, day: LiteralString, span: Span
) -> dict[date, tuple[str, int]]:
    rows = connection.execute(
        f"""
        SELECT {day}, count(*),
            encode(sha256(convert_to(string_agg(t::text, E'\\n' ORDER BY t::text COLLATE "C"), 'UTF8')), 'hex')
        FROM {table} AS t WHERE {day} BETWEEN %(first)s AND %(last)s GROUP BY {day}
        """,
        span.parameters,
    ).fetchall()
    return {of: (version, count) for of, count, version in rows}
