"""Whether the process lives, and whether it can do its duty."""

from __future__ import annotations

from typing import Final, Literal

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, ConfigDict, Field

from api.deps import DatabaseDep, LedgerDep, SettingsDep
from api.openapi import problems
from api.problems import FieldError, problem_response
from stemma.telemetry.checks import CheckStatus, check_all

PROBES: Final = ("/healthz", "/readyz")

router = APIRouter(tags=["health"])


class Alive(BaseModel):
    """The process answers."""

    status: Literal["alive"] = "alive"


class CheckBody(BaseModel):
    """One thing that the API leans on."""

    model_config = ConfigDict(from_attributes=True)

    status: CheckStatus = Field(examples=["ok"])
    required: bool = Field(description="Whether the API is not ready without it")
    detail: str = Field(examples=["Generation 7 with 12,345 chunks."])


class Readiness(BaseModel):
    """Everything that the API leans on, by name."""

    status: Literal["ready"] = "ready"
    checks: dict[str, CheckBody]


@router.get("/healthz", response_model=Alive, summary="Is the process alive?")
async def healthz() -> Alive:
    """Answers as long as the process runs, whatever else is down."""
    return Alive()


@router.get("/readyz", response_model=Readiness, responses=problems(503), summary="Can it do its duty?")
def readyz(request: Request, settings: SettingsDep, database: DatabaseDep, ledger: LedgerDep) -> Readiness | Response:
    """Ready means that search can be answered: the database and an active search index are there.

    The code location (Dagster's code server) and the ledger's signer are reported but not required: search and
    uploads work without them, what is uploaded meanwhile is read, and what is recorded is signed, when they are
    back. A 503 carries the same `checks` beside the problem.
    """
    found = check_all(settings, database, ledger.status())
    checks = {name: CheckBody.model_validate(check) for name, check in found.items()}
    failed = [name for name, check in checks.items() if check.required and check.status != "ok"]
    if not failed:
        return Readiness(checks=checks)
    return problem_response(
        request.scope,
        status=503,
        code="not_ready",
        title="Unavailable",
        detail=f"Not ready: {', '.join(failed)}.",
        errors=[FieldError(field=name, message=checks[name].detail) for name in failed],
        hint="Run `stemma doctor` to see what is wrong.",
        extensions={"checks": {name: check.model_dump() for name, check in checks.items()}},
    )
