"""The year of decisions in the demonstration: living through what is missing of it, and showing what came of it."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Final

from cli import execution
from cli.output import out, print_table, say
from stemma.access.principal import local_principal
from stemma.governance.decisions.deciding import Decider
from stemma.governance.demonstration import living
from stemma.governance.demonstration.happenings import Happening, profits
from stemma.governance.demonstration.living import Lived
from stemma.governance.demonstration.summary import Desk, Saved, Summary, summarize
from stemma.governance.learning.offpolicy import Interval
from stemma.governance.memory.inputs import Span
from stemma.governance.memory.staleness import stale_days
from stemma.governance.samples import publish_samples
from stemma.ledger.service import Ledger
from stemma.store.database import Database
from stemma.store.settings import Settings

ASSETS: Final = 'key:"governance/*"'
_SEEN_BY_DECISIONS: Final = 'key:"governance/entity_features" or key:"governance/knowledge_snapshots"'


@dataclass(frozen=True, slots=True)
class Governed:
    """The year of decisions: what this run wrote, what it made of the days anew, how the nodes stand, in how long."""

    lived: Lived
    made: execution.Outcome | None
    summary: Summary
    seconds: float


def govern(settings: Settings, database: Database, found: tuple[Happening, ...]) -> Governed:
    """Publish the samples, do what is missing of their year month by month, and remember its days."""
    started = time.monotonic()
    with Ledger(database.urls, settings) as ledger:
        publish_samples(database, ledger, local_principal())
        year = living.Year(database, ledger, Decider(database, settings), local_principal())
        done = [Lived(0, 0, 0, 0, 0)]
        for month in database.read(lambda connection: living.missing(connection, living.months(found))):
            with execution.shown_progress() as report:
                done.append(year.live(month, report))
            # The next month is decided by what this one taught.
            execution.materialize(settings, database, _SEEN_BY_DECISIONS, _days(month.span))
    everything = living.observed_days(found)
    stale = any(database.read(lambda connection: stale_days(connection, everything)).values())
    made = execution.materialize(settings, database, ASSETS, _days(everything)) if stale else None
    summary = database.read(lambda connection: summarize(connection, profits(found)))
    return Governed(living.together(done), made, summary, time.monotonic() - started)


def _days(span: Span) -> str:
    return f"{span.first}...{span.last}"


def print_governed(governed: Governed) -> None:
    """Tables of what was decided, what was learned and what refusing saved, and whether all comes out again."""
    lived, summary = governed.lived, governed.summary
    for desk in summary.desks:
        _print_desk(desk)
    if summary.saved is None:
        say("Too few outcomes are known to say what refusing saved.")
    else:
        _print_saved(summary.saved)
    say(
        f"Replay: {summary.replayed:,} decisions made again from their policy version, context and draw,"
        f" {len(summary.differing):,} differ."
    )
    say(
        f"This run wrote {lived.events:,} events, {lived.decisions:,} decisions, {lived.settled:,} settled as people,"
        f" {lived.outcomes:,} outcomes; {governed.seconds:.1f} s."
    )


def _print_desk(desk: Desk) -> None:
    events = ", ".join(f"{count:,} {kind}" for kind, count in desk.events.items())
    rows = [(one.level, one.verdict, one.decisions, one.alone, one.by_people, one.waiting) for one in desk.decided]
    columns = ("level", "verdict", "decisions", "took effect alone", "by people", "waiting")
    print_table(f"{desk.node}: {events}", columns, rows, empty="No decisions.")
    told = desk.outcomes
    say(
        f"{told.told:,} outcomes: {told.successes:,} good, {told.failures:,} bad; {told.counted:,} of what took effect"
        " alone, from which is learned."
    )
    variants = [
        (
            one.rate.variant,
            one.rate.draws,
            one.rate.successes,
            one.rate.failures,
            f"{one.rate.mean:.1%} ({one.rate.low:.1%} to {one.rate.high:.1%})",
            f"{one.propensity:.1%}",
        )
        for one in desk.variants
    ]
    columns = ("variant", "draws", "good", "bad", "posterior (95 %)", "drawn now")
    print_table(f"{desk.policy} at {desk.node}", columns, variants, empty="No variants.")
    for variant in desk.variants:
        if variant.standing is not None:
            say(f"{variant.rate.variant} is {variant.standing.value.replace('_', ' ')}. {variant.why}")
    for promotion in desk.promotions:
        say(f"Promotion of {promotion.variant} of {promotion.policy}: {promotion.state}.")
    if not desk.promotions:
        say("No promotion was proposed.")
    out.print()


def _print_saved(saved: Saved) -> None:
    say(f"Observed: {saved.given:,} requests were given, {saved.metric} {saved.observed:,.2f}.")
    rows = [
        (one.of, one.how, one.count, _interval(one.estimated), one.known, "yes" if one.holds else "no")
        for one in saved.estimates
    ]
    columns = ("counterfactual", "estimated", "requests", f"{saved.metric} (95 %)", "in the sample", "holds")
    print_table("What was not given, estimated from what was", columns, rows, empty="Everything was given.")
    say(
        f"In the sample the {saved.refused:,} refused requests brought {saved.refused_known:,.2f}: refusing saved"
        f" {-saved.refused_known:,.2f}. Giving everything brought {saved.all:,.2f}."
    )
    say("A refused request counts as nothing: nobody knows whether it would have been ordered without the discount.")
    out.print()


def _interval(interval: Interval | None) -> str:
    if interval is None:
        return "nothing like it was given"
    return f"{interval.estimate:,.0f} ({interval.low:,.0f} to {interval.high:,.0f})"
