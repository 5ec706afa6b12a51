"""Reading a chain as a feed: pages of its entries, the newest first, and what came after an entry, in order.

Within one chain seq has no gaps and grows in the order of commits, so that it is the cursor of both. What the entries
of a journal say is `journal`'s business; who may read a chain is for the face to ask.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date, datetime
from typing import Final, LiteralString

from stemma.errors import InvalidInput
from stemma.ledger.entries import Entry
from stemma.store.cursors import Page, decode_cursor, encode_cursor
from stemma.store.database import Connection, DatabaseUrls, connect

CHANNEL: Final = "stemma_ledger"
"""Every commit of entries notifies this channel of the names of their chains (migration 0007)."""
POLL_SECONDS: Final = 2.0
PAGE_BYTES: Final = 1 << 20

# One kind, or the first word of several with its dot.
_KIND = re.compile(r"(?=.{1,127}$)[a-z0-9](?:[a-z0-9_.-]*(?<!\.)|[a-z0-9_-]*\.)")
_LONGEST_TEXT = 500
_COLUMNS: Final = "chain, seq, prev_hash, body, entry_hash, id, kind, actor, subject, created_at"
_CONDITIONS: Final[dict[str, LiteralString]] = {
    "kind": "kind = %(kind)s",
    "family": "split_part(kind, '.', 1) = %(family)s",
    "subject": "subject = %(subject)s",
    "actor": "actor = %(actor)s",
    "since": "created_at >= %(since)s",
    "until": "created_at < %(until)s",
}


# Jumps from chain to chain on the primary key: GROUP BY would read every row.
_TAILS: Final = """
    WITH RECURSIVE names AS (
        (SELECT chain FROM ledger ORDER BY chain LIMIT 1)
        UNION ALL
        SELECT (SELECT l.chain FROM ledger l WHERE l.chain > n.chain ORDER BY l.chain LIMIT 1)
        FROM names n WHERE n.chain IS NOT NULL
    )
    SELECT n.chain, (SELECT l.seq FROM ledger l WHERE l.chain = n.chain ORDER BY l.seq DESC LIMIT 1)
    FROM names n WHERE n.chain IS NOT NULL ORDER BY n.chain
"""


@dataclass(frozen=True, slots=True)
class Filter:
    """Which entries of a chain are wanted; each part that is given has to hold. `since` is inclusive, `until` not.

    A `kind` that ends in its first dot, such as `key.`, stands for every kind that begins so. Raises InvalidInput for
    texts that no entry can have.
    """

    kind: str | None = None
    subject: str | None = None
    actor: str | None = None
    since: datetime | None = None
    until: datetime | None = None

    def __post_init__(self) -> None:
        if self.kind is not None and not _KIND.fullmatch(self.kind):
            hint = "Write a kind such as `key.created`, or the first word of several with its dot: `key.`."
            raise InvalidInput("kind_invalid", f"{self.kind!r} is no kind of entry.", field="kind", hint=hint)
        for name, text in (("subject", self.subject), ("actor", self.actor)):
            if text is not None and (len(text) > _LONGEST_TEXT or not text.isprintable()):
                what = f"It must have at most {_LONGEST_TEXT} characters, all of them printable."
                raise InvalidInput(f"{name}_invalid", what, field=name)

    @property
    def parameters(self) -> dict[str, str | datetime]:
        """What was given, by the name of its condition."""
        family = self.kind[:-1] if self.kind and self.kind.endswith(".") else None
        given = {
            "kind": None if family else self.kind,
            "family": family,
            "subject": self.subject,
            "actor": self.actor,
            "since": self.since,
            "until": self.until,
        }
        return {name: value for name, value in given.items() if value is not None}


@dataclass(frozen=True, slots=True)
class Stretch:
    """Entries in their order, the seq from which to go on, and whether there was more than fits."""

    entries: tuple[Entry, ...]
    seq: int
    more: bool


def list_entries(
    connection: Connection, chain: str, wanted: Filter, *, cursor: str | None = None, limit: int = 50
) -> Page[Entry]:
    """A page of a chain, the newest first: at most `limit` entries, fewer where their bodies are over 1 MiB together.

    Raises InvalidInput(field="cursor") for a cursor of another list.
    """
    listing = f"ledger:{chain}"
    before = decode_cursor(listing, cursor, int)[0] if cursor else None
    place: LiteralString = "AND seq < %(before)s" if cursor else ""
    entries, more = _select(connection, chain, wanted, place, "DESC", {"before": before}, limit)
    return Page(entries, encode_cursor(listing, entries[-1].seq) if more else None)


def read_after(connection: Connection, chain: str, wanted: Filter, seq: int, *, limit: int = 100) -> Stretch:
    """The entries of a chain after this seq, the oldest first, as much as `list_entries` gives at once.

    Call it in a snapshot: where nothing is left, what was looked through and not wanted is passed over for good.
    """
    end = tail(connection, chain)
    if end <= seq:
        return Stretch((), seq, more=False)
    entries, more = _select(connection, chain, wanted, "AND seq > %(after)s", "ASC", {"after": seq}, limit)
    return Stretch(entries, entries[-1].seq if more else end, more)


def tail(connection: Connection, chain: str) -> int:
    """The seq of a chain's last entry; 0 for one that has none."""
    row = connection.execute("SELECT seq FROM ledger WHERE chain = %s ORDER BY seq DESC LIMIT 1", (chain,)).fetchone()
    return int(row[0]) if row else 0


