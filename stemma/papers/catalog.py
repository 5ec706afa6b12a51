"""Reading papers, claims and plans."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from psycopg.rows import class_row

from stemma.errors import NotFound
from stemma.papers.model import Claim, Paper, Plan
from stemma.store.database import Connection


def _one(connection: Connection, kind: type[Any], table: str, id: UUID) -> Any:
    columns = ", ".join(kind.__slots__)
    with connection.cursor(row_factory=class_row(kind)) as rows:
        return rows.execute(f"SELECT {columns} FROM p2n.{table} WHERE id = %s", (id,)).fetchone()  # type: ignore


def get_paper(connection: Connection, id: UUID) -> Paper:
    found = _one(connection, Paper, "papers", id)
    if found is None:
        raise NotFound("paper_unknown", f"There is no paper {id}.", field="paper_id")
    return found


def get_plan(connection: Connection, id: UUID) -> Plan:
    found = _one(connection, Plan, "plans", id)
    if found is None:
        raise NotFound("plan_unknown", f"There is no plan {id}.", field="plan_id")
    return found


def list_claims(connection: Connection, paper_id: UUID) -> tuple[Claim, ...]:
    columns = ", ".join(Claim.__slots__)
    with connection.cursor(row_factory=class_row(Claim)) as rows:
        return tuple(
            rows.execute(f"SELECT {columns} FROM p2n.claims WHERE paper_id = %s ORDER BY position", (paper_id,))
        )  # type: ignore
