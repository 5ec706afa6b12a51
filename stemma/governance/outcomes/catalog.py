"""Reading outcomes: that of a decision, and lists, the last known first."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final
from uuid import UUID

from psycopg.rows import dict_row

from stemma.errors import NotFound
from stemma.governance.outcomes.model import Outcome
from stemma.store.cursors import Page, cut_page, decode_cursor, encode_cursor
from stemma.store.database import Connection

_COLUMNS: Final = "decision_id, metrics, success, counted, observed_at, revision, updated_at, updated_by"
_LIST: Final = f"""
    SELECT outcomes.position, {_COLUMNS} FROM outcomes
    WHERE outcomes.position < %(before)s
        AND (%(node)s::text IS NULL
            OR (SELECT node FROM decisions WHERE decisions.id = outcomes.decision_id) = %(node)s)
        AND (%(success)s::boolean IS NULL OR success = %(success)s)
    ORDER BY outcomes.position DESC LIMIT %(limit)s
"""
_NEWEST: Final = 2**63 - 1


def find_outcomes(connection: Connection, decision_ids: Iterable[UUID]) -> dict[UUID, Outcome]:
    """What is known of what came of these decisions, by decision."""
    query = f"SELECT {_COLUMNS} FROM outcomes WHERE decision_id = ANY(%s::uuid[])"
    ids = "{" + ",".join(decision_id.hex for decision_id in decision_ids) + "}"
    rows = connection.cursor(row_factory=dict_row).execute(query, (ids,)).fetchall()
    return {row["decision_id"]: _outcome(row) for row in rows}


def get_outcome(connection: Connection, decision_id: UUID) -> Outcome:
    """What is known of what came of a decision; raises NotFound."""
    outcome = find_outcomes(connection, [decision_id]).get(decision_id)
    if outcome is None:
        what = f"Nothing is known of what came of the decision {decision_id}."
        raise NotFound("outcome_unknown", what, field="decision_id")
    return outcome


def list_outcomes(
    connection: Connection,
    *,
    node: str | None = None,
    success: bool | None = None,
    cursor: str | None = None,
    limit: int = 50,
) -> Page[Outcome]:
    """Those that were told of last first, all or those that match; raises InvalidInput(field="cursor")."""
    (before,) = decode_cursor("outcomes", cursor, int) if cursor else (_NEWEST,)
    wanted = {"before": before, "node": node, "success": success, "limit": limit + 1}
    rows = connection.cursor(row_factory=dict_row).execute(_LIST, wanted).fetchall()
    page = cut_page(rows, limit, lambda last: encode_cursor("outcomes", last["position"]))
    return Page(tuple(map(_outcome, page.data)), page.next_cursor)


def _outcome(row: Mapping[str, Any]) -> Outcome:
    return Outcome(**{name: row[name] for name in Outcome.__slots__})