def read_tails(connection: Connection) -> dict[str, int]:
    """The seq of every chain's last entry, by name."""
    return dict(connection.execute(_TAILS).fetchall())


def count_by_day(connection: Connection, chain: str, since: datetime) -> dict[date, int]:
    """How many entries a journal got on each day (UTC) from `since` on; days without any are left out."""
    rows = connection.execute(
        "SELECT (created_at AT TIME ZONE 'UTC')::date AS day, count(*) FROM ledger"
        " WHERE chain = %(chain)s AND created_at >= %(since)s GROUP BY day ORDER BY day",
        {"chain": chain, "since": since},
        prepare=False,
    )
    return dict(rows.fetchall())


def follow(urls: DatabaseUrls, chain: str, wanted: Filter, seq: int) -> Iterator[Entry]:
    """The entries of a chain after this seq as they come, for ever; waits in the caller's thread.

    Raises Unavailable, and what psycopg says when the connection is lost.
    """
    with contextlib.closing(connect(urls.app, autocommit=True)) as connection:
        connection.execute(f"LISTEN {CHANNEL}")
        while True:
            with connection.transaction():
                connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
                stretch = read_after(connection, chain, wanted, seq)
            yield from stretch.entries
            seq = stretch.seq
            if not stretch.more:
                for _ in connection.notifies(timeout=POLL_SECONDS, stop_after=1):
                    pass


def _select(
    connection: Connection,
    chain: str,
    wanted: Filter,
    place: LiteralString,
    order: LiteralString,
    values: dict[str, int | str | None],
    limit: int,
) -> tuple[tuple[Entry, ...], bool]:
    """Rows in order until `limit` or `PAGE_BYTES` is reached, and whether there are more."""
    given = wanted.parameters
    conditions: LiteralString = " ".join(f"AND {_CONDITIONS[name]}" for name in given)
    # Not prepared: only with the chain's name at hand does the planner use the indexes of the journals.
    rows = connection.execute(
        f"""
        WITH page AS (
            SELECT {_COLUMNS} FROM ledger WHERE chain = %(chain)s {place} {conditions}
            ORDER BY seq {order} LIMIT %(rows)s
        ), sized AS (
            SELECT *, count(*) OVER () AS found,
                sum(octet_length(body)) OVER (ORDER BY seq {order}) - octet_length(body) AS bytes_before
            FROM page
        )
        SELECT found, {_COLUMNS} FROM sized WHERE bytes_before < %(bytes)s ORDER BY seq {order}
        """,
        {**given, **values, "chain": chain, "rows": limit + 1, "bytes": PAGE_BYTES},
        prepare=False,
    ).fetchall()
    entries = tuple(Entry(*row[1:]) for row in rows[:limit])
    return entries, bool(rows) and rows[0][0] > len(entries)
