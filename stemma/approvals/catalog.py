"""Reading approvals: one, its bytes, and lists.

A pending approval past its deadline is read as expired, as it will be once it is settled: same version, same ETag.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any
from uuid import UUID

from psycopg.rows import dict_row

from stemma.access.permissions import Role
from stemma.approvals.model import Approval, ApprovalSummary, Content, Decision, Risk, State, Verdict
from stemma.errors import NotFound
from stemma.store.cursors import Page, cut_page, decode_cursor, encode_cursor
from stemma.store.database import Connection

# `statement_timestamp()` is one moment for all columns and rows of a read.
_COLUMNS = """
    a.id, a.kind, a.subject, a.media_type, encode(a.content_sha256, 'hex') AS content_sha256,
    length(a.content) AS size, a.risk, a.reason, a.deciders, a.second_person, a.approvals_needed, a.requested_by,
    a.requested_at, a.expires_at, a.consumed_by, a.consumed_at,
    CASE WHEN a.overdue THEN 'expired' ELSE a.state END AS state,
    CASE WHEN a.overdue THEN a.version + 1 ELSE a.version END AS version,
    CASE WHEN a.overdue THEN a.expires_at ELSE a.settled_at END AS settled_at
"""
_APPROVALS = "(SELECT *, state = 'pending' AND expires_at <= statement_timestamp() AS overdue FROM approvals) AS a"
_ONE = f"SELECT {_COLUMNS}, a.diff FROM {_APPROVALS} WHERE a.id = %s"
_DECISIONS = """
    SELECT decided_by, role, verdict, reason, decided_at FROM approval_decisions
    WHERE approval_id = %s ORDER BY decided_at, decided_by
"""
_LIST = f"""
    SELECT * FROM (SELECT {_COLUMNS}, a.position FROM {_APPROVALS}) AS approval
    WHERE position < %(before)s
        AND (NOT %(settled)s OR state <> 'pending')
        AND (%(state)s::text IS NULL OR state = %(state)s)
        AND (%(kind)s::text IS NULL OR kind = %(kind)s)
        AND (%(subject)s::text IS NULL OR subject = %(subject)s)
        AND (%(requested_by)s::text IS NULL OR requested_by = %(requested_by)s)
        AND (%(risk)s::text IS NULL OR risk = %(risk)s)
    ORDER BY position DESC LIMIT %(limit)s
"""
_NEWEST = 2**63 - 1


def get_approval(connection: Connection, approval_id: UUID) -> Approval:
    """One approval as it stands now; raises NotFound."""
    row = connection.cursor(row_factory=dict_row).execute(_ONE, (approval_id,)).fetchone()
    if row is None:
        raise _unknown(approval_id)
    given = connection.execute(_DECISIONS, (approval_id,)).fetchall()
    decisions = tuple(Decision(who, Role(role), Verdict(verdict), why, at) for who, role, verdict, why, at in given)
    return Approval(**_summary(row), diff=row["diff"], decisions=decisions)


def get_content(connection: Connection, approval_id: UUID) -> Content:
    """The exact bytes that an approval is about; raises NotFound."""
    row = connection.execute(
        "SELECT media_type, content, encode(content_sha256, 'hex') FROM approvals WHERE id = %s", (approval_id,)
    ).fetchone()
    if row is None:
        raise _unknown(approval_id)
    return Content(*row)


def list_approvals(
    connection: Connection,
    *,
    state: State | None = None,
    kind: str | None = None,
    subject: str | None = None,
    requested_by: str | None = None,
    risk: Risk | None = None,
    settled: bool = False,
    cursor: str | None = None,
    limit: int = 50,
) -> Page[ApprovalSummary]:
    """The newest approvals first, all or those that match; `settled` leaves out what is pending.

    Raises InvalidInput(field="cursor").
    """
    (before,) = decode_cursor("approvals", cursor, int) if cursor else (_NEWEST,)
    rows = (
        connection.cursor(row_factory=dict_row)
        .execute(
            _LIST,
            {
                "before": before,
                "state": state,
                "kind": kind,
                "subject": subject,
                "requested_by": requested_by,
                "risk": risk,
                "settled": settled,
                "limit": limit + 1,
            },
        )
        .fetchall()
    )
    page = cut_page(rows, limit, lambda last: encode_cursor("approvals", last["position"]))
    return Page(tuple(ApprovalSummary(**_summary(row)) for row in page.data), page.next_cursor)


def list_of_subjects(connection: Connection, subjects: Iterable[str], limit: int = 50) -> tuple[ApprovalSummary, ...]:
    """The newest approvals of any of these subjects, the newest first."""
    query = f"""
        SELECT {_COLUMNS} FROM {_APPROVALS} WHERE subject = ANY(%s) ORDER BY position DESC LIMIT %s
    """
    rows = connection.cursor(row_factory=dict_row).execute(query, (sorted(subjects), limit)).fetchall()
    return tuple(ApprovalSummary(**_summary(row)) for row in rows)


def _summary(row: Mapping[str, Any]) -> dict[str, Any]:
    return {
        **{name: row[name] for name in ApprovalSummary.__slots__},
        "risk": Risk(row["risk"]),
        "state": State(row["state"]),
        "deciders": tuple(Role(role) for role in row["deciders"]),
    }


def _unknown(approval_id: UUID) -> NotFound:
    hint = "`stemma approvals list` shows those that there are."
    return NotFound("approval_unknown", f"There is no approval {approval_id}.", field="id", hint=hint)
