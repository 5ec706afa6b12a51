"""Reading what calls to models used, call by call; days of it are `stemma.telemetry.costs`' business."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

from psycopg.rows import class_row

from stemma.store.cursors import Page, cut_page, decode_cursor, encode_cursor
from stemma.store.database import Connection


@dataclass(frozen=True, slots=True)
class Use:
    """A call to a model, and what it used; `cost_est` is in US dollars, None where the price is not known."""

    id: int
    ts: datetime
    request_id: str
    job_id: UUID | None
    actor: str
    key_id: UUID | None
    agent: str | None
    route: str
    op: str
    provider: str
    model: str
    status: str
    error_code: str | None
    tokens_in: int
    tokens_cached: int
    tokens_out: int
    counted: str
    cost_est: Decimal | None
    latency_ms: float
    ttft_ms: float | None
    meta: dict[str, Any]


def list_usage(
    connection: Connection,
    *,
    provider: str | None = None,
    agent: str | None = None,
    request_id: str | None = None,
    cursor: str | None = None,
    limit: int = 50,
) -> Page[Use]:
    """Calls, the newest first, of a provider, an agent or a request where they are named; a founder's are nowhere.

    Raises InvalidInput for a bad cursor.
    """
    before = decode_cursor("usage", cursor, int)[0] if cursor is not None else None
    with connection.cursor(row_factory=class_row(Use)) as rows:
        found = rows.execute(
            f"""
            SELECT {", ".join(Use.__slots__)} FROM provider_usage
            WHERE (%(before)s::bigint IS NULL OR id < %(before)s)
                AND (%(provider)s::text IS NULL OR provider = %(provider)s)
                AND (%(agent)s::text IS NULL OR agent = %(agent)s)
                AND (%(request_id)s::text IS NULL OR request_id = %(request_id)s)
            ORDER BY id DESC LIMIT %(limit)s
            """,
            {"before": before, "provider": provider, "agent": agent, "request_id": request_id, "limit": limit + 1},
        ).fetchall()
    return cut_page(found, limit, lambda last: encode_cursor("usage", last.id))
