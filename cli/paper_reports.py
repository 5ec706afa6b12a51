"""`stemma papers report`, `leaderboard` and `story`: what became of papers."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated
from uuid import UUID, uuid4

import typer

from cli.output import Json, err, moment, print_json, print_table, say
from cli.session import commit, open_studio
from stemma.access.principal import local_principal

if TYPE_CHECKING:
    from stemma.papers.kid.asking import Telling
    from stemma.papers.reports.catalog import KeptReport
    from stemma.papers.reports.leaderboard import Standing
    from stemma.papers.reports.model import Finding
    from stemma.store.database import Database
    from stemma.store.settings import Settings

PaperId = Annotated[UUID, typer.Argument(metavar="PAPER", help="The paper's id.")]


def add_commands(app: typer.Typer) -> None:
    """Register the commands of this module."""
    app.command()(report)
    app.command()(leaderboard)
    app.command()(story)


def report(
    paper: PaperId,
    show: Annotated[bool, typer.Option("--show", help="Show the report that there is, and make none.")] = False,
    as_json: Json = False,
) -> None:
    """Report on a paper: what it claims beside what its latest run observed, and what would close a gap."""
    from stemma.papers.reports import publishing

    settings, database = open_studio()
    with database:
        if not show:
            from cli import execution

            with database.snapshot() as connection:
                publishing.reported_run(connection, paper)
            execution.materialize(settings, database, 'key:"papers/gap_report"+', str(paper))
        kept = database.read(lambda connection: publishing.report_of(connection, paper))
    if as_json:
        print_json(kept)
    else:
        print_report(kept)


def print_report(kept: KeptReport) -> None:
    """A report as tables."""
    found = kept.report
    columns = ("what", "the paper", "we got", "gap %", "verdict")
    print_table(found.title, columns, [_row(one) for one in found.findings], empty="")
    for one in found.findings:
        say(f"{one.label}: {one.reason} (page {one.citation.page})")
    tried = [(one.name, one.status, *_row(part)[2:]) for one in found.attempts for part in one.findings]
    if tried:
        print_table("What would close a gap", ("alternative", "state", *columns[2:]), tried, empty="")
    for gap in found.gaps:
        closing = found.closed_by(gap.metric)
        nothing = "not all that could close the gap was run yet" if found.is_open else "nothing that was run closes it"
        say(f"{gap.label}: {f'{closing} closes the gap' if closing else nothing}.")
    say(f"Run {found.run_id}, sandbox {found.sandbox or 'unknown'}; reported {moment(kept.created_at)}.")


def leaderboard(as_json: Json = False) -> None:
    """Show which papers' claims are reproduced, by the newest report of each."""
    from stemma.papers.reports.leaderboard import read_leaderboard

    _, database = open_studio()
    with database:
        standings = database.read(read_leaderboard)
    if as_json:
        print_json(standings)
        return
    print_leaderboard(standings)


def print_leaderboard(standings: Sequence[Standing]) -> None:
    """The leaderboard as a table."""
    rows = [
        (one.place, one.title, f"{one.reproduced} of {one.targets}", one.closed, _percent(one.widest_gap_percent))
        for one in standings
    ]
    columns = ("place", "paper", "claims reproduced", "closed by an alternative", "widest gap %")
    empty = "No paper has a report yet. `stemma papers report PAPER` makes one."
    print_table("Papers by what is reproduced", columns, rows, empty=empty)


def story(
    paper: PaperId,
    show: Annotated[bool, typer.Option("--show", help="Show the one that there is, and tell none.")] = False,
    as_json: Json = False,
) -> None:
    """Tell a paper to children, in a few pages of plain words."""
    from stemma.papers.kid import keeping

    settings, database = open_studio()
    with database:
        if show:
            kept = database.read(lambda connection: keeping.get_storyboard(connection, paper))
        else:
            telling = _telling(settings, database, paper)
            kept = commit(
                settings, database, lambda connection: keeping.explain(connection, local_principal(), paper, telling)
            )
    if as_json:
        print_json(kept)
        return
    for number, page in enumerate(kept.storyboard.pages, 1):
        say(f"{number}. {page.title}")
        say(f"   {page.body}")
        say(f"   [{page.alt_text}]")
    say(f"Grade {kept.grade:.1f} by Flesch and Kincaid. Told by {kept.storyboard.told_by}.")


def _telling(settings: Settings, database: Database, paper: UUID) -> Telling:
    """What a model tells of a paper, where there is one."""
    from stemma.llm.blocking import open_models
    from stemma.llm.model import Caller, Completion, Prompt
    from stemma.papers.kid import keeping
    from stemma.papers.kid.asking import ask_for_story

    principal = local_principal()
    told = database.read(lambda connection: keeping.claims_to_tell(connection, principal, paper))
    with open_models(settings, database) as models:

        async def complete(prompt: Prompt, caller: Caller) -> Completion:
            return models.complete_sync(prompt, caller)

        caller = Caller(principal.actor, "cli papers story", "explain", uuid4().hex)
        telling = asyncio.run(ask_for_story(told, complete, caller))
    if telling.refused:
        say(f"What the model wrote is not used: {telling.refused}", console=err)
    return telling


def _row(finding: Finding) -> tuple[str, ...]:
    observed, gap = finding.observed_printed or "", _percent(finding.gap_percent)
    return finding.label, finding.printed, observed, gap, finding.verdict.value.replace("_", " ")


def _percent(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"
