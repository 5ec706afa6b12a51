"""Every transition of a run.

    pending ─ begin ─→ running ─┬─ finish ─→ succeeded | failed | cancelled
       └─ cancel ─→ cancelled   └─ lose, when its worker died ─→ failed

Each is a change with a guard: of several processes that saw the same state, one gets through and the others conflict.
The last event of a run commits with the transition that ends it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final
from uuid import UUID, uuid4

from psycopg.types.json import Jsonb

from stemma.access.principal import Principal
from stemma.errors import Conflict
from stemma.jobs import lifecycle as jobs
from stemma.jobs.catalog import find_job
from stemma.jobs.model import Job
from stemma.jobs.submission import JobRequest, submit
from stemma.ledger.change import Change
from stemma.ledger.entries import NewEntry
from stemma.ledger.journal import audited, transition
from stemma.ledger.writer import Statement
from stemma.papers.catalog import get_plan
from stemma.papers.plan import parse_plan
from stemma.papers.planning import require_packages
from stemma.papers.runs import slots
from stemma.papers.runs.catalog import get_run, runs_in
from stemma.papers.runs.model import CHANNEL, LAST_STAGES, Measured, Run, RunStatus
from stemma.redaction import redact
from stemma.store.database import Connection, database_time

JOB_KIND: Final = "paper:run"
_REASON: Final = 1000
_INSERT: Final = """
    INSERT INTO p2n.runs (id, plan_id, paper_id, alternative, status, job_id, actor, created_at)
    VALUES (%(id)s, %(plan_id)s, %(paper_id)s, %(alternative)s, %(status)s, %(job_id)s, %(actor)s, %(created_at)s)
"""
_UPDATE: Final = """
    UPDATE p2n.runs SET status = %(status)s, env_hash = %(env_hash)s, sandbox = %(sandbox)s,
        dagster_run_id = %(dagster_run_id)s, output_sha256 = %(output_sha256)s, deterministic = %(deterministic)s,
        metrics = %(metrics)s, error_code = %(error_code)s, error_message = %(error_message)s,
        cancel_requested_at = %(cancel_requested_at)s, started_at = %(started_at)s, completed_at = %(completed_at)s
    WHERE id = %(id)s AND status = %(seen_status)s
        AND cancel_requested_at IS NOT DISTINCT FROM %(seen_cancel)s::timestamptz
"""
_TELL: Final = f"""
    WITH told AS (
        INSERT INTO p2n.run_events (id, run_id, seq, type, ts, payload)
        SELECT gen_random_uuid(), %(id)s, coalesce(max(seq), 0) + 1, 'stage_update', clock_timestamp(), %(payload)s
        FROM p2n.run_events WHERE run_id = %(id)s
    ) SELECT pg_notify('{CHANNEL}', %(id)s::text)
