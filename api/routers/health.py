"""Whether the process lives, and whether it can do its duty."""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Literal

import psycopg
from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, Field

from api.deps import DatabaseDep, LedgerDep, SettingsDep
from api.openapi import problems
from api.problems import FieldError, problem_response
from stemma.errors import StemmaError, Unavailable
from stemma.knowledge import generations
from stemma.ledger.service import Ledger
from stemma.ledger.signer import SignerStatus
from stemma.store.database import Database
from stemma.store.settings import Settings

router = APIRouter(tags=["health"])

_PROBE_SECONDS = 0.5


class Alive(BaseModel):
    """The process answers."""

    status: Literal["alive"] = "alive"


class Check(BaseModel):
    """One thing that the API leans on."""

    status: Literal["ok", "failed", "not_running"] = Field(examples=["ok"])
    required: bool = Field(description="Whether the API is not ready without it")
    detail: str = Field(examples=["Generation 7 with 12,345 chunks."])


class Readiness(BaseModel):
    """Everything that the API leans on, by name."""

    status: Literal["ready"] = "ready"
    checks: dict[str, Check]


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
    checks = run_checks(settings, database, ledger)
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


def run_checks(settings: Settings, database: Database, ledger: Ledger) -> dict[str, Check]:
    """Look at everything that the API leans on now."""
    checks = {
        "database": _required(lambda: _check_database(database)),
        "code_location": _check_code_location(settings),
        "ledger_heads": _check_signer(ledger.status()),
    }
    if checks["database"].status == "ok":
        checks["search_index"] = _required(lambda: _check_index(database, settings))
    else:
        checks["search_index"] = Check(status="failed", required=True, detail="Not known without the database.")
    return checks


def _required(look: Callable[[], str]) -> Check:
    try:
        return Check(status="ok", required=True, detail=look())
    except StemmaError as error:
        return Check(status="failed", required=True, detail=str(error))


def _check_database(database: Database) -> str:
    database.ping()
    return "The database answers."


def _check_index(database: Database, settings: Settings) -> str:
    try:
        with database.snapshot() as connection:
            active = generations.active(connection)
    except psycopg.Error as error:
        raise Unavailable(
            "index_unreadable",
            f"The index cannot be read: {' '.join(str(error).split())}.",
            hint="Run `stemma db migrate`.",
        ) from error
    if active is None:
        raise Unavailable("index_missing", "Nothing has been indexed yet.", hint="Run `stemma materialize '*'`.")
    if not (generations.lexical_root(settings) / active.lexical_dir).is_dir():
        raise Unavailable("index_files_missing", f"The files of generation {active.id} are missing.")
    return f"Generation {active.id} with {active.chunks:,} chunks."


def _check_code_location(settings: Settings) -> Check:
    port = settings.code_server_port
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=_PROBE_SECONDS):
            return Check(status="ok", required=False, detail=f"A code server listens on port {port}.")
    except OSError:
        return Check(status="not_running", required=False, detail=f"No code server listens on port {port}.")


def _check_signer(signer: SignerStatus) -> Check:
    if signer.alert is not None:
        detail = f"Entries are appended but not signed ({signer.alert_code}): {signer.alert}"
        return Check(status="failed", required=False, detail=detail)
    detail = "This process signs the ledger's heads." if signer.leading else "Another process signs the ledger's heads."
    return Check(status="ok", required=False, detail=detail)
