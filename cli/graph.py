"""`stemma materialize`, `demo` and `status`: building the asset graph and seeing how it stands."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from cli.output import Json, moment, out, print_json, print_table, say
from cli.session import open_studio

Partition = Annotated[
    str | None, typer.Option("--partition", "-p", help="Only this partition: a source, a day, or days as FIRST...LAST.")
]


def add_commands(app: typer.Typer) -> None:
    """Register the commands of this module."""
    app.command()(materialize)
    app.command()(demo)
    app.command()(status)


def materialize(
    selection: Annotated[
        str, typer.Argument(help="`*`, a key such as knowledge/chunks, or Dagster's selection syntax.")
    ],
    partition: Partition = None,
    as_json: Json = False,
) -> None:
    """Materialize assets in this process and run their checks; what did not change is not rebuilt."""
    from cli import execution

    settings, database = open_studio()
    with database:
        outcome = execution.materialize(settings, database, selection, partition)
    if as_json:
        print_json(outcome)
    else:
        print_outcome(outcome)


def demo(as_json: Json = False) -> None:
    """Materialize the whole graph on the samples, take papers to their verdicts, decide a year of sample events, run
    every check, and show what came of it and where to look.
    """
    from cli.demo import run_demo
    from cli.governance import print_governed
    from cli.paper_reports import print_leaderboard
    from stemma.store.settings import begin, load_settings

    begin(load_settings())
    settings, database = open_studio()
    with database:
        report = run_demo(settings, database)
    if as_json:
        print_json(report)
        return
    print_outcome(report.outcome)
    if report.governed.made is not None:
        print_outcome(report.governed.made)
    print_governed(report.governed)
    print_leaderboard(report.papers)
    print_table(
        "Questions asked of the index",
        ("question", "hit", "first hit from"),
        [(answer.question, answer.rank or "not in 10", answer.first_uri) for answer in report.answers],
        empty="No questions.",
    )
    out.print(f"\n{report.summary}\n")
    for label, command in report.where_to_look:
        out.print(f"  [bold]{command}[/]  {label}")


def status(as_json: Json = False) -> None:
    """Show the sources, the products with their counts, the active index, the ledger and the services' health."""
    from cli.overview import read_overview

    settings, database = open_studio()
    with database:
        overview = read_overview(settings, database)
    if as_json:
        print_json(overview)
        return
    print_table(
        "Sources",
        ("source", "documents", "chunks", "set aside", "last read"),
        [(s.name, s.documents, s.chunks, s.quarantined, moment(s.last_read)) for s in overview.sources],
        empty="No sources.",
    )
    print_table(
        "Assets",
        ("asset", "materialized", "run"),
        [(a.key, moment(a.materialized_at), a.run_id) for a in overview.assets],
        empty="Nothing is materialized yet. Run `make demo` or `stemma materialize '*'`.",
    )
    if overview.index is None:
        out.print("There is no search index yet.")
    else:
        index = overview.index
        out.print(
            f"Search answers from generation {index.id}: {index.chunks:,} chunks, {index.model_name} "
            f"({index.dimensions} dimensions), built {moment(index.created_at)}."
        )
    ledger = overview.ledger
    signed = f"the newest head is of {moment(ledger.head_at)}" if ledger.head_at else "no head is signed yet"
    out.print(f"The ledger has {ledger.entries:,} entries, of which {ledger.waiting:,} wait for a head; {signed}.")
    if ledger.alert:
        say(f"Alert: {ledger.alert}")
    print_table(
        "Services",
        ("service", "status", "p95 ms", "5xx %", "machine", "seen"),
        [
            (s.name, s.status, _scaled(s.latency_p95, 1000), _scaled(s.error_rate, 100), s.instance, moment(s.ts))
            for s in overview.services
        ],
        empty="How the services stand is written down once a minute while the API runs.",
    )


def _scaled(value: float | None, factor: int) -> str:
    return "" if value is None else f"{value * factor:,.1f}"


def print_outcome(outcome: Any) -> None:
    """The table of what was built, then the checks in one line or, where one failed, in full."""
    rows = [
        (item.asset, item.partition or "", _counts(item.metadata), item.seconds, "" if item.changed else "unchanged")
        for item in outcome.built
    ]
    print_table("Built", ("asset", "partition", "what", "seconds", ""), rows, empty="Nothing matched.")
    passed = sum(check.passed for check in outcome.checks)
    out.print(
        f"{passed} of {len(outcome.checks)} checks passed, {outcome.receipts} receipts written, "
        f"{outcome.seconds:.1f} s in all."
    )


def _counts(metadata: dict[str, Any]) -> str:
    """The counts that an asset put into its `summary`."""
    return str(metadata.get("summary", ""))
