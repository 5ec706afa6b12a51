"""`stemma learning`, `stemma promotions`, `stemma shadow` and `stemma replay`: what variants taught, and what another
policy says.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated
from uuid import UUID

import typer

from cli.output import Json, moment, out, plain, print_json, print_table, say
from cli.session import commit, commit_all, open_studio
from stemma.access.principal import local_principal
from stemma.errors import CheckFailed

if TYPE_CHECKING:
    from stemma.governance.learning.catalog import State
    from stemma.governance.learning.comparing import Comparison
    from stemma.governance.learning.logged import Said
    from stemma.governance.learning.offpolicy import Interval

app = typer.Typer(help="Learning: how the variants of policies stand.", no_args_is_help=True)
promotions = typer.Typer(help="Promotions: variants that become the baseline.", no_args_is_help=True)

_REFERENCE = "name, name@1, name@1.2, name@1.2.3 or name@latest"
Node = Annotated[str, typer.Argument(metavar="NODE", help="A node, such as finance.")]
Reference = Annotated[str, typer.Argument(metavar="REFERENCE", help=f"A policy: {_REFERENCE}.")]
Last = Annotated[int, typer.Option(min=1, max=1_000_000, help="How many decisions, the newest.")]
Variant = Annotated[str, typer.Option(help="A variant of the policy.")]
Metric = Annotated[str, typer.Option(help="A metric of the node's reward, or success.")]

_SHOWN = 20


def add_commands(root: typer.Typer) -> None:
    """Attach the commands that are not in a group."""
    root.command()(replay)
    root.command()(shadow)


@app.command()
def show(node: Node, as_json: Json = False) -> None:
    """Show the variants of the policy that decides at a node, and what the outcomes say of them."""
    from stemma.governance import nodes
    from stemma.governance.learning.standing import standing

    _, database = open_studio()
    with database:
        stand = database.read(lambda c: standing(c, nodes.load(c, node)))
    if as_json:
        told = {name: plain(getattr(stand, name)) for name in ("node", "stats", "propensities")}
        assessed = stand.assessment.content()
        guardrails = stand.guardrails.model_dump(mode="json")
        print_json({**told, "policy": stand.policy.reference, "guardrails": guardrails, "assessment": assessed})
        return
    rows = []
    for one in stand.stats:
        low, high = one.posterior.interval()
        rate, drawn = f"{one.posterior.mean:.1%} ({low:.1%} to {high:.1%})", f"{stand.propensities[one.variant]:.1%}"
        rows.append((one.variant, one.draws, one.successes, one.failures, rate, drawn))
    columns = ("variant", "draws", "good", "bad", "success", "drawn now")
    print_table(f"{stand.policy.reference} at {node}", columns, rows, empty="No variants.")
    for found in stand.assessment.variants:
        say(f"{found.rate.variant} is {found.standing.value.replace('_', ' ')}. {found.why}")


@app.command()
def evaluate(
    reference: Reference,
    variant: Variant = "baseline",
    metric: Metric = "success",
    last: Last = 10_000,
    as_json: Json = False,
) -> None:
    """Say what a policy would have been worth on past decisions, by what was drawn and observed."""
    from stemma.governance import policies
    from stemma.governance.learning.offpolicy import evaluate_policy

    _, database = open_studio()
    with database:
        found = database.read(
            lambda c: evaluate_policy(c, policies.load(c, reference), last=last, variant=variant, metric=metric)
        )
    if as_json:
        print_json(found)
        return
    say(f"{found.policy}, {found.variant}: mean {metric} of {found.decisions:,} decisions, {found.pending:,} left out")
    say(f"observed, of what was done          {_interval(found.observed)}")
    say(f"counterfactual, of what it would give ({found.given:,}):")
    for name, estimate in (("IPS", found.ips), ("SNIPS", found.snips), ("doubly robust", found.doubly_robust)):
        say(f"  {name:<34}{_interval(estimate)}")
    if found.modelled is not None:
        say(f"  {found.beyond:,} of them were never given: {found.modelled:,.2f} each, modelled, not observed")


@app.command()
def savings(node: Node, metric: Metric = "success", last: Last = 10_000, as_json: Json = False) -> None:
    """Say what was given, and estimate what refusing saved; observed and counterfactual apart."""
    from stemma.governance import nodes
    from stemma.governance.learning import estimates

    _, database = open_studio()
    with database:
        found = database.read(lambda c: estimates.savings(c, nodes.load(c, node), metric=metric, last=last))
    if as_json:
        print_json(found)
        return
    observed = found.observed
    say(f"{metric} of the last {found.decisions:,} decisions of {node}")
    say(
        f"observed: {observed.count:,} given, total {observed.total:,.2f}; of {observed.unknown:,} nothing is known yet"
    )
    if found.weighted is not None:
        say(f"weighted: {found.overlap:,} that a variant would have given, total {_interval(found.weighted)}")
    for group in found.not_given:
        say(f"{group.done}: {group.count:,}, of which no variant would have given {group.beyond:,}")
        for modelled in group.models:
            say(f"  modelled by {modelled.model:<11} total {_interval(modelled.total)}; not observed")


@promotions.command("list")
def list_promotions(
    node: Annotated[str | None, typer.Option(help="Only those at this node.")] = None,
    state: Annotated[str | None, typer.Option(help="Only proposed, published or declined ones.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=200, help="How many.")] = 50,
    cursor: Annotated[str | None, typer.Option(help="`next_cursor` of the page before.")] = None,
    as_json: Json = False,
) -> None:
    """List promotions, the newest first."""
    from stemma.governance.learning import catalog

    wanted = _state(state)
    _, database = open_studio()
    with database:
        page = database.read(lambda c: catalog.list_promotions(c, node=node, state=wanted, cursor=cursor, limit=limit))
    if as_json:
        print_json(page)
        return
    rows = [(str(p.id), p.node, p.policy, p.variant, p.state.value, moment(p.proposed_at)) for p in page.data]
    print_table("Promotions", ("id", "node", "policy", "variant", "state", "proposed"), rows, empty="No promotions.")
    if page.next_cursor:
        say(f"more: --cursor {page.next_cursor}")


@promotions.command("show")
def show_promotion(
    promotion_id: Annotated[UUID, typer.Argument(metavar="ID", help="The promotion.")], as_json: Json = False
) -> None:
    """Show a promotion with its evidence."""
    from stemma.governance.learning import catalog

    _, database = open_studio()
    with database:
        found = database.read(lambda c: catalog.get_promotion(c, promotion_id))
    if as_json:
        print_json(found)
        return
    say(f"{found.variant} of {found.policy} at {found.node}: {found.state}")
    say(f"approval {found.approval_id}" + (f"; published as {found.published}" if found.published else ""))
    for one in found.evidence["variants"]:
        say(f"{one['variant']}: {one['standing']}. {one['why']}")


@promotions.command()
def propose(node: Node, as_json: Json = False) -> None:
    """Propose the variant that the outcomes say is better; a person approves it by `stemma approvals`."""
    from stemma.governance import nodes
    from stemma.governance.learning import promotion

    settings, database = open_studio()
    with database:
        made = commit(settings, database, lambda c: promotion.propose(c, local_principal(), nodes.load(c, node)))
    if as_json:
        print_json(made)
    else:
        say(
            f"{made.variant} of {made.policy} is proposed. `stemma approvals show {made.approval_id}` shows the change."
        )


@promotions.command()
def settle(as_json: Json = False) -> None:
    """Do what is due without waiting for the sensor: stop what does harm, propose what is better, publish what was
    approved.
    """
    from stemma.governance.learning import tending

    settings, database = open_studio()
    with database:
        done = commit_all(settings, database, tending.due)
    if as_json:
        print_json({"settled": done})
    else:
        say(f"{len(done)} settled.")


def replay(
    policy: Annotated[str | None, typer.Option(help=f"{_REFERENCE}; default: what is recorded of each.")] = None,
    variant: Variant = "baseline",
    last: Last = 1_000,
    node: Annotated[
        str | None, typer.Option(help="Only decisions of this node; with --policy that of the policy.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Make past decisions again: with another policy, to see what differs; without --policy each as it is recorded,
    which ends with 6 when one differs.
    """
    from stemma.governance import policies
    from stemma.governance.decisions import replaying
    from stemma.governance.learning.replay import replay as replayed

    _, database = open_studio()
    with database:
        if policy is not None:
            reference = policy
            compared = database.read(
                lambda c: replayed(c, policies.load(c, reference), last=last, node=node, variant=variant)
            )
            _show_comparison(compared, as_json=as_json)
            return
        again = database.read(lambda c: replaying.replay_all(c, node=node))
    if as_json:
        print_json(again)
    else:
        say(f"{again.decisions:,} decisions made again: {len(again.differing):,} differ.")
    if again.differing:
        if as_json:
            raise typer.Exit(CheckFailed.exit_code)
        raise CheckFailed("decisions_differ", f"The decision {again.differing[0]} comes out otherwise.")


