"""Answers kept under a caller's key: a request that is sent again is answered again, not done again.

An answer is kept by a statement of the transaction that has the effect, so that there is never one without the other
and nothing to clean up after a crash. What makes two requests the same is the face's business.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from stemma.errors import InvalidInput
from stemma.ledger.entries import Entry
from stemma.ledger.writer import Parameters, Statement, row
from stemma.store.database import Connection

KEPT_HOURS: Final = 24

# Whoever adds one removes two that are too old: the table holds a day's answers without anybody who tidies it.
_KEEP: Final = f"""
    WITH given AS MATERIALIZED (
        SELECT * FROM json_to_recordset(%(rows)s::json) AS (
            caller text, route text, key text, request_sha256 text, status smallint, headers jsonb, body text)
    ), outdated AS (
        SELECT caller, route, key FROM kept_answers WHERE created_at < now() - interval '{KEPT_HOURS} hours'
        ORDER BY created_at LIMIT (SELECT 2 * count(*) FROM given) FOR UPDATE SKIP LOCKED
    ), removed AS (
        DELETE FROM kept_answers USING outdated
        WHERE (kept_answers.caller, kept_answers.route, kept_answers.key)
            = (outdated.caller, outdated.route, outdated.key)
    )
    INSERT INTO kept_answers (caller, route, key, request_sha256, status, headers, body)
    SELECT caller, route, key, decode(request_sha256, 'hex'), status, headers, decode(body, 'hex') FROM given
    ON CONFLICT DO NOTHING
"""


@dataclass(frozen=True, slots=True)
class KeyedRequest:
    """A request under a key: who sent it (as an actor), to which route, and the HMAC-SHA-256 of all that it asks."""

    caller: str
    route: str
    key: str
    sha256: bytes


@dataclass(frozen=True, slots=True)
class Answer:
    """What a request is answered with, to the byte."""

    status: int
    headers: Mapping[str, str]
    body: bytes


def kept_answer(connection: Connection, request: KeyedRequest) -> Answer | None:
    """The answer that was kept for this request, for at least 24 hours; None when there is none.

    Raises InvalidInput (`idempotency_key_reused`) when the caller used the key for another request of the route.
    """
    row = connection.execute(
        "SELECT request_sha256, status, headers, body FROM kept_answers WHERE (caller, route, key) = (%s, %s, %s)",
        (request.caller, request.route, request.key),
    ).fetchone()
    if row is None:
        return None
    sha256, status, headers, body = row
    if bytes(sha256) != request.sha256:
        raise key_reused()
    return Answer(status, headers, bytes(body))


def keep(request: KeyedRequest, answer: Callable[[tuple[Entry, ...]], Answer]) -> Statement:
    """The statement that keeps the answer made of the stored entries; it raises Conflict where one is kept already."""

    def parameters(entries: tuple[Entry, ...]) -> Parameters:
        made = answer(entries)
        return row(
            {
                "caller": request.caller,
                "route": request.route,
                "key": request.key,
                "request_sha256": request.sha256,
                "status": made.status,
                "headers": dict(made.headers),
                "body": made.body,
            }
        )

    return Statement(_KEEP, parameters, rows=1, as_rows=True)


def key_reused() -> InvalidInput:
    """The error for a key that belongs to another request."""
    return InvalidInput(
        "idempotency_key_reused",
        "This Idempotency-Key was used for another request.",
        field="Idempotency-Key",
        hint="Send a request again exactly as it was, or give it a new key.",
    )
