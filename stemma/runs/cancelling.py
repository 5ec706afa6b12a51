"""Ending a run that is for no job; one that is for a job ends with it (`stemma.jobs.lifecycle.cancel`)."""

from __future__ import annotations

from stemma.access.principal import Principal
from stemma.errors import Conflict
from stemma.ledger.change import Change
from stemma.ledger.journal import audited
from stemma.runs.model import Run
from stemma.runs.story import subject


def cancel(principal: Principal, run: Run) -> Change[Run]:
    """Say who asked for a run to be ended; `stemma.jobs.launching.terminate` asks Dagster once that is written.

    Raises Forbidden without `jobs:write`, Conflict with code `run_finished` or `run_of_job`.
    """
    principal.require("jobs:write")
    if run.state.is_final:
        raise Conflict("run_finished", f"Run {run.id} is {run.state} already.", field="id")
    if run.job_id is not None:
        hint = f"Cancel the job {run.job_id}; its run ends with it."
        raise Conflict("run_of_job", f"Run {run.id} is for a job.", field="id", hint=hint)
    facts = {"job": run.job_name, "state": run.state.value}
    entries = audited(principal, "run.cancel_requested", resource=subject(run.id), meta=facts, critical=True)
    return Change(entries, (), lambda _: run)
