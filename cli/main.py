"""The entry point: collects the commands and turns errors into one line and an exit code.

Exit codes: 0 done · 1 unexpected error, or nobody reads the output · 2 wrong usage or input · 3 not found ·
4 conflict with the present state · 5 something needed is unavailable · 6 a check failed · 7 not allowed · 130
interrupted. `stemma up` runs until it is told to stop, so that Ctrl-C is its proper end: 0.
"""

from __future__ import annotations

import logging
import os
import sys
import traceback
from collections.abc import Sequence
from typing import NoReturn

import typer
from typer.exceptions import TyperException

from cli import (
    agent_memory,
    agents,
    approvals,
    browser,
    costs,
    database,
    decisions,
    events,
    files,
    flags,
    graph,
    historian,
    jobs,
    keys,
    knowledge,
    learning,
    ledger,
    llm,
    maps,
    memory,
    nodes,
    notify,
    outcomes,
    paper_reports,
    papers,
    personal,
    policy,
    receipt,
    serve,
    sessions,
    vault,
    webhooks,
)
from cli.output import err, print_error
from stemma.errors import InvalidInput, StemmaError, Unavailable
from stemma.store.settings import load_settings

app = typer.Typer(
    name="stemma",
    help="Everything an AI studio produces, as materialized assets with receipts.",
    epilog=(
        "Exit codes: 0 done · 1 unexpected error · 2 wrong usage or input · 3 not found · 4 conflict · "
        "5 unavailable · 6 a check failed · 7 not allowed · 130 interrupted."
    ),
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
costs.add_commands(app)
graph.add_commands(app)
knowledge.add_commands(app)
serve.add_commands(app)
historian.add_commands(app)
learning.add_commands(app)
ledger.add_commands(app)
memory.add_commands(app)
personal.add_commands(app)
sessions.add_commands(app)
app.add_typer(agents.app, name="agent")
app.add_typer(approvals.app, name="approvals")
app.add_typer(browser.app, name="browser")
app.add_typer(costs.budgets_app, name="budgets")
app.add_typer(costs.app, name="costs")
app.add_typer(decisions.app, name="decisions")
app.add_typer(events.app, name="events")
app.add_typer(files.app, name="files")
app.add_typer(flags.app, name="flags")
app.add_typer(jobs.app, name="jobs")
app.add_typer(keys.app, name="keys")
app.add_typer(learning.app, name="learning")
app.add_typer(llm.app, name="llm")
app.add_typer(maps.app, name="maps")
app.add_typer(agent_memory.app, name="memory")
app.add_typer(nodes.app, name="nodes")
app.add_typer(outcomes.app, name="outcomes")
paper_reports.add_commands(papers.app)
app.add_typer(papers.app, name="papers")
app.add_typer(policy.app, name="policy")
app.add_typer(learning.promotions, name="promotions")
app.add_typer(receipt.app, name="receipt")
app.add_typer(notify.app, name="notify")
app.add_typer(vault.app, name="vault")
app.add_typer(webhooks.app, name="webhooks")
app.add_typer(database.app, name="db")

_INTERRUPTED = 130


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command line and exit; a traceback is shown for an unexpected error only, and only when asked for."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    as_json = "--json" in given[: given.index("--") if "--" in given else None]
    try:
        code = app(given, prog_name="stemma", standalone_mode=False) or 0
        sys.stdout.flush()
    except BrokenPipeError:
        _leave_output()
        sys.exit(1)
    except Exception as error:
        problem = _as_problem(error)
        if problem.message:
            print_error(problem, as_json=as_json)
        sys.exit(problem.exit_code)
    if code == _INTERRUPTED:
        err.print("interrupted")
    sys.exit(code)


def _leave_output() -> None:
    """Nobody reads it; the interpreter would complain when it flushes what is left."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _as_problem(error: Exception) -> StemmaError:
    if isinstance(error, StemmaError):
        return error
    if isinstance(error, TyperException):
        context = getattr(error, "ctx", None)
        command = context.command_path if context else "stemma"
        hint = f"`{command} --help` shows what it accepts."
        return InvalidInput("usage_invalid", error.format_message(), hint=hint)
    return _database_problem(error) or _unexpected(error)


def _database_problem(error: Exception) -> Unavailable | None:
    """What the database's server refused or could not do; a statement that is wrong is not its fault."""
    import psycopg
    import sqlalchemy.exc

    cause = error.orig if isinstance(error, sqlalchemy.exc.DBAPIError) else error
    if not isinstance(cause, (psycopg.OperationalError, psycopg.errors.InsufficientPrivilege)):
        return None
    return Unavailable(
        "database_failed",
        f"The database failed: {' '.join(str(cause).split())}.",
        hint="Run `stemma doctor` to see what is wrong.",
    )


def _unexpected(error: Exception) -> StemmaError:
    if _wants_details():
        traceback.print_exception(error)
    words = " ".join(str(error).split())
    return StemmaError(
        "unexpected_error",
        f"{type(error).__name__}{f': {words}' if words else ''}.",
        hint="Run it again with STEMMA_LOG_LEVEL=DEBUG to see the traceback.",
    )


def _wants_details() -> bool:
    try:
        return logging.getLevelNamesMapping()[load_settings().log_level] <= logging.DEBUG
    except StemmaError:
        return False
