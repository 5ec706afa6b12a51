"""The ledger: its chains beside the newest signed head, verifying it now, a chain's entries, one of them with its
proof.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Annotated, Final

from fastapi import APIRouter, Form, Path, Request, Response
from starlette.concurrency import run_in_threadpool

from api.access import allow
from api.console.rendering import render
from api.deps import DatabaseDep, LedgerDep, PageDep, SettingsDep
from api.limits import InFlight, TooManyRequests, limited
from stemma.access.principal import Principal
from stemma.errors import Conflict, NotFound, StemmaError
from stemma.ledger.entries import Entry
from stemma.ledger.feed import Filter, list_entries, tail
from stemma.ledger.heads import SignedHead
from stemma.ledger.journal import AUDIT
from stemma.ledger.proofs import InclusionProof, prove_inclusion, steps
from stemma.ledger.service import Ledger
from stemma.ledger.standing import ChainStanding, Standing, newest_head, read_entry_at, read_standing
from stemma.ledger.verification import verify
from stemma.store.database import Connection
from stemma.store.settings import Settings

router = APIRouter(prefix="/ledger", route_class=limited("console"), include_in_schema=False)

# Longer than this, a person does not wait in front of a page; about two million entries on one core.
_VERIFY_SECONDS: Final = 60.0
_LATE: Final = timedelta(seconds=30)
_LONGEST_BODY: Final = 32 * 1024

ReaderDep = Annotated[Principal, allow("ledger:read")]
ChainPath = Annotated[str, Path(max_length=127)]


@dataclass(frozen=True, slots=True)
class Signer:
    """How signing goes, as a state and in words."""

    state: str
    words: str


@dataclass(frozen=True, slots=True)
class ChainRow:
    """One chain as listed, with its newest entry."""

    standing: ChainStanding
    newest: Entry
    readable: bool


@router.get("")
def show(
    request: Request, principal: ReaderDep, database: DatabaseDep, settings: SettingsDep, ledger: LedgerDep
) -> Response:
    """Every chain and what the newest head says of it; a head that cannot be believed is said so."""
    head, distrust = _head(settings)
    with database.snapshot() as connection:
        standing = read_standing(connection, head)
        rows = [_row(connection, principal, chain) for chain in standing.chains]
    return render(
        request,
        "pages/ledger.html",
        rows=rows,
        standing=standing,
        head=head,
        distrust=distrust,
        signer=_signer(ledger, standing),
        may_verify=principal.may("ledger:verify"),
    )


@router.post("/verify")
async def verify_now(
    request: Request,
    principal: Annotated[Principal, allow("ledger:verify")],
    database: DatabaseDep,
    settings: SettingsDep,
    chain: Annotated[str, Form(max_length=127)] = "",
) -> Response:
    """Reads the whole ledger, or one chain, and names what does not fit; one at a time, and for a minute at most."""
    in_flight: InFlight = request.app.state.in_flight
    try:
        with in_flight.slot(1, "verification"):
            report = await run_in_threadpool(
                lambda: verify(database, settings, chain=chain or None, within=_VERIFY_SECONDS)
            )
    except TooManyRequests as error:
        hint = "Wait until it has ended, then try again."
        raise Conflict("verification_running", "Somebody is verifying the ledger right now.", hint=hint) from error
    if chain and not report.chains and report.clean:
        raise _no_chain(chain)
    return await run_in_threadpool(
        render, request, "pages/ledger_verified.html", store=False, report=report, chain=chain
    )


@router.get("/{chain}")
def show_chain(
    request: Request,
    principal: ReaderDep,
    database: DatabaseDep,
    settings: SettingsDep,
    chain: ChainPath,
    page: PageDep,
) -> Response:
    """A page of a chain's entries, the newest first. The chain `audit` takes `admin:audit`."""
    _require_readable(principal, chain)
    head, distrust = _head(settings)
    with database.snapshot() as connection:
        entries = tail(connection, chain)
        if not entries:
            raise _no_chain(chain)
        found = list_entries(connection, chain, Filter(), cursor=page.cursor, limit=page.limit)
    tree = head.head.of(chain) if head else None
    return render(
        request,
        "pages/ledger_chain.html",
        chain=chain,
        entries=entries,
        found=found,
        signed=tree.size if tree else 0,
        distrust=distrust,
        may_verify=principal.may("ledger:verify"),
    )


@router.get("/{chain}/{seq}")
def show_entry(
    request: Request,
    principal: ReaderDep,
    database: DatabaseDep,
    settings: SettingsDep,
    chain: ChainPath,
    seq: Annotated[int, Path(ge=1, lt=2**63)],
) -> Response:
    """An entry with its hashes and the path from its hash to the root that the newest head signs."""
    _require_readable(principal, chain)
    head, unproved = _head(settings)
    proof: InclusionProof | None = None
    with database.snapshot() as connection:
        entry = read_entry_at(connection, chain, seq)
        last = tail(connection, chain)
        if unproved is None:
            try:
                proof = prove_inclusion(connection, head, chain, seq)
            except StemmaError as error:
                unproved = error
    text = json.dumps(json.loads(entry.body), indent=2, ensure_ascii=False)
    return render(
        request,
        "pages/ledger_entry.html",
        entry=entry,
        last=last,
        text=text[:_LONGEST_BODY],
        cut=len(text) > _LONGEST_BODY,
        proof=proof,
        tree=proof.head.head.of(chain) if proof else None,
        steps=steps(proof) if proof else (),
        unproved=unproved,
    )


def _head(settings: Settings) -> tuple[SignedHead | None, StemmaError | None]:
    """The newest head, or why there is none that can be believed."""
    try:
        return newest_head(settings), None
    except StemmaError as error:
        return None, error


def _row(connection: Connection, principal: Principal, chain: ChainStanding) -> ChainRow:
    newest = list_entries(connection, chain.chain, Filter(), limit=1).data[0]
    return ChainRow(chain, newest, chain.chain != AUDIT or principal.may("admin:audit"))


def _signer(ledger: Ledger, standing: Standing) -> Signer:
    status = ledger.status()
    if status.alert is not None:
        return Signer("failed", f"Entries are appended but not signed ({status.alert_code}): {status.alert}")
    if standing.waiting_since is not None and datetime.now(UTC) - standing.waiting_since > _LATE:
        return Signer("stale", "Entries wait for a head longer than they should. `stemma doctor` says what is wrong.")
    return Signer("ok", "This process signs." if status.leading else "Another process of the studio signs.")


def _require_readable(principal: Principal, chain: str) -> None:
    if chain == AUDIT:
        principal.require("admin:audit")


def _no_chain(chain: str) -> NotFound:
    return NotFound("chain_not_found", f"The ledger has no chain {chain}.", field="chain", hint="Go to the Ledger.")
