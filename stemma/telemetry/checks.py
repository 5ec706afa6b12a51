"""What an API process leans on, looked at one by one: the database, the index, the code location, the ledger's signer.

`/readyz` answers with it, and `recorder` writes it down.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import psycopg

from stemma.errors import StemmaError, Unavailable
from stemma.knowledge import generations
from stemma.ledger.signer import SignerStatus
from stemma.store.database import Database
from stemma.store.settings import Settings

CheckStatus = Literal["ok", "failed", "not_running"]

_PROBE_SECONDS = 0.5


@dataclass(frozen=True, slots=True)
class Check:
    """How one thing stands; without a `required` one the process cannot do its duty."""

    status: CheckStatus
    required: bool
    detail: str


def check_all(settings: Settings, database: Database, signer: SignerStatus) -> dict[str, Check]:
    """Every check by name; raises nothing, and takes some seconds at most."""
    checks = {
        "database": _required(lambda: _check_database(database)),
        "code_location": _check_code_location(settings),
        "ledger_heads": _check_signer(signer),
    }
    if checks["database"].status == "ok":
        checks["search_index"] = _required(lambda: _check_index(database, settings))
    else:
        checks["search_index"] = Check("failed", required=True, detail="Not known without the database.")
    return checks


def _required(look: Callable[[], str]) -> Check:
    try:
        return Check("ok", required=True, detail=look())
    except StemmaError as error:
        return Check("failed", required=True, detail=str(error))


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
            return Check("ok", required=False, detail=f"A code server listens on port {port}.")
    except OSError:
        return Check("not_running", required=False, detail=f"No code server listens on port {port}.")


def _check_signer(signer: SignerStatus) -> Check:
    if signer.alert is not None:
        detail = f"Entries are appended but not signed ({signer.alert_code}): {signer.alert}"
        return Check("failed", required=False, detail=detail)
    detail = "This process signs the ledger's heads." if signer.leading else "Another process signs the ledger's heads."
    return Check("ok", required=False, detail=detail)