"""


@dataclass(frozen=True, slots=True)
class Ended:
    """How the work on a run ended; a failure has a code such as E_RUN_TIMEOUT and a message."""

    status: RunStatus
    error_code: str | None = None
    error_message: str | None = None
    metrics: tuple[Measured, ...] = ()
    output_sha256: str | None = None
    deterministic: bool | None = None


DEAD: Final = Ended(RunStatus.FAILED, "E_WORKER_LOST", "The process that worked on it died.")


def request(
    connection: Connection, principal: Principal, plan_id: UUID, *, alternative: str | None = None
) -> Change[tuple[Run, Job]]:
    """Ask for a run of a plan, or of one of its alternatives by name, and for the job that carries it out.

    Raises NotFound, Forbidden; InvalidInput for an alternative that the plan does not name, and for data or packages
    that are not here (`dataset_missing`, `package_missing`).
    """
    created = create(connection, principal, plan_id, alternative=alternative)
    run = created.result(())
    queued = submit(connection, principal, JobRequest(JOB_KIND, {"paper": str(run.paper_id), "run": str(run.id)}))
    job = queued.result(())
    written = replace(run, job_id=job.id)
    companions = (_inserted(written), *created.companions[1:])
    change = Change(created.entries, companions, lambda _: (written, job))
    return change.joined(queued)


def create(
    connection: Connection, principal: Principal, plan_id: UUID, *, alternative: str | None = None
) -> Change[Run]:
    """Ask for a run that whoever asks carries out; raises as `request` does."""
    principal.require("papers:run")
    plan = get_plan(connection, plan_id)
    document = parse_plan(plan.document)
    # Raises for an alternative that it does not name.
    document.measured_by(alternative)
    require_packages(document)
    run = Run(
        id=uuid4(),
        plan_id=plan_id,
        paper_id=plan.paper_id,
        alternative=alternative,
        status=RunStatus.PENDING,
        env_hash=None,
        sandbox=None,
        job_id=None,
        dagster_run_id=None,
        output_sha256=None,
        deterministic=None,
        metrics=None,
        error_code=None,
        error_message=None,
        actor=principal.actor,
        cancel_requested_at=None,
        created_at=database_time(connection),
        started_at=None,
        completed_at=None,
    )
    facts = {"plan": str(plan_id), "paper": str(plan.paper_id), "alternative": alternative}
    entries = audited(principal, "paper_run.requested", resource=subject(run), meta=facts, critical=True)
    return Change(entries, (_inserted(run),), lambda _: run)


def begin(
    connection: Connection, run_id: UUID, *, sandbox: str, env_hash: str, dagster_run_id: str | None
) -> Change[Run]:
    """Start the work; raises NotFound, Conflict (`paper_run_not_pending`)."""
    run = get_run(connection, run_id)
    if run.status is not RunStatus.PENDING:
        raise Conflict("paper_run_not_pending", f"Run {run.id} is {run.status} already.", field="run_id")
    running = replace(
        run,
        status=RunStatus.RUNNING,
        sandbox=sandbox,
        env_hash=env_hash,
        dagster_run_id=dagster_run_id,
        started_at=database_time(connection),
    )
    facts = {"sandbox": sandbox, "env_hash": env_hash}
    entry = _told(run, "started", facts)
    return _stepped(run, running, {"stage": "run_start", "run_id": str(run.id), **facts}, (entry,))


def finish(connection: Connection, run_id: UUID, ended: Ended) -> Change[Run]:
    """End the work; raises NotFound, Conflict (`paper_run_not_running`)."""
    run = get_run(connection, run_id)
    if run.status is not RunStatus.RUNNING:
        raise Conflict("paper_run_not_running", f"Run {run.id} is {run.status}.", field="run_id")
    return _ended(connection, run, ended)


def abandon(connection: Connection, run_id: UUID, ended: Ended = Ended(RunStatus.CANCELLED)) -> Change[Run]:
    """End a run that never began; raises NotFound, Conflict (`paper_run_not_pending`)."""
    run = get_run(connection, run_id)
    if run.status is not RunStatus.PENDING:
        raise Conflict("paper_run_not_pending", f"Run {run.id} is {run.status} already.", field="run_id")
    return _ended(connection, run, ended)


def cancel(connection: Connection, principal: Principal, run_id: UUID) -> Change[Run]:
    """Cancel a run: at once while it waits, else its worker is told and stops at the end of a cell, or of its grace.

    Raises NotFound; Forbidden; Conflict with code `paper_run_finished`, or `paper_run_cancelled` where that was done.
    """
    principal.require("papers:run")
    run = get_run(connection, run_id)
    if run.status is RunStatus.CANCELLED or (run.cancel_requested_at is not None and not run.status.is_final):
        raise Conflict("paper_run_cancelled", f"Run {run.id} is cancelled, or about to be, already.", field="run_id")
    if run.status.is_final:
        raise Conflict("paper_run_finished", f"Run {run.id} {run.status}: nothing is left to cancel.", field="run_id")
    asked = replace(run, cancel_requested_at=database_time(connection))
    entries = audited(principal, "paper_run.cancel_requested", resource=subject(run), meta={}, critical=True)
    if run.status is RunStatus.PENDING:
        change = _ended(connection, run, Ended(RunStatus.CANCELLED), after=asked)
        change = replace(change, entries=(*entries, *change.entries))
    else:
        change = Change(entries, (_updated(run, asked),), lambda _: asked)
    job = find_job(connection, run.job_id) if run.job_id is not None else None
    if job is not None and not job.state.is_final and job.cancel_requested_at is None:
        return change.joined(jobs.cancel(connection, principal, job.id))
    return change


def lose(connection: Connection, run_id: UUID) -> Change[Run]:
    """End a run whose worker died; raises NotFound, Conflict (`paper_run_not_running`, `paper_run_alive`)."""
    if not slots.is_dead(connection, run_id):
        raise Conflict("paper_run_alive", f"A worker still holds run {run_id}.", field="run_id")
    return finish(connection, run_id, DEAD)


def lost(connection: Connection) -> tuple[UUID, ...]:
    """The runs that count as running and that no worker holds."""
    return tuple(run.id for run in runs_in(connection, RunStatus.RUNNING) if slots.is_dead(connection, run.id))


def forsaken(connection: Connection) -> tuple[UUID, ...]:
    """The runs that wait for a job which has ended without them."""
    waiting = [run for run in runs_in(connection, RunStatus.PENDING) if run.job_id is not None]
    jobs_of = {run.id: find_job(connection, run.job_id) for run in waiting if run.job_id is not None}
    return tuple(run_id for run_id, job in jobs_of.items() if job is None or job.state.is_final)


def last_stage(run: Run, ended: Ended) -> dict[str, Any]:
    """What the last event of a run says."""
    return {
        "stage": LAST_STAGES[ended.status],
        "run_id": str(run.id),
        "status": ended.status.value,
        "code": ended.error_code,
        "reason": _reason(ended),
        "deterministic": ended.deterministic,
    }


def subject(run: Run) -> str:
    """How the ledger names a run."""
    return f"paper_run/{run.id}"


def _ended(connection: Connection, run: Run, ended: Ended, *, after: Run | None = None) -> Change[Run]:
    over = replace(
        after or run,
        status=ended.status,
        metrics=[measured.document() for measured in ended.metrics],
        output_sha256=ended.output_sha256,
        deterministic=ended.deterministic,
        error_code=ended.error_code,
        error_message=_reason(ended),
        completed_at=database_time(connection),
    )
    facts = {"status": over.status.value, "code": over.error_code, "reason": over.error_message}
    entry = _told(run, over.status.value, {**facts, "output": ended.output_sha256})
    return _stepped(run, over, last_stage(run, ended), (entry,))


def _reason(ended: Ended) -> str | None:
    """Why it failed as it may be kept for ever; what a notebook raises may hold anything."""
    if ended.error_message is None:
        return None
    return redact(ended.error_message.encode(errors="replace").decode().replace("\0", "\ufffd")).text[:_REASON]


def _stepped(before: Run, after: Run, stage: Mapping[str, Any], entries: tuple[NewEntry, ...]) -> Change[Run]:
    told = Statement(_TELL, {"id": before.id, "payload": Jsonb(stage)})
    return Change(entries, (_updated(before, after), told), lambda _: after)


def _inserted(run: Run) -> Statement:
    return Statement(_INSERT, _row(run), rows=1)


def _updated(before: Run, after: Run) -> Statement:
    written = {**_row(after), "seen_status": before.status.value, "seen_cancel": before.cancel_requested_at}
    refusal = Conflict("paper_run_changed", f"Run {before.id} is no longer {before.status}.", field="run_id")
    return Statement(_UPDATE, written, rows=1, refusal=refusal)


def _row(run: Run) -> dict[str, Any]:
    values = {name: getattr(run, name) for name in Run.__slots__}
    return {**values, "status": run.status.value, "metrics": None if run.metrics is None else Jsonb(run.metrics)}


def _told(run: Run, event: str, data: Mapping[str, Any]) -> NewEntry:
    facts = {"paper": str(run.paper_id), "plan": str(run.plan_id), **data}
    return transition(f"paper_run.{event}", subject=subject(run), actor=run.actor, data=facts)
