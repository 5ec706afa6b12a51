"""`stemma costs`, `usage` and `budgets`: what calls to models cost and used, and what they may."""

from __future__ import annotations

from decimal import Decimal, InvalidOperation
from typing import Annotated
from uuid import UUID

import typer

from cli.output import Json, moment, print_json, print_table, say
from cli.session import commit, open_studio
from stemma.access.principal import local_principal
from stemma.errors import InvalidInput

app = typer.Typer(help="What calls to models cost, by days and weeks that are over.", no_args_is_help=True)
budgets_app = typer.Typer(help="What calls to models may use.", no_args_is_help=True)

Days = Annotated[int, typer.Option(min=1, max=400, help="How many days, up to yesterday (UTC).")]
_HINT = "Nothing is summed up yet. `stemma materialize costs/daily` does it."


def add_commands(root: typer.Typer) -> None:
    """Put `usage` on the root."""
    root.command("usage")(usage)


@app.command()
def daily(days: Days = 30, as_json: Json = False) -> None:
    """Show what each day cost."""
    _show_costs(days, weekly=False, as_json=as_json)


@app.command()
def weekly(
    weeks: Annotated[int, typer.Option(min=1, max=106, help="How many weeks.")] = 12, as_json: Json = False
) -> None:
    """Show what each week cost, from its Monday."""
    _show_costs(7 * (weeks + 1), weekly=True, as_json=as_json)


@app.command()
def models(days: Days = 30, as_json: Json = False) -> None:
    """Show what each model cost, the dearest first."""
    from stemma.telemetry import costs

    _, database = open_studio()
    with database:
        found = database.read(lambda connection: costs.by_model(connection, costs.last_days(days)))
    if as_json:
        print_json({"data": found})
        return
    rows = [
        (
            f"{one.provider}/{one.model}",
            one.calls,
            one.errors,
            one.tokens_in,
            one.tokens_out,
            _cost(one.cost, one.unpriced),
        )
        for one in found
    ]
    print_table("Models", ("model", "calls", "errors", "tokens in", "tokens out", "cost"), rows, empty=_HINT)


@app.command()
def latency(days: Days = 7, as_json: Json = False) -> None:
    """Show how long calls took, by provider, model, agent and route, on the last day of each."""
    from stemma.telemetry import costs
    from stemma.telemetry import latency as latencies

    _, database = open_studio()
    with database:
        found = database.read(lambda connection: latencies.newest(connection, costs.last_days(days)))
    if as_json:
        print_json({"data": found})
        return
    rows = [
        (one.by, one.name, str(one.day), one.calls, round(one.p50), round(one.p95), round(one.p99)) for one in found
    ]
    print_table("Latency (ms)", ("by", "name", "day", "calls", "p50", "p95", "p99"), rows, empty=_HINT)


@app.command("error-budget")
def error_budget(as_json: Json = False) -> None:
    """Show how the error budget stands at the end of yesterday."""
    from stemma.telemetry import costs
    from stemma.telemetry import error_budget as budget

    _, database = open_studio()
    with database:
        found = database.read(lambda connection: budget.standing(connection, costs.last_days(1).last))
    if as_json:
        print_json({"objective": budget.OBJECTIVE, "data": found})
        return
    rows = [(one.name, one.unit, one.total, one.bad, f"{one.left:.1%}") for one in found]
    title = f"Error budget over {budget.WINDOW_DAYS} days, {budget.OBJECTIVE:.1%} to go well"
    print_table(title, ("what", "unit", "total", "bad", "left"), rows, empty=_HINT)


