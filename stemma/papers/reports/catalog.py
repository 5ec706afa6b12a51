"""Reading reports: the newest of a paper, and of all papers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final
from uuid import UUID

from psycopg.rows import dict_row

from stemma.papers.reports.model import Report
from stemma.store.database import Connection

_COLUMNS: Final = "id, document, sha256, created_at"
_NEWEST: Final = f"""
    SELECT {_COLUMNS} FROM p2n.reports WHERE paper_id = %s ORDER BY created_at DESC, id DESC LIMIT 1
"""
_ALL: Final = f"""
    SELECT DISTINCT ON (paper_id) {_COLUMNS} FROM p2n.reports ORDER BY paper_id, created_at DESC, id DESC
"""


@dataclass(frozen=True, slots=True)
class KeptReport:
    """A report as it is kept; `sha256` (hexadecimal) is over its RFC 8785 bytes."""

    id: UUID
    report: Report
    sha256: str
    created_at: datetime


def find_report(connection: Connection, paper_id: UUID) -> KeptReport | None:
    """The newest report of a paper, where there is one."""
    with connection.cursor(row_factory=dict_row) as rows:
        row = rows.execute(_NEWEST, (paper_id,)).fetchone()
    return _kept(row) if row else None


def newest_reports(connection: Connection) -> tuple[KeptReport, ...]:
    """The newest report of every paper that has one."""
    with connection.cursor(row_factory=dict_row) as rows:
        return tuple(map(_kept, rows.execute(_ALL)))


def _kept(row: Mapping[str, Any]) -> KeptReport:
    return KeptReport(row["id"], Report.model_validate(row["document"]), row["sha256"], row["created_at"])
