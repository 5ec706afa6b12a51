"""Reading receipts: one, the newest of an asset or of each, a page of them, the tree back to the sources, last runs.

The table `receipts` finds them, the ledger says what they are; `misplaced` compares the two for verification.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from psycopg.rows import class_row

from stemma.errors import InvalidInput, NotFound
from stemma.ledger.entries import Entry
from stemma.ledger.receipts import CHAIN, Receipt, ReceiptInput, subject
from stemma.store.cursors import Page, cut_page, decode_cursor, encode_cursor
from stemma.store.database import Connection

MAX_DEPTH = 32
_MOST_NODES = 2000
_NAMED = 10
_LOOKED_THROUGH = 500

_ENTRY = """
    SELECT l.chain, l.seq, l.prev_hash, l.body, l.entry_hash, l.id, l.kind, l.actor, l.subject, l.created_at
    FROM receipts r JOIN ledger l ON l.chain = 'receipts' AND l.seq = r.seq AND l.id = r.id
"""


@dataclass(frozen=True, slots=True)
class TreeNode:
    """A receipt with what it was made from. `cut` says that inputs are left out here: too deep, or shown before."""

    receipt: Receipt
    inputs: tuple[TreeNode | ReceiptInput, ...]
    cut: bool = False


def read_entry(connection: Connection, receipt: UUID) -> Entry:
    """The ledger entry of a receipt; raises NotFound."""
    with connection.cursor(row_factory=class_row(Entry)) as cursor:
        entry = cursor.execute(f"{_ENTRY} WHERE r.id = %s", (receipt,)).fetchone()
    if entry is None:
        raise NotFound("receipt_not_found", f"There is no receipt {receipt}.", field="id")
    return entry


def read_receipt(connection: Connection, receipt: UUID) -> Receipt:
    """One receipt; raises NotFound."""
    return Receipt.of(read_entry(connection, receipt))


def newest_receipt(connection: Connection, asset: str, partition: str | None = None) -> Receipt:
    """The newest receipt of an asset or of one partition of it.

    Without a partition, of the one there is. Raises NotFound, and InvalidInput(field="partition") where there are
    several.
    """
    rows = connection.execute(
        """
        SELECT partition, (array_agg(id ORDER BY seq DESC))[1] FROM receipts
        WHERE asset = %(asset)s AND (%(partition)s::text IS NULL OR partition = %(partition)s)
        GROUP BY partition ORDER BY partition
        """,
        {"asset": asset, "partition": partition},
    ).fetchall()
    if not rows:
        raise NotFound(
            "receipt_not_found",
            f"There is no receipt of {subject(asset, partition)}.",
            field="asset",
            hint="`stemma materialize` writes one for each asset that it materializes.",
        )
    if len(rows) > 1:
        names = [name for name, _ in rows if name is not None]
        named = ", ".join(names[:_NAMED]) + (", …" if len(names) > _NAMED else "")
        raise InvalidInput(
            "partition_needed",
            f"{asset} has receipts of {len(rows)} partitions.",
            field="partition",
            hint=f"Name one of: {named}.",
        )
    return read_receipt(connection, rows[0][1])


def list_partitions(connection: Connection, asset: str, *, cursor: str | None = None, limit: int = 50) -> Page[Receipt]:
    """The newest receipt of each partition of an asset, by the partitions' names; none of an unpartitioned one.

    Raises InvalidInput(field="cursor").
    """
    listing = f"partitions:{asset}"
    (after,) = decode_cursor(listing, cursor, str) if cursor else ("",)
    rows = connection.execute(
        """
        SELECT DISTINCT ON (partition) id FROM receipts
        WHERE asset = %(asset)s AND partition > %(after)s ORDER BY partition, seq DESC LIMIT %(limit)s
        """,
        {"asset": asset, "after": after, "limit": limit + 1},
    ).fetchall()
    found = sorted(_read_all(connection, [row[0] for row in rows]), key=lambda receipt: receipt.partition or "")
    return cut_page(found, limit, lambda last: encode_cursor(listing, last.partition or ""))


@dataclass(frozen=True, slots=True)
class AssetFreshness:
    """An asset by its newest receipt, and of how many partitions it has any; an unpartitioned one counts none."""

    newest: Receipt
    partitions: int


def newest_by_asset(connection: Connection) -> tuple[AssetFreshness, ...]:
    """The newest receipt of every asset, by name."""
    rows = connection.execute(
        "SELECT (array_agg(id ORDER BY seq DESC))[1], count(DISTINCT partition) FROM receipts GROUP BY asset"
    ).fetchall()
    partitions: dict[UUID, int] = dict(rows)
    found = (AssetFreshness(receipt, partitions[receipt.id]) for receipt in _read_all(connection, partitions))
    return tuple(sorted(found, key=lambda asset: asset.newest.asset))


@dataclass(frozen=True, slots=True)
class RunReceipts:
    """What one run materialized, by its receipts; `seconds` adds up the steps, the cost is in US dollars."""

    run_id: str
    actor: str
    materialized_at: datetime
    subjects: tuple[str, ...]
    seconds: float
    cost_usd: float


def newest_runs(connection: Connection, limit: int = 10) -> tuple[RunReceipts, ...]:
    """The runs among the newest 500 receipts, the newest first."""
    by_run: dict[str, list[Receipt]] = {}
    for receipt in list_receipts(connection, limit=_LOOKED_THROUGH).data:
        by_run.setdefault(receipt.run_id, []).append(receipt)
    return tuple(_run(receipts) for receipts in list(by_run.values())[:limit])


def _run(receipts: list[Receipt]) -> RunReceipts:
    newest = receipts[0]
    return RunReceipts(
        newest.run_id,
        newest.actor,
        newest.materialized_at,
        tuple(receipt.subject for receipt in reversed(receipts)),
        sum(receipt.seconds or 0.0 for receipt in receipts),
        sum(receipt.cost_usd or 0.0 for receipt in receipts),
    )


def list_receipts(
    connection: Connection,
    *,
    asset: str | None = None,
    partition: str | None = None,
    run_id: str | None = None,
    cursor: str | None = None,
    limit: int = 50,
) -> Page[Receipt]:
    """Receipts, the newest first, all or those of an asset, a partition, a run; raises InvalidInput(field="cursor")."""
    (before,) = decode_cursor("receipts", cursor, int) if cursor else (2**63 - 1,)
    conditions, values = ["r.seq < %(before)s"], {"before": before, "limit": limit + 1}
    for column, value in (("asset", asset), ("partition", partition), ("run_id", run_id)):
        if value is not None:
            conditions.append(f"r.{column} = %({column})s")
            values[column] = value
    with connection.cursor(row_factory=class_row(Entry)) as rows:
        query = f"{_ENTRY} WHERE {' AND '.join(conditions)} ORDER BY r.seq DESC LIMIT %(limit)s"
        found = [Receipt.of(entry) for entry in rows.execute(query, values)]
    return cut_page(found, limit, lambda last: encode_cursor("receipts", last.seq))


def subjects_of_runs(connection: Connection, run_ids: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """What each of these runs left a receipt of, in the order of making; runs without receipts are left out."""
    rows = connection.execute(
        "SELECT run_id, asset, partition FROM receipts WHERE run_id = ANY(%s) ORDER BY seq", (list(run_ids),)
    ).fetchall()
    found: dict[str, tuple[str, ...]] = {}
    for run_id, asset, partition in rows:
        found[run_id] = (*found.get(run_id, ()), subject(asset, partition))
    return found


def receipts_before(connection: Connection, receipts: Sequence[Receipt]) -> dict[str, Receipt]:
    """The newest receipt of the same thing before each of these, by the thing's name."""
    rows = connection.execute(
        """
        SELECT newest.id
        FROM unnest(%s::text[], %s::text[], %s::bigint[]) AS given (asset, partition, seq) CROSS JOIN LATERAL (
            SELECT r.id FROM receipts r
            WHERE r.asset = given.asset AND r.partition IS NOT DISTINCT FROM given.partition AND r.seq < given.seq
            ORDER BY r.seq DESC LIMIT 1
        ) AS newest
        """,
        ([r.asset for r in receipts], [r.partition for r in receipts], [r.seq for r in receipts]),
    ).fetchall()
    return {receipt.subject: receipt for receipt in _read_all(connection, [row[0] for row in rows])}


