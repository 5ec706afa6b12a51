"""Which days are made anew: those whose hash over what they are made of is not the one that is kept.

A product says what its days are made of and how some of them are made; here it is decided which, and kept what came
of it. Rows and what is kept of them change in one transaction.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from datetime import date
from enum import StrEnum
from typing import Final

from stemma.governance.memory.inputs import Key, Span, hashed
from stemma.store.database import Connection

_LOCK: Final = 0x6D656D


class Product(StrEnum):
    """What is remembered of each day."""

    FEATURES = "features"
    SNAPSHOTS = "snapshots"
    EMBEDDINGS = "embeddings"
    SCORECARDS = "scorecards"
    DRIFT = "drift"


@dataclass(frozen=True, slots=True)
class Made:
    """What a day came to: SHA-256 of its rows, and how many there are."""

    sha256: bytes
    rows: int


@dataclass(frozen=True, slots=True)
class Day:
    """A day of all nodes together; `made` counts the nodes for which it was made anew."""

    version: str
    rows: int
    made: int


@dataclass(frozen=True, slots=True)
class Report:
    """What a run over some days found and did. `made` are the nodes' days that were made anew, `days` those on which
    there is anything.
    """

    made: tuple[Key, ...]
    days: Mapping[date, Day]

    @property
    def rows(self) -> int:
        """Rows of all days."""
        return sum(day.rows for day in self.days.values())


Make = Callable[[Connection, Collection[Key]], Mapping[Key, Made]]


def bring_up(
    connection: Connection,
    product: Product,
    span: Span,
    wanted: Mapping[Key, bytes],
    make: Make,
    *,
    also: Collection[Key] = (),
) -> Report:
    """Make the days of a span that are stale, and those of `also`; `wanted` has the hash of each day that there is.

    `make` replaces their rows and says what they come to. It has to read after `wanted` was: then what arrives in
    between makes the day stale again, and nothing is missed.
    """
    connection.execute("SELECT pg_advisory_xact_lock(%s, hashtext(%s))", (_LOCK, product.value))
    anew = sorted({*stale_of(connection, product, span, wanted), *(key for key in also if key in wanted)})
    made = make(connection, anew) if anew else {}
    gone = [key for key in anew if key not in wanted]
    _forget(connection, product, gone)
    with connection.cursor() as cursor:
        cursor.executemany(
            "INSERT INTO memory_days (product, node, day, input_sha256, content_sha256, rows)"
            " VALUES (%s, %s, %s, %s, %s, %s) ON CONFLICT (product, node, day) DO UPDATE SET"
            " input_sha256 = excluded.input_sha256, content_sha256 = excluded.content_sha256,"
            " rows = excluded.rows, made_at = excluded.made_at",
            [(product.value, *key, wanted[key], made[key].sha256, made[key].rows) for key in anew if key not in gone],
        )
    return Report(tuple(anew), _days(connection, product, span, anew))


def stale_of(connection: Connection, product: Product, span: Span, wanted: Mapping[Key, bytes]) -> list[Key]:
    """The days that were made of something else than `wanted`, or not at all; those of which nothing is left, too."""
    kept = {
        (node, day): bytes(digest)
        for node, day, digest in connection.execute(
            "SELECT node, day, input_sha256 FROM memory_days WHERE product = %s AND day BETWEEN %s AND %s",
            (product.value, span.first, span.last),
        ).fetchall()
    }
    changed = [key for key, digest in wanted.items() if kept.get(key) != digest]
    return sorted([*changed, *(key for key in kept if key not in wanted)])


def contents(connection: Connection, product: Product, span: Span) -> dict[Key, bytes]:
    """What the days of a product came to, by hash."""
    rows = connection.execute(
        "SELECT node, day, content_sha256 FROM memory_days WHERE product = %s AND day BETWEEN %s AND %s",
        (product.value, span.first, span.last),
    ).fetchall()
    return {(node, day): bytes(digest) for node, day, digest in rows}


def _forget(connection: Connection, product: Product, gone: Collection[Key]) -> None:
    with connection.cursor() as cursor:
        cursor.executemany(
            "DELETE FROM memory_days WHERE product = %s AND node = %s AND day = %s",
            [(product.value, *key) for key in gone],
        )


def _days(connection: Connection, product: Product, span: Span, anew: Collection[Key]) -> dict[date, Day]:
    parts: dict[date, list[bytes]] = defaultdict(list)
    rows: dict[date, int] = defaultdict(int)
    for node, day, digest, count in connection.execute(
        "SELECT node, day, content_sha256, rows FROM memory_days WHERE product = %s AND day BETWEEN %s AND %s"
        " ORDER BY day, node",
        (product.value, span.first, span.last),
    ).fetchall():
        parts[day] += [node.encode(), bytes(digest)]
        rows[day] += count
    made: dict[date, int] = defaultdict(int)
    for _, day in anew:
        made[day] += 1
        parts[day] += []
    return {day: Day(hashed(parts[day]).hex(), rows[day], made[day]) for day in sorted(parts)}
