"""Reading decisions: one with its context, lists, and what waits for a person."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any, Final, LiteralString
from uuid import UUID

from psycopg.rows import dict_row

from stemma.errors import NotFound
from stemma.governance.decisions.model import Decision, DecisionSummary, State
from stemma.governance.evaluation import Reason
from stemma.governance.policy import Level, Ruling
from stemma.store.cursors import Page, cut_page, decode_cursor, encode_cursor
from stemma.store.database import Connection

_COLUMNS: Final = """
    d.id, d.node, d.node_version, d.event_id, d.event_type, d.entity, d.correlation_id, d.policy, d.policy_version,
    d.variant, d.verdict, d.level, d.reasons, d.state, d.effect, d.approval_id, d.due_at, d.on_silence, d.settled_by,
    d.settled_reason, d.settled_at, d.occurred_at, d.decided_at, d.decided_by, d.latency_ms, d.seq,
    encode(d.entry_hash, 'hex') AS entry_hash
"""
_WHOLE: Final = f"""
    SELECT d.position, {_COLUMNS}, encode(d.policy_sha256, 'hex') AS policy_sha256, d.draw,
        encode(d.verdict_sha256, 'hex') AS verdict_sha256, encode(d.context_sha256, 'hex') AS context_sha256, c.content
    FROM decisions AS d JOIN decision_contexts AS c ON c.sha256 = d.context_sha256
"""
_ONE: Final = f"{_WHOLE} WHERE d.id = %s"
_EACH: Final = f"""
    {_WHOLE} WHERE d.position > %(after)s AND (%(node)s::text IS NULL OR d.node = %(node)s)
    ORDER BY d.position LIMIT %(limit)s
"""
_LIST: Final = f"""
    SELECT d.position, {_COLUMNS} FROM decisions AS d
    WHERE d.position < %(before)s
        AND (%(node)s::text IS NULL OR d.node = %(node)s)
        AND (%(state)s::text IS NULL OR d.state = %(state)s)
        AND (%(verdict)s::text IS NULL OR d.verdict = %(verdict)s)
        AND (%(level)s::text IS NULL OR d.level = %(level)s)
        AND (%(entity)s::text IS NULL OR d.entity = %(entity)s)
        AND (%(correlation_id)s::text IS NULL OR d.correlation_id = %(correlation_id)s)
        AND (%(event_id)s::uuid IS NULL OR d.event_id = %(event_id)s)
        AND (%(since)s::timestamptz IS NULL OR d.decided_at >= %(since)s)
        AND (%(until)s::timestamptz IS NULL OR d.decided_at < %(until)s)
    ORDER BY d.position DESC LIMIT %(limit)s
"""
_WAITING: Final = f"""
    SELECT d.position, {_COLUMNS} FROM decisions AS d
    WHERE d.state = 'waiting' AND (%(node)s::text IS NULL OR d.node = %(node)s)
        AND (%(after)s::bigint IS NULL OR (d.due_at, d.position)
            > (SELECT last.due_at, last.position FROM decisions AS last WHERE last.position = %(after)s))
    ORDER BY d.due_at, d.position LIMIT %(limit)s
"""
_NEWEST: Final = 2**63 - 1
_AT_ONCE: Final = 500


def get_decision(connection: Connection, decision_id: UUID) -> Decision:
    """One decision as it stands, with its event and context; raises NotFound."""
    row = connection.cursor(row_factory=dict_row).execute(_ONE, (decision_id,)).fetchone()
    if row is None:
        hint = "`stemma decisions list` shows those that there are."
        raise NotFound("decision_unknown", f"There is no decision {decision_id}.", field="id", hint=hint)
    return _decision(row)


def each_decision(connection: Connection, *, node: str | None = None) -> Iterator[Decision]:
    """Every decision with its event and context, the oldest first; read in pages."""
    after = 0
    while rows := _rows(connection, _EACH, {"after": after, "node": node, "limit": _AT_ONCE}):
        yield from map(_decision, rows)
        after = rows[-1]["position"]


def list_decisions(
    connection: Connection,
    *,
    node: str | None = None,
    state: State | None = None,
    verdict: Ruling | None = None,
    level: Level | None = None,
    entity: str | None = None,
    correlation_id: str | None = None,
    event_id: UUID | None = None,
    since: datetime | None = None,
    until: datetime | None = None,
    cursor: str | None = None,
    limit: int = 50,
) -> Page[DecisionSummary]:
    """The newest decisions first, all or those that match; `since` and `until` bound when they were decided.

    Raises InvalidInput(field="cursor").
    """
    (before,) = decode_cursor("decisions", cursor, int) if cursor else (_NEWEST,)
    wanted = {
        "before": before,
        "node": node,
        "state": state,
        "verdict": verdict,
        "level": level,
        "entity": entity,
        "correlation_id": correlation_id,
        "event_id": event_id,
        "since": since,
        "until": until,
        "limit": limit + 1,
    }
    page = cut_page(_rows(connection, _LIST, wanted), limit, lambda last: encode_cursor("decisions", last["position"]))
    return Page(tuple(DecisionSummary(**_summary(row)) for row in page.data), page.next_cursor)


def list_waiting(
    connection: Connection, *, node: str | None = None, cursor: str | None = None, limit: int = 50
) -> Page[DecisionSummary]:
    """What waits for a person, of all nodes or of one, the nearest deadline first.

    Raises InvalidInput(field="cursor").
    """
    (after,) = decode_cursor("decisions.waiting", cursor, int) if cursor else (None,)
    rows = _rows(connection, _WAITING, {"after": after, "node": node, "limit": limit + 1})
    page = cut_page(rows, limit, lambda last: encode_cursor("decisions.waiting", last["position"]))
    return Page(tuple(DecisionSummary(**_summary(row)) for row in page.data), page.next_cursor)


def _decision(row: Mapping[str, Any]) -> Decision:
    rests_on = json.loads(bytes(row["content"]))
    known = {name: row[name] for name in ("policy_sha256", "verdict_sha256", "context_sha256", "draw")}
    return Decision(**_summary(row), **known, event=rests_on["event"], context=rests_on["context"])


def _rows(connection: Connection, query: LiteralString, parameters: Any) -> list[dict[str, Any]]:
    return connection.cursor(row_factory=dict_row).execute(query, parameters).fetchall()


def _summary(row: Mapping[str, Any]) -> dict[str, Any]:
    return {
        **{name: row[name] for name in DecisionSummary.__slots__},
        "verdict": Ruling(row["verdict"]),
        "level": Level(row["level"]),
        "state": State(row["state"]),
        "effect": Ruling(row["effect"]) if row["effect"] else None,
        "reasons": tuple(Reason(reason["rule"], reason["text"]) for reason in row["reasons"]),
    }
