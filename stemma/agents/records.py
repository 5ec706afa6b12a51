"""What is written of a call when it begins and when it ends: its row and its job. The scribe writes what is between."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any, Final
from uuid import UUID

from psycopg.types.json import Jsonb

from stemma.access.principal import Principal
from stemma.agents.history import find_call
from stemma.agents.model import Answer, Call
from stemma.agents.stream import cleaned, storable
from stemma.jobs import catalog, lifecycle, submission
from stemma.jobs.lifecycle import Failure
from stemma.jobs.model import Job
from stemma.knowledge.models import Hit
from stemma.ledger.change import Change
from stemma.ledger.writer import Statement
from stemma.registry.model import Published
from stemma.store.database import Connection

KIND: Final = "agent:call"

_QUOTED: Final = 600
_INSERT: Final = """
    INSERT INTO agent_calls (job_id, agent, actor, request_id, prompt, memory, asked, context)
    VALUES (%(job_id)s, %(agent)s, %(actor)s, %(request_id)s, %(prompt)s, %(memory)s, %(asked)s, %(context)s)
"""
_ANSWERED: Final = """
    UPDATE agent_calls SET answered = %(text)s, provider = %(provider)s, model = %(model)s, tokens_in = %(tokens_in)s,
        tokens_out = %(tokens_out)s, cost_est = %(cost)s, citations = %(citations)s
    WHERE job_id = %(job_id)s
"""
_BROKEN_OFF: Final = "UPDATE agent_calls SET answered = %s WHERE job_id = %s"


def begin(connection: Connection, call: Call, prompt: Published, holder: str) -> Change[Job]:
    """A call's job, running and held by `holder`, and its row. Raises what `submission.begin` does."""
    change = submission.begin(connection, call.principal, KIND, {"agent": call.agent.name}, holder)
    job = change.result(())
    row = {
        "job_id": job.id,
        "agent": call.agent.name,
        "actor": call.principal.actor,
        "request_id": call.request_id,
        "prompt": prompt.reference,
        "memory": call.memory,
        "asked": storable(call.asked),
        "context": Jsonb(cleaned(call.context)) if call.context else None,
    }
    return replace(change, companions=(*change.companions, Statement(_INSERT, row, rows=1)))


def finish(connection: Connection, job_id: UUID, holder: str, answer: Answer) -> Change[Job]:
    """The call was answered."""
    row = {
        "job_id": job_id,
        "text": answer.text,
        "provider": answer.provider,
        "model": answer.model,
        "tokens_in": answer.usage.tokens_in,
        "tokens_out": answer.usage.tokens_out,
        "cost": answer.cost,
        "citations": Jsonb([cited(hit) for hit in answer.citations]),
    }
    change = lifecycle.finish(connection, job_id, holder)
    return replace(change, companions=(*change.companions, Statement(_ANSWERED, row, rows=1)))


def fail(connection: Connection, job_id: UUID, holder: str, failure: Failure, text: str) -> Change[Job]:
    """The call failed after it had answered this much."""
    change = lifecycle.fail(connection, job_id, holder, failure)
    return replace(change, companions=(*change.companions, Statement(_BROKEN_OFF, (text, job_id), rows=1)))


def stop(connection: Connection, job_id: UUID, holder: str, text: str) -> Change[Job]:
    """The call was cancelled after it had answered this much."""
    change = lifecycle.stop(connection, job_id, holder)
    return replace(change, companions=(*change.companions, Statement(_BROKEN_OFF, (text, job_id), rows=1)))


def cancel(connection: Connection, principal: Principal, job_id: UUID) -> Change[Job]:
    """Ask a call to stop: whoever made it, or `agents:operate`.

    Raises NotFound where there is no such call or it is somebody else's; Conflict as `lifecycle.cancel` does.
    """
    find_call(connection, principal, job_id)
    return lifecycle.ask_to_stop(connection, principal, catalog.get_job(connection, job_id))


def cited(hit: Hit) -> dict[str, Any]:
    """A citation as it is told and kept: where it stands, and how it begins."""
    where: Mapping[str, Any] = asdict(hit.citation)
    return dict(cleaned({"chunk_id": hit.chunk_id, **where, "text": hit.text[:_QUOTED]}))
