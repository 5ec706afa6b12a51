"""`stemma features`, `snapshots`, `scorecards` and `drift`: what the governance loop remembers."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.text import Text

from cli.output import Json, out, print_json, print_table, say
from cli.session import open_studio

if TYPE_CHECKING:
    from stemma.store.cursors import Page

Node = Annotated[str, typer.Argument(metavar="NODE", help="Such as finance.")]
Limit = Annotated[int, typer.Option(min=1, max=200, help="How many days.")]
Cursor = Annotated[str | None, typer.Option(help="`next_cursor` of the page before.")]


def add_commands(app: typer.Typer) -> None:
    """Register the commands of this module."""
    app.command()(features)
    app.command()(snapshots)
    app.command()(scorecards)
    app.command()(drift)


def features(
    node: Node,
    entity: Annotated[str, typer.Argument(metavar="ENTITY", help="Such as a customer.")],
    day: Annotated[
        datetime | None, typer.Option(formats=["%Y-%m-%d"], help="At the end of this day; else of the last one made.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Show what is known of an entity, each feature over its own window."""
    from stemma.governance.memory import catalog

    _, database = open_studio()
    with database:
        found = database.read(
            lambda connection: catalog.find_features(connection, node, entity, day.date() if day else None)
        )
    if as_json:
        print_json({"entity": found.entity, "day": found.day, "values": dict(found.values)})
        return
    rows = [(name, value) for name, value in sorted(found.values.items())]
    print_table(f"{entity}, end of {found.day}", ("feature", "value"), rows, empty="Nothing is known.")


def snapshots(node: Node, limit: Limit = 5, cursor: Cursor = None, as_json: Json = False) -> None:
    """Show what each day taught a node, in words; the newest first."""
    from stemma.governance.memory import catalog

    _, database = open_studio()
    with database:
        page = database.read(lambda connection: catalog.list_snapshots(connection, node, cursor=cursor, limit=limit))
    if as_json:
        print_json(page)
        return
    for snapshot in page.data:
        say(f"{snapshot.text}\n")
    _say_more(page, "No snapshots.")


def scorecards(node: Node, limit: Limit = 10, cursor: Cursor = None, as_json: Json = False) -> None:
    """Show how the variants of a node's policies stood at the end of each day; the newest first."""
    from stemma.governance.memory import catalog

    _, database = open_studio()
    with database:
        page = database.read(lambda connection: catalog.list_scorecards(connection, node, cursor=cursor, limit=limit))
    if as_json:
        print_json(page)
        return
    rows = [
        (str(card.day), policy, told["variant"], told["draws"], f"{told['mean']:.1%}", told.get("standing", ""))
        for card in page.data
        for policy, of in card.policies.items()
        for told in (of["baseline"], *of["variants"])
    ]
    print_table("Scorecards", ("day", "policy", "variant", "draws", "rate", "standing"), rows, empty="No scorecards.")
    _say_more(page)


def drift(
    node: Node,
    alarmed: Annotated[bool, typer.Option("--alarmed", help="Only reports that alarm.")] = False,
    limit: Limit = 10,
    cursor: Cursor = None,
    as_json: Json = False,
) -> None:
    """Show whether what a node decides, and on what, is what it was; the newest first."""
    from stemma.governance.memory import catalog

    _, database = open_studio()
    with database:
        page = database.read(
            lambda connection: catalog.list_drift(connection, node, alarmed=alarmed or None, cursor=cursor, limit=limit)
        )
    if as_json:
        print_json(page)
        return
    rows = [(str(report.day), *_strongest(report.content), report.alarmed) for report in page.data]
    print_table("Drift", ("day", "strongest of", "PSI", "alarms from", "alarmed"), rows, empty="No drift reports.")
    _say_more(page)


def _strongest(content: Any) -> tuple[Any, ...]:
    compared = [measure for measure in content["measures"] if measure["psi"] is not None]
    if not compared:
        return "too few observations", None, None
    most = max(compared, key=lambda measure: measure["psi"] / measure["threshold"])
    return most["of"], most["psi"], most["threshold"]


def _say_more(page: Page[Any], empty: str | None = None) -> None:
    if empty and not page.data:
        say(empty)
    if page.next_cursor:
        out.print(Text(f"more: --cursor {page.next_cursor}", style="dim"), soft_wrap=True)
