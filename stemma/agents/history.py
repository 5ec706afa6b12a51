"""Reading calls: lists, one, and what they streamed. Each reads their own; `agents:operate` reads everybody's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any, Final
from uuid import UUID

from psycopg.rows import dict_row

from stemma.access.permissions import Role
from stemma.access.principal import Principal
from stemma.agents.stream import Event
from stemma.errors import NotFound
from stemma.jobs.model import JobState
from stemma.store.cursors import Page, cut_page, decode_cursor, encode_cursor
from stemma.store.database import Connection

_NEWEST: Final = 2**63 - 1
_COLUMNS: Final = """
    call.job_id, call.agent, call.actor, call.request_id, call.prompt, call.memory, call.asked, call.context,
    call.answered, call.provider, call.model, call.tokens_in, call.tokens_out, call.cost_est, call.citations,
    job.role, job.state, job.submitted_at, job.finished_at, job.error_code, job.error_message
"""
_FROM: Final = "FROM agent_calls AS call JOIN jobs AS job ON job.id = call.job_id"
_CHUNKS: Final = """
    SELECT first_seq, events FROM agent_chunks
    WHERE job_id = %(id)s AND first_seq >= coalesce(
        (SELECT max(first_seq) FROM agent_chunks WHERE job_id = %(id)s AND first_seq <= %(next)s), 1)
    ORDER BY first_seq LIMIT %(limit)s
"""


@dataclass(frozen=True, slots=True)
class CallRecord:
    """A call as it is kept. `answered` is None while it runs; `cost_est` is in US dollars, None where unknown."""

    job_id: UUID
    agent: str
    actor: str
    request_id: str
    prompt: str
    memory: bool
    asked: str
    context: dict[str, Any] | None
    answered: str | None
    provider: str | None
    model: str | None
    tokens_in: int | None
    tokens_out: int | None
    cost_est: Decimal | None
    citations: list[dict[str, Any]]
    role: Role
    state: JobState
    submitted_at: datetime
    finished_at: datetime | None
    error_code: str | None
    error_message: str | None


@dataclass(frozen=True, slots=True)
class Numbered:
    """An event that was streamed, and its number."""

    seq: int
    event: Event


def list_calls(
    connection: Connection, principal: Principal, agent: str, *, cursor: str | None = None, limit: int = 50
) -> Page[CallRecord]:
    """The newest calls of an agent first, those that the principal may read.

    Raises InvalidInput(field="cursor").
    """
    (before,) = decode_cursor("agent_calls", cursor, int) if cursor else (_NEWEST,)
    rows = connection.cursor(row_factory=dict_row).execute(
        f"SELECT call.position, {_COLUMNS} {_FROM} WHERE call.agent = %(agent)s AND call.position < %(before)s "
        "AND (%(actor)s::text IS NULL OR call.actor = %(actor)s) ORDER BY call.position DESC LIMIT %(limit)s",
        {"agent": agent, "before": before, "actor": _whose(principal), "limit": limit + 1},
    )
    page = cut_page(rows.fetchall(), limit, lambda last: encode_cursor("agent_calls", last["position"]))
    return Page(tuple(map(_record, page.data)), page.next_cursor)


def find_call(connection: Connection, principal: Principal, job_id: UUID, *, agent: str | None = None) -> CallRecord:
    """One call, of this agent where one is named; raises NotFound also where it is somebody else's."""
    row = (
        connection.cursor(row_factory=dict_row)
        .execute(
            f"SELECT {_COLUMNS} {_FROM} WHERE call.job_id = %(id)s "
            "AND (%(actor)s::text IS NULL OR call.actor = %(actor)s) "
            "AND (%(agent)s::text IS NULL OR call.agent = %(agent)s)",
            {"id": job_id, "actor": _whose(principal), "agent": agent},
        )
        .fetchone()
    )
    if row is None:
        hint = "`stemma agent history` shows those that there are."
        raise NotFound("call_unknown", f"There is no call {job_id}.", field="job_id", hint=hint)
    return _record(row)


def list_streamed(connection: Connection, job_id: UUID, after: int = 0, *, limit: int = 50) -> tuple[Numbered, ...]:
    """What a call streamed after an event, as far as it is written down: of at most `limit` chunks."""
    wanted = {"id": job_id, "next": after + 1, "limit": limit}
    return tuple(
        Numbered(seq, said if isinstance(said, str) else (said[0], said[1]))
        for first, events in connection.execute(_CHUNKS, wanted)
        for seq, said in enumerate(events, first)
        if seq > after
    )


def _whose(principal: Principal) -> str | None:
    """Whose calls somebody may read; None is everybody's."""
    return None if principal.may("agents:operate") else principal.actor


def _record(row: Mapping[str, Any]) -> CallRecord:
    known = {name: row[name] for name in CallRecord.__slots__}
    return CallRecord(**{**known, "role": Role(row["role"]), "state": JobState(row["state"])})
