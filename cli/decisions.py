"""`stemma decisions`: deciding about events, looking at what was decided, and deciding what waits."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any
from uuid import UUID

import typer
from rich.text import Text

from cli.output import Json, moment, out, print_json, print_table, printable, say
from cli.session import commit, open_studio
from stemma.access.principal import local_principal
from stemma.approvals.model import Verdict
from stemma.errors import CheckFailed, InvalidInput
from stemma.governance.decisions.model import Decision, DecisionSummary, State

app = typer.Typer(help="What was decided, and what waits for a person.", no_args_is_help=True)

Id = Annotated[UUID, typer.Argument(metavar="ID", help="The decision.")]
Node = Annotated[str | None, typer.Option(help="Only of this node.")]
Limit = Annotated[int, typer.Option(min=1, max=200, help="How many.")]
Cursor = Annotated[str | None, typer.Option(help="`next_cursor` of the page before.")]

_TRIES = 3
_COLUMNS = ("id", "verdict", "level", "state", "effect", "node", "event", "decided", "deadline")


@app.command()
def decide(
    node: Annotated[str, typer.Argument(help="Who decides, such as finance.")],
    event: Annotated[str, typer.Argument(help="The id of a recorded event, or a JSON file that holds a new one.")],
    as_json: Json = False,
) -> None:
    """Have a node decide about an event: one that was recorded, or a new one."""
    from stemma.governance.decisions.deciding import Decider, NodeStopped
    from stemma.ledger.service import Ledger

    asked = _event(event)
    settings, database = open_studio()
    with database, Ledger(database.urls, settings) as ledger:
        decider = Decider(database, settings)
        for left in reversed(range(_TRIES)):
            try:
                decision = ledger.commit(decider.decide(local_principal(), node, asked)).result()
                break
            except NodeStopped:
                if not left:
                    raise
    _print(decision, as_json=as_json)


@app.command("list")
def list_decisions(
    node: Node = None,
    state: Annotated[State | None, typer.Option(help="Only those in this state.")] = None,
    entity: Annotated[str | None, typer.Option(help="Only about this entity.")] = None,
    correlation: Annotated[str | None, typer.Option(help="Only with this correlation id.")] = None,
    limit: Limit = 50,
    cursor: Cursor = None,
    as_json: Json = False,
) -> None:
    """List decisions, the newest first."""
    from stemma.governance.decisions import catalog

    _, database = open_studio()
    with database:
        page = database.read(
            lambda connection: catalog.list_decisions(
                connection,
                node=node,
                state=state,
                entity=entity,
                correlation_id=correlation,
                cursor=cursor,
                limit=limit,
            )
        )
    if as_json:
        print_json(page)
        return
    print_table("Decisions", _COLUMNS, [_row(one) for one in page.data], empty="No decisions.")
    _say_more(page.next_cursor)


@app.command()
def review(node: Node = None, limit: Limit = 50, cursor: Cursor = None, as_json: Json = False) -> None:
    """List what waits for a person, the nearest deadline first."""
    from stemma.governance.decisions import catalog
    from stemma.governance.decisions.review import settle_due
    from stemma.ledger.service import Ledger

    settings, database = open_studio()
    with database:
        with Ledger(database.urls, settings) as ledger:
            settle_due(database, ledger)
        page = database.read(lambda c: catalog.list_waiting(c, node=node, cursor=cursor, limit=limit))
    if as_json:
        print_json(page)
        return
    print_table("Waiting", _COLUMNS, [_row(one) for one in page.data], empty="Nothing waits.")
    _say_more(page.next_cursor)


@app.command()
def show(decision_id: Id, as_json: Json = False) -> None:
    """Show a decision with its reasons, similar cases, event and context."""
    from stemma.governance.decisions import catalog

    _, database = open_studio()
    with database:
        decision = database.read(lambda connection: catalog.get_decision(connection, decision_id))
    _print(decision, as_json=as_json)


@app.command()
def approve(decision_id: Id, reason: Annotated[str, typer.Option(help="Why.")] = "", as_json: Json = False) -> None:
    """Grant what was asked for, whatever the policy proposes."""
    _resolve(decision_id, Verdict.APPROVE, reason, as_json=as_json)


@app.command()
def deny(decision_id: Id, reason: Annotated[str, typer.Option(help="Why.")], as_json: Json = False) -> None:
    """Deny what was asked for."""
    _resolve(decision_id, Verdict.DENY, reason, as_json=as_json)


@app.command()
def check(node: Node = None, as_json: Json = False) -> None:
    """Make every decision again by what was recorded of it; ends with 6 when one comes out otherwise."""
    from stemma.governance.decisions.replaying import replay_all

    _, database = open_studio()
    with database:
        replayed = database.read(lambda connection: replay_all(connection, node=node))
    if as_json:
        print_json(replayed)
    else:
        say(f"{replayed.decisions:,} decisions were made again; {len(replayed.differing):,} came out otherwise.")
    if replayed.differing:
        if as_json:
            raise typer.Exit(CheckFailed.exit_code)
        raise CheckFailed("decision_differs", f"Decision {replayed.differing[0]} came out otherwise.")


def _resolve(decision_id: UUID, verdict: Verdict, reason: str, *, as_json: bool) -> None:
    from stemma.governance.decisions.review import resolve

    settings, database = open_studio()
    with database:
        decision = commit(settings, database, lambda c: resolve(c, local_principal(), decision_id, verdict, reason))
    if as_json:
        print_json(decision)
    else:
        say(f"{decision.id}: {decision.effect}.")


def _event(given: str) -> Any:
    """The id, or the new event that a file holds."""
    from datetime import datetime

    from stemma.governance.events.model import NewEvent

    try:
        return UUID(given)
    except ValueError:
        pass
    try:
        said = json.loads(Path(given).read_text("utf-8"))
        at = said.pop("occurred_at", None)
        return NewEvent(**said, occurred_at=datetime.fromisoformat(at) if at else None)
    except (OSError, ValueError, TypeError, AttributeError, RecursionError) as error:
        hint = 'Give the id of an event, or a file such as {"type": "DiscountRequested", "data": {…}}.'
        raise InvalidInput("event_invalid", f"{given} is no event: {error}.", field="EVENT", hint=hint) from error


def _row(one: DecisionSummary) -> tuple[object, ...]:
    deadline = moment(one.due_at) if one.state is State.WAITING else ""
    decided = moment(one.decided_at)
    return str(one.id), one.verdict, one.level, one.state, one.effect, one.node, one.event_type, decided, deadline


def _print(decision: Decision, *, as_json: bool) -> None:
    if as_json:
        print_json(decision)
        return
    out.print(Text(f"{decision.id}", style="bold"))
    silence = "denied" if decision.on_silence == "deny" else "asked again"
    facts = {
        "verdict": f"{decision.verdict} at {decision.level}, by {decision.policy_reference} ({decision.variant})",
        "holds": f"{decision.effect or 'nothing yet'}",
        "waits until": f"{moment(decision.due_at)}, then it is {silence}" if decision.state is State.WAITING else "",
        "settled": f"{moment(decision.settled_at)} by {decision.settled_by}" if decision.settled_by else "",
        "because": decision.settled_reason or "",
        "event": f"{decision.event_type} {decision.event_id}",
        "entity": decision.entity or "",
        "decided": f"{moment(decision.decided_at)} by {decision.decided_by}, in {decision.latency_ms:.1f} ms",
        "entry": f"{decision.seq} of the chain decisions, {decision.entry_hash}",
    }
    for name, value in facts.items():
        if value:
            out.print(Text(f"  {name:<12}", style="dim") + Text(printable(value)), soft_wrap=True)
    for reason in decision.reasons:
        say(f"  {reason.rule}: {reason.text}")
    for case in decision.similar:
        say(f"  similar: {case.decision_id} at {case.distance:.3f}, {case.effect or 'open'}")


def _say_more(cursor: str | None) -> None:
    if cursor:
        out.print(Text(f"more: --cursor {cursor}", style="dim"), soft_wrap=True)