def shadow(
    node: Node,
    policy: Annotated[str | None, typer.Option(help="An earlier candidate.")] = None,
    last: Last = 1_000,
    as_json: Json = False,
) -> None:
    """Show what the candidate in the shadow of a node said beside the live decisions; fills in what it lacks first."""
    from stemma.governance.learning import shadow as shadows

    _, database = open_studio()
    with database:
        with database.transaction() as connection:
            shadows.fill(connection)
        compared = database.read(lambda c: shadows.compared(c, node, policy=policy, last=last))
    _show_comparison(compared, as_json=as_json)


def show_transitions(compared: Comparison) -> None:
    """Print how verdicts meet, with the outcomes of what was done."""
    rows = [(f"{one.before} → {one.after}", one.count, one.successes, one.failures) for one in compared.transitions]
    print_table("Verdicts", ("before → after", "decisions", "succeeded", "failed"), rows, empty="No decisions.")


def _show_comparison(compared: Comparison, *, as_json: bool) -> None:
    if as_json:
        print_json(compared)
        return
    say(
        f"{compared.compared:,} decisions: {compared.different:,} differ, in the verdict {compared.verdicts:,},"
        f" the level {compared.levels:,}, the reasons {compared.reasons:,}."
    )
    show_transitions(compared)
    for one in compared.differences[:_SHOWN]:
        say(f"{one.decision_id}  {_said(one.before)}")
        say(f"{'→':>36}  {_said(one.after)}")
    if compared.different > _SHOWN:
        out.print(f"and {compared.different - _SHOWN:,} more; --json has up to 200")


def _said(said: Said) -> str:
    return f"{said.verdict} {said.level} {', '.join(reason.rule for reason in said.reasons)}"


def _interval(interval: Interval | None) -> str:
    if interval is None:
        return "none: nothing like it was given"
    return f"{interval.estimate:,.3f} ({interval.low:,.3f} to {interval.high:,.3f})"


def _state(given: str | None) -> State | None:
    from stemma.errors import InvalidInput
    from stemma.governance.learning.catalog import State

    if given is None:
        return None
    try:
        return State(given)
    except ValueError:
        hint = f"There are {', '.join(State)}."
        raise InvalidInput("state_unknown", f"{given[:63]!r} is no state.", field="--state", hint=hint) from None
