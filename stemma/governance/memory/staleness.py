"""Which days of which products are stale, worked out of the data: for whoever has to start what makes them anew."""

from __future__ import annotations

from collections.abc import Collection
from datetime import date

from stemma.governance.memory import drift, features, scorecards, snapshots
from stemma.governance.memory.days import Product, stale_of
from stemma.governance.memory.inputs import Span, day_hashes, published_nodes, whole_span
from stemma.store.database import Connection


def stale_days(connection: Connection, within: Span) -> dict[Product, list[date]]:
    """Of each product the days that were made of something else than what there is now, or never.

    Drift is compared with the features as they are: where these are stale, it becomes so with them. The embeddings of
    a day are stale with its snapshot. The work grows with all that happened, by about 0.1 s for 10,000 events.
    """
    known, everything = published_nodes(connection), whole_span(connection)
    if everything is None:
        return {}
    span = Span(max(within.first, everything.first), min(within.last, everything.last))
    if span.last < span.first:
        return {}
    wanted = {
        Product.FEATURES: features.inputs(connection, known, span),
        Product.SNAPSHOTS: snapshots.inputs(connection, known, span),
        Product.SCORECARDS: scorecards.inputs(known, scorecards.tallies(connection, known, span)),
        Product.DRIFT: drift.inputs(connection, known, span),
    }
    found = {
        product: sorted({day for _, day in stale_of(connection, product, span, of)}) for product, of in wanted.items()
    }
    return {**found, Product.EMBEDDINGS: found[Product.SNAPSHOTS]}


def active_days(connection: Connection, within: Span) -> set[date]:
    """The days on which anything happened."""
    return {day for _, day in day_hashes(connection, published_nodes(connection), within)}


def stretches(days: Collection[date], active: Collection[date]) -> list[Span]:
    """Days as spans, between whose first and last is none of the other active days."""
    spans: list[Span] = []
    gap = True
    for day in sorted({*days, *active}):
        if day not in days:
            gap = True
        elif gap:
            spans.append(Span(day, day))
            gap = False
        else:
            spans[-1] = Span(spans[-1].first, day)
    return spans


def changes_so_far(connection: Connection) -> int:
    """Grows with every row that is written to what memory is made of; a look at it costs nothing.

    Postgres counts a row after it is committed, so that none is missed between two looks; a crash begins anew.
    """
    row = connection.execute(
        "SELECT coalesce(sum(n_tup_ins + n_tup_upd + n_tup_del), 0)::bigint FROM pg_stat_user_tables"
        " WHERE relname IN ('events', 'decisions', 'outcomes', 'node_versions')"
    ).fetchone()
    assert row is not None
    return int(row[0])
