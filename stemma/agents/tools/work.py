"""Having an asset materialized, which waits for an approval, by the kind of job that makes it."""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import Any, Final

from pydantic import Field

from stemma.agents.tools.model import Arguments, Found, Tool, Use
from stemma.agents.tools.waiting import Wanted, once_approved
from stemma.errors import Forbidden, InvalidInput
from stemma.jobs import kinds
from stemma.jobs.model import Job
from stemma.jobs.submission import JobRequest, submit

MADE_BY: Final = {
    "knowledge/documents": "convert",
    "knowledge/chunks": "embed",
    "knowledge/embeddings": "embed",
    "knowledge/search_index": "search-index",
    "maps/features": "map:build",
    "maps/tiles": "map:build",
    "governance/entity_features": "governance:aggregate",
    "governance/decision_embeddings": "governance:aggregate",
    "governance/knowledge_snapshots": "governance:distil",
    "governance/scorecards": "governance:distil",
    "governance/drift": "governance:distil",
    "agents/semantic_memory": "agents:distil",
}
"""The kind of job that makes each asset, beside others of the same kind."""


class WhichAsset(Arguments):
    """An asset, or one partition of it."""

    asset: str = Field(max_length=200, description=f"One of {', '.join(MADE_BY)}")
    partition: str | None = Field(
        default=None,
        max_length=200,
        description="A source of knowledge/…, a layer of maps/…, a day of governance/… and agents/…",
    )


def _materialize(use: Use, wanted: WhichAsset) -> Found:
    if not any(fnmatchcase(wanted.asset, pattern) for pattern in use.grant.assets):
        hint = f"Allowed are {', '.join(use.grant.assets) or 'none'}."
        raise Forbidden("asset_refused", f"The asset {wanted.asset} is not allowed.", field="asset", hint=hint)
    if wanted.asset not in MADE_BY:
        hint = f"Those that are: {', '.join(MADE_BY)}."
        raise InvalidInput("asset_not_made_by_jobs", f"No job makes {wanted.asset}.", field="asset", hint=hint)
    job = _request(wanted)
    change = use.studio.database.read(lambda connection: submit(connection, use.context.principal, job))
    what = wanted.asset if wanted.partition is None else f"{wanted.asset}[{wanted.partition}]"
    done = once_approved(Wanted(use, MATERIALIZE.name, wanted.model_dump(mode="json"), what), change)
    return done if isinstance(done, Found) else _submitted(done)


def _request(wanted: WhichAsset) -> JobRequest:
    kind = kinds.find(MADE_BY[wanted.asset])
    given: dict[str, Any] = {}
    if wanted.partition is not None:
        if kind.partition is None:
            raise InvalidInput("partition_not_taken", f"{wanted.asset} has no partitions.", field="partition")
        given[kind.partition] = wanted.partition
    return JobRequest(kind.name, given)


def _submitted(job: Job) -> Found:
    content = {"done": True, "job": str(job.id), "kind": job.kind, "state": job.state.value}
    return Found(content, facts={"job": str(job.id), "kind": job.kind})


MATERIALIZE: Final = Tool(
    "materialize_asset",
    "Has an asset materialized by a job. A person approves that first; then use the tool again.",
    WhichAsset,
    ("jobs:write", "approvals:request"),
    _materialize,
    leaves_trace=True,
)
