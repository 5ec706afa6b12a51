"""Reading promotions: one, and lists."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any, Final
from uuid import UUID

from psycopg.rows import dict_row

from stemma.errors import NotFound
from stemma.store.cursors import Page, cut_page, decode_cursor, encode_cursor
from stemma.store.database import Connection


class State(StrEnum):
    """Where a promotion stands; every state but `proposed` is final."""

    PROPOSED = "proposed"
    PUBLISHED = "published"
    DECLINED = "declined"


@dataclass(frozen=True, slots=True)
class Promotion:
    """A variant of `policy` (`name@version`) that is proposed as its baseline, by the evidence of an assessment.

    `approval_id` is what a person decides; `published` the `name@version` that came of it.
    """

    id: UUID
    node: str
    policy: str
    variant: str
    evidence: Mapping[str, Any]
    approval_id: UUID
    state: State
    published: str | None
    proposed_at: datetime
    settled_at: datetime | None


_COLUMNS: Final = """
    id, node, policy, variant, evidence, approval_id, state, published, proposed_at, settled_at
"""
_LIST: Final = f"""
    SELECT position, {_COLUMNS} FROM promotions
    WHERE position < %(before)s
        AND (%(node)s::text IS NULL OR node = %(node)s)
        AND (%(state)s::text IS NULL OR state = %(state)s)
    ORDER BY position DESC LIMIT %(limit)s
"""
_NEWEST: Final = 2**63 - 1


def get_promotion(connection: Connection, promotion_id: UUID) -> Promotion:
    """One promotion; raises NotFound."""
    query = f"SELECT {_COLUMNS} FROM promotions WHERE id = %s"
    row = connection.cursor(row_factory=dict_row).execute(query, (promotion_id,)).fetchone()
    if row is None:
        hint = "`stemma promotions list` shows those that there are."
        raise NotFound("promotion_unknown", f"There is no promotion {promotion_id}.", field="id", hint=hint)
    return _promotion(row)


def list_promotions(
    connection: Connection,
    *,
    node: str | None = None,
    state: State | None = None,
    cursor: str | None = None,
    limit: int = 50,
) -> Page[Promotion]:
    """The newest first, all or those that match; raises InvalidInput(field="cursor")."""
    (before,) = decode_cursor("promotions", cursor, int) if cursor else (_NEWEST,)
    wanted = {"before": before, "node": node, "state": state, "limit": limit + 1}
    rows = connection.cursor(row_factory=dict_row).execute(_LIST, wanted).fetchall()
    page = cut_page(rows, limit, lambda last: encode_cursor("promotions", last["position"]))
    return Page(tuple(map(_promotion, page.data)), page.next_cursor)


def of_variant(connection: Connection, node: str, policy: str, variant: str) -> Promotion | None:
    """The newest promotion of a variant, where one was proposed."""
    query = f"SELECT {_COLUMNS} FROM promotions WHERE (node, policy, variant) = (%s, %s, %s) ORDER BY position DESC"
    row = connection.cursor(row_factory=dict_row).execute(query, (node, policy, variant)).fetchone()
    return _promotion(row) if row else None


def _promotion(row: Mapping[str, Any]) -> Promotion:
    return Promotion(**{name: row[name] for name in Promotion.__slots__} | {"state": State(row["state"])})
