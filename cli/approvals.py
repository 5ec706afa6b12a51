"""`stemma approvals`: what waits for a decision, and deciding it."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Annotated
from uuid import UUID

import typer
from rich.text import Text

from cli.output import Json, moment, out, plain, print_json, print_table, printable, say
from cli.session import open_studio
from stemma.access.permissions import Role
from stemma.access.principal import local_principal
from stemma.approvals import catalog, decisions, expiry, requests
from stemma.approvals.model import Approval, Risk, State, Verdict
from stemma.errors import InvalidInput, NotFound, PreconditionRequired
from stemma.ledger.change import Change
from stemma.ledger.service import Ledger
from stemma.store.database import Connection, Database

app = typer.Typer(help="What waits for somebody's decision.", no_args_is_help=True)

Id = Annotated[UUID, typer.Argument(metavar="ID", help="The approval.")]
Etag = Annotated[str | None, typer.Option(help="The ETag that `show` printed; without it, it is shown and confirmed.")]
Yes = Annotated[bool, typer.Option("--yes", help="Do not ask; needs --etag.")]
Prepare = Callable[[Connection, frozenset[str]], Change[Approval]]

_INTERRUPTED = 130
_INDENT = 10
_STYLES = {
    State.PENDING: "bold yellow",
    State.APPROVED: "bold green",
    Risk.LOW: "green",
    Risk.MEDIUM: "yellow",
    Risk.HIGH: "bold red",
}
_DIFF_STYLES = {"+": "green", "-": "red", "@@": "cyan"}
# Characters that make text read in another order than it is stored (CVE-2021-42574).
_DIRECTIONS = dict.fromkeys((0x61C, 0x200E, 0x200F, *range(0x202A, 0x202F), *range(0x2066, 0x206A)), "\ufffd")


@app.command("list")
def list_approvals(
    state: Annotated[State | None, typer.Option(help="Only those in this state.")] = None,
    kind: Annotated[str | None, typer.Option(help="Only this kind.")] = None,
    subject: Annotated[str | None, typer.Option(help="Only this subject.")] = None,
    requested_by: Annotated[str | None, typer.Option(help="Only what this actor asked for.")] = None,
    risk: Annotated[Risk | None, typer.Option(help="Only this risk.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=200, help="How many.")] = 50,
    cursor: Annotated[str | None, typer.Option(help="`next_cursor` of the page before.")] = None,
    as_json: Json = False,
) -> None:
    """List approvals, the newest first."""
    with _studio() as (database, _):
        page = database.read(
            lambda connection: catalog.list_approvals(
                connection,
                state=state,
                kind=kind,
                subject=subject,
                requested_by=requested_by,
                risk=risk,
                cursor=cursor,
                limit=limit,
            )
        )
    if as_json:
        print_json(page)
        return
    rows = [(str(a.id), a.state, a.kind, a.subject, a.risk, a.requested_by, moment(a.expires_at)) for a in page.data]
    columns = ("id", "state", "kind", "subject", "risk", "requested by", "deadline")
    print_table("Approvals", columns, rows, empty="No approvals.")
    if page.next_cursor:
        out.print(Text(f"more: --cursor {page.next_cursor}", style="dim"), soft_wrap=True)


@app.command()
def show(
    approval_id: Id,
    content: Annotated[Path | None, typer.Option(help="Also write the exact bytes to this new file.")] = None,
    as_json: Json = False,
) -> None:
    """Show an approval: what, why, how risky, the diff, the hash of the exact bytes, and the deadline."""
    with _studio() as (database, _):
        approval = database.read(lambda connection: catalog.get_approval(connection, approval_id))
        if content is not None:
            _write(content, database.read(lambda connection: catalog.get_content(connection, approval_id)).data)
    _print(approval, as_json=as_json)


@app.command()
def approve(
    approval_id: Id,
    reason: Annotated[str, typer.Option(help="Why.")] = "",
    etag: Etag = None,
    yes: Yes = False,
    as_json: Json = False,
) -> None:
    """Approve what `show` shows."""
    _decide(approval_id, Verdict.APPROVE, reason, etag=etag, yes=yes, as_json=as_json)


@app.command()
def deny(
    approval_id: Id,
    reason: Annotated[str, typer.Option(help="Why; the requester reads it.")],
    etag: Etag = None,
    yes: Yes = False,
    as_json: Json = False,
) -> None:
    """Deny it; one denial is enough."""
    _decide(approval_id, Verdict.DENY, reason, etag=etag, yes=yes, as_json=as_json)


@app.command()
def withdraw(approval_id: Id, etag: Etag = None, yes: Yes = False, as_json: Json = False) -> None:
    """Take back a request that nobody has decided."""
    principal = local_principal()

    def prepare(connection: Connection, seen: frozenset[str]) -> Change[Approval]:
        return requests.withdraw(connection, principal, approval_id, seen=seen)

    _change(approval_id, "Withdraw", prepare, etag=etag, yes=yes, as_json=as_json)


@app.command()
def request(
    kind: Annotated[str, typer.Argument(help="What is to be done, such as `publish`.")],
    subject: Annotated[str, typer.Argument(help="What it is to be done with.")],
    content: Annotated[Path, typer.Argument(help="The file whose exact bytes are to be approved.")],
    reason: Annotated[str, typer.Option(help="Why it should be approved.")],
    risk: Annotated[Risk, typer.Option(help="How bad it is if that is wrong.")] = Risk.MEDIUM,
    diff: Annotated[Path | None, typer.Option(help="A file with the difference to what is there now.")] = None,
    media_type: Annotated[str, typer.Option(help="Of the content.")] = "application/octet-stream",
    decider: Annotated[list[Role] | None, typer.Option(help="Only this role may decide; may be repeated.")] = None,
    second_person: Annotated[bool, typer.Option("--second-person", help="You may not decide it.")] = False,
    approvals_needed: Annotated[int, typer.Option(min=1, max=2, help="How many have to approve.")] = 1,
    hours: Annotated[
        float, typer.Option(help="How long there is to decide; then it counts as denied.")
    ] = requests.DEFAULT_LIFETIME / timedelta(hours=1),
    as_json: Json = False,
) -> None:
    """Ask for an approval of exactly these bytes."""
    proposal = requests.Proposal(
        kind=kind,
        subject=subject,
        content=_read(content, "CONTENT"),
        reason=reason,
        media_type=media_type,
        diff=_read_text(diff, "--diff") if diff else "",
        risk=risk,
        deciders=tuple(dict.fromkeys(decider or ())),
        second_person=second_person,
        approvals_needed=approvals_needed,
        lifetime=_lifetime(hours),
    )
    with _studio() as (database, ledger):
        change = database.read(lambda connection: requests.request(connection, local_principal(), proposal))
        approval = ledger.commit(change).result()
    _print(approval, as_json=as_json)


@contextmanager
def _studio() -> Iterator[tuple[Database, Ledger]]:
    """The database and the ledger, after what expired has been settled."""
    settings, database = open_studio()
    with database, Ledger(database.urls, settings) as ledger:
        expiry.settle_due(database, ledger)
        yield database, ledger


def _decide(approval_id: UUID, verdict: Verdict, reason: str, *, etag: str | None, yes: bool, as_json: bool) -> None:
    principal = local_principal()

    def prepare(connection: Connection, seen: frozenset[str]) -> Change[Approval]:
        return decisions.decide(connection, principal, approval_id, verdict, reason=reason, seen=seen)

    _change(approval_id, verdict.capitalize(), prepare, etag=etag, yes=yes, as_json=as_json)


def _change(approval_id: UUID, word: str, prepare: Prepare, *, etag: str | None, yes: bool, as_json: bool) -> None:
    asking = sys.stdin.isatty() and not yes and not as_json
    if etag is None and not asking:
        what = "Without a confirmation on a terminal, the command has to name what was seen."
        hint = f"`stemma approvals show {approval_id}` prints it."
        raise PreconditionRequired("etag_required", what, field="--etag", hint=hint)
    with _studio() as (database, ledger):
        if etag is None:
            approval = database.read(lambda connection: catalog.get_approval(connection, approval_id))
            _print(approval, as_json=False)
            etag = approval.etag
        if asking:
            _confirm(f"{word} this?")
        seen = frozenset({etag.strip('"')})
        approval = ledger.commit(database.read(lambda connection: prepare(connection, seen))).result()
    if as_json:
        _print(approval, as_json=True)
    else:
        still = ": somebody else has to approve it, too" if approval.state is State.PENDING else ""
        say(f"{approval.kind} of {approval.subject} is {approval.state}{still}.")


def _confirm(question: str) -> None:
    try:
        confirmed = typer.confirm(question)
    except typer.Abort:
        raise typer.Exit(_INTERRUPTED) from None
    if not confirmed:
        say("Nothing was changed.")
        raise typer.Exit


def _print(approval: Approval, *, as_json: bool) -> None:
    if as_json:
        print_json({**plain(approval), "etag": approval.etag})
        return
    who = ", ".join(sorted(approval.deciders)) or "everybody who may decide"
    besides = ", except who asked" if approval.second_person else ""
    needed = "two different people" if approval.approvals_needed > 1 else "one person"
    facts = [
        ("id", Text(str(approval.id))),
        ("state", Text(approval.state, style=_STYLES.get(approval.state, "bold"))),
        ("risk", Text(approval.risk, style=_STYLES[approval.risk])),
        ("reason", _legible(approval.reason)),
        ("asked by", Text(f"{approval.requested_by}, {moment(approval.requested_at)}")),
        ("deciders", Text(f"{needed} of: {who}{besides}")),
        ("deadline", Text(moment(approval.expires_at))),
        ("content", Text(f"{approval.size:,} bytes of {approval.media_type}")),
        ("sha256", Text(approval.content_sha256)),
        ("etag", Text(approval.etag)),
    ]
    for given in approval.decisions:
        why = f": {given.reason}" if given.reason else ""
        facts.append((given.verdict, _legible(f"{given.decided_by}, {moment(given.decided_at)}{why}")))
    if approval.consumed_by:
        facts.append(("used by", Text(f"{approval.consumed_by}, {moment(approval.consumed_at)}")))
    out.print(Text(printable(f"{approval.kind} of {approval.subject}"), style="bold"), soft_wrap=True)
    for name, value in facts:
        out.print(Text(f"  {name:<{_INDENT}}", style="dim") + value, soft_wrap=True)
    for line in printable(approval.diff).translate(_DIRECTIONS).splitlines():
        out.print(Text("  │ ", style="dim") + Text(line, style=_diff_style(line)), soft_wrap=True)


def _legible(text: str) -> Text:
    """What a requester wrote, so that no line of it can pass for one of ours."""
    return Text(printable(text).translate(_DIRECTIONS).replace("\n", "\n" + " " * (_INDENT + 2)))


def _diff_style(line: str) -> str:
    return next((style for sign, style in _DIFF_STYLES.items() if line.startswith(sign)), "")


def _read(path: Path, field: str) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError as error:
        raise NotFound("path_missing", f"There is no file {path}.", field=field) from error
    except OSError as error:
        raise InvalidInput("path_unreadable", f"{path} cannot be read: {error.strerror}.", field=field) from error


def _read_text(path: Path, field: str) -> str:
    try:
        return _read(path, field).decode()
    except UnicodeDecodeError as error:
        raise InvalidInput("text_invalid", f"{path} is not UTF-8 text.", field=field) from error


def _write(path: Path, data: bytes) -> None:
    try:
        with path.open("xb") as file:
            file.write(data)
    except OSError as error:
        what = f"{path} cannot be written: {error.strerror}."
        raise InvalidInput("path_unwritable", what, field="--content", hint="Name a file that is not there.") from error


def _lifetime(hours: float) -> timedelta:
    try:
        return timedelta(hours=hours)
    except (OverflowError, ValueError) as error:
        raise InvalidInput("lifetime_invalid", f"{hours} hours is no length of time.", field="--hours") from error
