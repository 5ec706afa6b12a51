"""`stemma verify`: what the ledger's bytes, links and signed heads say together."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cli.output import Json, moment, print_json, print_table, say
from stemma.errors import CheckFailed
from stemma.store.settings import load_settings

if TYPE_CHECKING:
    from resources.event_log import Unreceipted
    from stemma.ledger.verification import Finding, Report


def add_commands(app: typer.Typer) -> None:
    """Register the commands of this module."""
    app.command()(verify)


def verify(
    chain: Annotated[str | None, typer.Option(help="Only this chain.")] = None,
    head: Annotated[Path | None, typer.Option(help="A head that you kept; the ledger has to continue it.")] = None,
    deep: Annotated[bool, typer.Option("--deep", help="Also make every canonical form anew.")] = False,
    as_json: Json = False,
) -> None:
    """Verify the ledger and name what was tampered with or has no receipt; ends with 6 when there is something."""
    from resources import event_log
    from stemma.governance.events import verification as events
    from stemma.governance.events.recording import CHAIN as EVENTS
    from stemma.ledger.receipts import CHAIN
    from stemma.ledger.verification import verify as verify_ledger
    from stemma.store import migrations
    from stemma.store.database import Database

    settings = load_settings()
    with Database.open(settings) as database:
        migrations.upgrade(database.urls.owner)
        report = verify_ledger(database, settings, chain=chain, head_file=head, deep=deep)
        missing = event_log.without_receipt(database) if chain in (None, CHAIN) else []
        changed = database.read(lambda c: list(events.check(c))) if chain in (None, EVENTS) else []
    report = _with(_with_missing(report, missing), changed)
    if as_json:
        print_json(report)
    else:
        _show(report)
    if not report.clean and as_json:
        raise typer.Exit(CheckFailed.exit_code)
    if not report.clean:
        count = len(report.findings) + report.omitted
        raise CheckFailed("ledger_tampered", _verdict(report, count))


def _verdict(report: Report, count: int) -> str:
    if all(finding.code == "receipt_missing" for finding in report.findings):
        return f"The ledger is whole, but materializations have no receipt: {count:,}."
    return f"The ledger is not what was appended and signed: findings: {count:,}."


def _with_missing(report: Report, missing: Sequence[Unreceipted]) -> Report:
    """The report with the materializations that nobody wrote a receipt of."""
    from stemma.ledger.receipts import CHAIN
    from stemma.ledger.verification import Finding

    return _with(report, [Finding("receipt_missing", f"{item}.", CHAIN) for item in missing])


def _with(report: Report, found: Sequence[Finding]) -> Report:
    """The report with what others found."""
    from stemma.ledger.verification import MAX_FINDINGS

    named = tuple(found[: MAX_FINDINGS - len(report.findings)])
    return dataclasses.replace(
        report,
        clean=report.clean and not found,
        findings=report.findings + named,
        omitted=report.omitted + len(found) - len(named),
    )


def _show(report: Report) -> None:
    rows = [(c.chain, c.entries, c.signed) for c in report.chains]
    print_table("Chains", ("chain", "entries", "under a head"), rows, empty="The ledger is empty.")
    for finding in report.findings:
        say(f"{finding.code}: {finding.message}")
    if report.omitted:
        say(f"… and {report.omitted:,} more.")
    if report.sealed:
        say(f"{report.sealed:,} sealed personal fields, {report.erased:,} of them erased.")
    newest = f", the newest of {moment(report.newest_head_at)}" if report.newest_head_at else ""
    verdict = "fits" if report.clean else "does not fit"
    rate = report.entries / report.seconds
    say(f"{report.entries:,} entries and {report.heads:,} heads{newest}: everything {verdict} ({rate:,.0f} entries/s).")
