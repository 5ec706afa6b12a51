"""Reading papers, claims and plans."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any, Final
from uuid import UUID

from psycopg.rows import dict_row

from stemma.errors import NotFound
from stemma.papers.model import Claim, Paper, Plan
from stemma.store.cursors import Page, cut_page, decode_cursor, encode_cursor
from stemma.store.database import Connection

_LISTING: Final = "papers"
_PAPERS: Final = f"SELECT {', '.join(field.name for field in fields(Paper))} FROM p2n.papers"
_CLAIMS: Final = f"SELECT {', '.join(field.name for field in fields(Claim))} FROM p2n.claims"
_PLANS: Final = f"SELECT {', '.join(field.name for field in fields(Plan))} FROM p2n.plans"


def list_papers(connection: Connection, *, cursor: str | None = None, limit: int = 50) -> Page[Paper]:
    """Papers, the newest first; raises InvalidInput(field="cursor")."""
    where, parameters = "", []
    if cursor is not None:
        at, paper_id = decode_cursor(_LISTING, cursor, str, str)
        where, parameters = " WHERE (created_at, id) < (%s::timestamptz, %s::uuid)", [at, paper_id]
    rows = connection.cursor(row_factory=dict_row).execute(
        f"{_PAPERS}{where} ORDER BY created_at DESC, id DESC LIMIT %s", (*parameters, limit + 1)
    )
    return cut_page([Paper(**row) for row in rows], limit, _cursor_after)


def _cursor_after(paper: Paper) -> str:
    return encode_cursor(_LISTING, paper.created_at.isoformat(), str(paper.id))


def paper_ids(connection: Connection) -> list[UUID]:
    """The ids of all papers, the oldest first."""
    return [paper_id for (paper_id,) in connection.execute("SELECT id FROM p2n.papers ORDER BY created_at, id")]


def unread(connection: Connection, *, limit: int) -> list[UUID]:
    """The ids of papers that were taken in and neither read nor found unreadable since, the newest first."""
    rows = connection.execute(
        "SELECT id FROM p2n.papers WHERE pages_key IS NULL AND error_code IS NULL"
        " ORDER BY created_at DESC, id LIMIT %s",
        (limit,),
    )
    return [paper_id for (paper_id,) in rows]


def get_paper(connection: Connection, paper_id: UUID) -> Paper:
    """The paper; raises NotFound(paper_unknown)."""
    row = connection.cursor(row_factory=dict_row).execute(f"{_PAPERS} WHERE id = %s", (paper_id,)).fetchone()
    if row is None:
        hint = "`stemma papers list` shows those that there are."
        raise NotFound("paper_unknown", f"There is no paper {paper_id}.", field="paper_id", hint=hint)
    return Paper(**row)


def find_paper(connection: Connection, paper_id: UUID) -> Paper | None:
    """The paper, where there is one."""
    row = connection.cursor(row_factory=dict_row).execute(f"{_PAPERS} WHERE id = %s", (paper_id,)).fetchone()
    return None if row is None else Paper(**row)


def list_claims(connection: Connection, paper_id: UUID) -> tuple[Claim, ...]:
    """The claims of a paper in their order."""
    rows = connection.cursor(row_factory=dict_row).execute(
        f"{_CLAIMS} WHERE paper_id = %s ORDER BY position, id", (paper_id,)
    )
    return tuple(map(_claim, rows))


def get_claim(connection: Connection, claim_id: UUID) -> Claim:
    """The claim; raises NotFound(claim_unknown)."""
    row = connection.cursor(row_factory=dict_row).execute(f"{_CLAIMS} WHERE id = %s", (claim_id,)).fetchone()
    if row is None:
        raise NotFound("claim_unknown", f"There is no claim {claim_id}.", field="claim_id")
    return _claim(row)


def list_plans(connection: Connection, paper_id: UUID) -> tuple[Plan, ...]:
    """The versions of a paper's plan, the newest first."""
    rows = connection.cursor(row_factory=dict_row).execute(
        f"{_PLANS} WHERE paper_id = %s ORDER BY version DESC", (paper_id,)
    )
    return tuple(Plan(**row) for row in rows)


def latest_plan(connection: Connection, paper_id: UUID) -> Plan | None:
    """The plan that counts, where there is one."""
    row = (
        connection.cursor(row_factory=dict_row)
        .execute(f"{_PLANS} WHERE paper_id = %s ORDER BY version DESC LIMIT 1", (paper_id,))
        .fetchone()
    )
    return None if row is None else Plan(**row)


def get_plan(connection: Connection, plan_id: UUID) -> Plan:
    """The version of a plan; raises NotFound(plan_unknown)."""
    row = connection.cursor(row_factory=dict_row).execute(f"{_PLANS} WHERE id = %s", (plan_id,)).fetchone()
    if row is None:
        raise NotFound("plan_unknown", f"There is no plan {plan_id}.", field="plan_id")
    return Plan(**row)


def _claim(row: Mapping[str, Any]) -> Claim:
    return Claim(**{**row, "box": tuple(row["box"])})