def usage(
    provider: Annotated[str | None, typer.Option(help="Only calls to this provider.")] = None,
    agent: Annotated[str | None, typer.Option(help="Only calls of this agent.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=200, help="How many.")] = 20,
    cursor: Annotated[str | None, typer.Option(help="`next_cursor` of the page before.")] = None,
    as_json: Json = False,
) -> None:
    """Show the last calls to models, and what each used."""
    from stemma.llm.usage import list_usage

    _, database = open_studio()
    with database:
        page = database.read(
            lambda connection: list_usage(connection, provider=provider, agent=agent, cursor=cursor, limit=limit)
        )
    if as_json:
        print_json(page)
        return
    rows = [
        (
            moment(use.ts),
            f"{use.provider}/{use.model}",
            use.error_code or use.status,
            f"{use.tokens_in:,} + {use.tokens_out:,}",
            "unknown" if use.cost_est is None else f"${use.cost_est:.6f}",
            round(use.latency_ms),
        )
        for use in page.data
    ]
    columns = ("ended", "model", "status", "tokens", "cost", "ms")
    print_table("Calls to models", columns, rows, empty="No model was called.")


@budgets_app.command("list")
def list_budgets(as_json: Json = False) -> None:
    """List the budgets and how they stand."""
    from stemma.llm.budgets import Standing, standings

    _, database = open_studio()
    with database:
        found = database.read(standings)
    if as_json:
        print_json({"data": [{name: getattr(one, name) for name in (*Standing.__slots__, "share")} for one in found]})
        return
    rows = [
        (
            str(one.budget.id),
            f"{one.budget.scope} {one.budget.subject}".strip(),
            one.budget.period,
            "" if one.budget.limit_usd is None else f"${one.used_usd:.4f} of ${one.budget.limit_usd:.2f}",
            "" if one.budget.limit_tokens is None else f"{one.used_tokens:,} of {one.budget.limit_tokens:,}",
            f"{one.share:.0%}",
        )
        for one in found
    ]
    columns = ("id", "of", "a", "dollars", "tokens", "used")
    print_table("Budgets", columns, rows, empty="There is no budget: calls are not limited.")


@budgets_app.command("set")
def set_budget(
    scope: Annotated[str, typer.Argument(help="studio, key or agent.")],
    subject: Annotated[str, typer.Argument(help="The id of the key, the name of the agent.")] = "",
    per: Annotated[str, typer.Option(help="day or month (UTC).")] = "day",
    usd: Annotated[str | None, typer.Option(help="US dollars, such as 5.00.")] = None,
    tokens: Annotated[int | None, typer.Option(help="Tokens, in and out together.")] = None,
    as_json: Json = False,
) -> None:
    """Set a budget; it holds for every call within a second."""
    from stemma.llm import budgets

    if scope not in ("studio", "key", "agent"):
        raise InvalidInput("scope_invalid", f"{scope!r} has no budgets.", field="SCOPE", hint="studio, key or agent.")
    if per not in ("day", "month"):
        raise InvalidInput("period_invalid", f"{per!r} is no period.", field="--per", hint="Write day or month.")
    wanted = budgets.NewBudget(scope, per, subject, _dollars(usd), tokens)  # type: ignore[arg-type]
    settings, database = open_studio()
    with database:
        made = commit(settings, database, lambda c: budgets.set_budget(c, local_principal(), wanted))
    if as_json:
        print_json(made)
    else:
        say(f"The budget of {f'{made.scope} {made.subject}'.strip()} for each {made.period} is set ({made.id}).")


@budgets_app.command("remove")
def remove_budget(
    budget: Annotated[UUID, typer.Argument(help="Its id, as `stemma budgets list` shows it.")], as_json: Json = False
) -> None:
    """Take a budget away."""
    from stemma.llm import budgets

    settings, database = open_studio()
    with database:
        was = commit(settings, database, lambda c: budgets.remove_budget(c, local_principal(), budget))
    if as_json:
        print_json(was)
    else:
        say(f"The budget of {f'{was.scope} {was.subject}'.strip()} for each {was.period} is removed.")


def _show_costs(days: int, *, weekly: bool, as_json: bool) -> None:
    from stemma.telemetry import costs

    within = costs.last_days(days)
    _, database = open_studio()
    with database:
        found = database.read(
            lambda connection: costs.weekly(connection, within.weeks) if weekly else costs.daily(connection, within)
        )
    if as_json:
        print_json({"data": found})
        return
    rows = [
        (str(one.day), one.calls, one.errors, one.tokens_in, one.tokens_out, _cost(one.cost, one.unpriced))
        for one in found
    ]
    columns = ("week of" if weekly else "day", "calls", "errors", "tokens in", "tokens out", "cost")
    print_table("Costs", columns, rows, empty=_HINT)


def _cost(cost: Decimal, unpriced: int) -> str:
    return f"${cost:.4f}" + (f" and {unpriced:,} of unknown price" if unpriced else "")


def _dollars(text: str | None) -> Decimal | None:
    try:
        return None if text is None else Decimal(text)
    except InvalidOperation as error:
        raise InvalidInput("limit_invalid", f"{text!r} is no amount.", field="--usd", hint="Write 5.00.") from error