def read_tree(connection: Connection, receipt: UUID, depth: int = MAX_DEPTH) -> TreeNode:
    """A receipt with the receipts of its inputs, and so on, `depth` levels down and 2,000 receipts at most.

    One that several were made from is followed once. Raises NotFound.
    """
    root = read_receipt(connection, receipt)
    known, level = {root.id: root}, [root]
    for _ in range(depth):
        wanted = {i.receipt for parent in level for i in parent.inputs if i.receipt is not None} - known.keys()
        level = _read_all(connection, sorted(wanted)[: _MOST_NODES - len(known)])
        known.update((found.id, found) for found in level)
        if not level:
            break
    shown: set[UUID] = set()

    def node(at: Receipt, depth_left: int) -> TreeNode:
        if at.inputs and (depth_left == 0 or at.id in shown):
            return TreeNode(at, (), cut=True)
        shown.add(at.id)
        inputs = (known.get(i.receipt, i) if i.receipt is not None else i for i in at.inputs)
        return TreeNode(at, tuple(node(i, depth_left - 1) if isinstance(i, Receipt) else i for i in inputs))

    return node(root, depth)


def _read_all(connection: Connection, ids: Iterable[UUID]) -> list[Receipt]:
    with connection.cursor(row_factory=class_row(Entry)) as cursor:
        return [Receipt.of(entry) for entry in cursor.execute(f"{_ENTRY} WHERE r.id = ANY(%s)", (list(ids),))]


@dataclass(frozen=True, slots=True)
class Misplaced:
    """A row of the table `receipts` that is not what the ledger says; `seq` is the entry's, where there is one."""

    seq: int | None
    message: str


def misplaced(connection: Connection) -> Iterator[Misplaced]:
    """Every way in which the table of receipts and the chain disagree."""
    with connection.cursor(name="filed_receipts") as rows:
        rows.execute(
            """
            SELECT l.seq, l.body, l.id, r.id, r.seq, r.asset, r.partition, r.run_id
            FROM (SELECT seq, body, id FROM ledger WHERE chain = %s) l FULL JOIN receipts r ON r.id = l.id
            ORDER BY l.seq, r.seq
            """,
            (CHAIN,),
        )
        for seq, body, entry_id, row_id, *row in rows:
            if seq is None:
                yield Misplaced(
                    None, f"The table of receipts has {row_id} of {subject(*row[1:3])}, the ledger has not."
                )
            elif row_id is None:
                yield Misplaced(seq, f"Receipt {entry_id} is in the ledger and not in the table of receipts.")
            else:
                said = _said(body)
                if said is not None and [seq, *said] != row:
                    was, has = subject(*said[:2]), subject(*row[1:3])
                    what = f"was issued for {was} by run {said[2]} and is filed under {has} and run {row[3]}"
                    yield Misplaced(seq, f"Receipt {row_id} {what}, as number {row[0]:,}.")


def _said(body: bytes) -> list[str] | None:
    """Asset, partition and run in a body; None for one that is none, which is found by its hash."""
    try:
        data = json.loads(body)["data"]
        return [data["asset"], data["partition"], data["run_id"]]
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
