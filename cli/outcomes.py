"""`stemma outcomes`: telling what came of decisions, and looking at it."""

from __future__ import annotations

import json
from typing import Annotated, Any
from uuid import UUID

import typer
from rich.text import Text

from cli.events import Cursor, Limit, parsed_object, parsed_time
from cli.output import Json, moment, out, print_json, print_table, say
from cli.session import commit, open_studio
from stemma.access.principal import local_principal
from stemma.governance.outcomes.model import Outcome

app = typer.Typer(help="Outcomes: what came of decisions.", no_args_is_help=True)

DecisionId = Annotated[UUID, typer.Argument(metavar="DECISION", help="The decision.")]


@app.command()
def record(
    decision_id: DecisionId,
    metrics: Annotated[str, typer.Option(help="As the node's reward declares them, as a JSON object.")],
    at: Annotated[str | None, typer.Option(help="When it was observed, such as 2026-01-31T12:00:00Z.")] = None,
    as_json: Json = False,
) -> None:
    """Tell what came of a decision; metrics that are known already are replaced."""
    from stemma.governance.outcomes import recording
    from stemma.governance.outcomes.model import NewOutcome

    told = NewOutcome(decision_id, parsed_object(metrics, "--metrics"), parsed_time(at, "--at"))
    settings, database = open_studio()
    with database:
        (outcome,) = commit(settings, database, lambda c: recording.record(c, local_principal(), [told]))
    _say(outcome, as_json=as_json)


@app.command()
def show(decision_id: DecisionId, as_json: Json = False) -> None:
    """Show what is known of what came of a decision."""
    from stemma.governance.outcomes import catalog

    _, database = open_studio()
    with database:
        outcome = database.read(lambda connection: catalog.get_outcome(connection, decision_id))
    _say(outcome, as_json=as_json)


@app.command("list")
def list_outcomes(
    node: Annotated[str | None, typer.Option(help="Only of this node's decisions.")] = None,
    success: Annotated[bool | None, typer.Option("--success/--failure", help="Only these.")] = None,
    limit: Limit = 50,
    cursor: Cursor = None,
    as_json: Json = False,
) -> None:
    """List outcomes, those that were first told of last at the front."""
    from stemma.governance.outcomes import catalog

    _, database = open_studio()
    with database:
        page = database.read(lambda c: catalog.list_outcomes(c, node=node, success=success, cursor=cursor, limit=limit))
    if as_json:
        print_json(page)
        return
    rows = [(str(o.decision_id), _verdict(o), moment(o.observed_at), _metrics(o)) for o in page.data]
    print_table("Outcomes", ("decision", "success", "observed", "metrics"), rows, empty="No outcomes.")
    if page.next_cursor:
        out.print(Text(f"more: --cursor {page.next_cursor}", style="dim"), soft_wrap=True)


def _say(outcome: Outcome, *, as_json: bool) -> None:
    if as_json:
        print_json(outcome)
        return
    say(f"{outcome.decision_id}: {_verdict(outcome)}, {_metrics(outcome)}")
    counted = "counts for its variant" if outcome.counted else "does not count for its variant"
    say(f"Observed {moment(outcome.observed_at)}, revision {outcome.revision}; it {counted}.")


def _verdict(outcome: Outcome) -> str:
    return {True: "success", False: "failure", None: "neither"}[outcome.success]


def _metrics(outcome: Outcome) -> Any:
    return json.dumps(outcome.metrics, ensure_ascii=False)
