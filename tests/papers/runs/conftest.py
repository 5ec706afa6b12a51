"""A paper with a plan of its own cells, and a studio in which its runs are carried out."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid4

import pytest
from psycopg.types.json import Jsonb

from stemma.ledger.service import Ledger
from stemma.papers.runs.execution import Studio
from stemma.store.database import Database
from stemma.store.files import FileStore
from stemma.store.settings import Settings


@pytest.fixture
def studio(settings: Settings, database: Database) -> Studio:
    """What runs need."""

    def commit(prepare: Callable[[Any], Any]) -> Any:
        change = database.read(prepare)
        with Ledger(database.urls, settings) as ledger:
            return ledger.commit(change).result(20)

    return Studio(settings, database, FileStore.open_default(settings), commit)


@pytest.fixture
def plan(database: Database) -> Callable[..., UUID]:
    """Store a paper with a plan that consists of these cells; returns the plan's id."""

    def store(*cells: str, **changed: Any) -> UUID:
        paper_id, plan_id, now = uuid4(), uuid4(), datetime.now(UTC)
        target = {
            "claim": str(uuid4()), "metric": "accuracy", "split": "test", "label": "accuracy", "claimed": 0.5,
            "printed": "0.5", "decimals": 1, "unit": None, "tolerance": 0.1, "page": 1, "box": [0, 0, 1, 1],
            "quote": "0.5",
        }  # fmt: skip
        document = {
            "title": "A paper",
            "targets": [target],
            "dataset": {"name": "none", "package": "numpy", "loader": "none"},
            "method": {"name": "none", "description": "Nothing"},
            "environment": {"packages": []},
            "notebook": [{"source": cell} for cell in cells],
            "alternatives": [
                {"name": "other", "description": "d", "targets": ["accuracy"], "parameters": {"number": 1}}
            ],
            **changed,
        }
        with database.transaction() as connection:
            connection.execute(
                """
                INSERT INTO p2n.papers (id, sha256, title, kind, source, source_ref, file_key, bytes, pages, status,
                    created_at, created_by, updated_at)
                VALUES (%s, '', 'A paper', 'claim_sheet', 'sample', 'a.pdf', 'a.pdf', 1, 1, 'planned', %s, 't', %s)
                """,
                (paper_id, now, now),
            )
            connection.execute(
                """
                INSERT INTO p2n.plans (id, paper_id, version, document, sha256, origin, created_at, created_by)
                VALUES (%s, %s, 1, %s, '', 'person', %s, 'test')
                """,
                (plan_id, paper_id, Jsonb(document), now),
            )
        return plan_id

    return store
