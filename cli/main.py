"""The entry point: finds the command that is asked for and turns errors into one line and an exit code.

Exit codes: 0 done · 1 unexpected error, or nobody reads the output · 2 wrong usage or input · 3 not found ·
4 conflict with the present state · 5 something needed is unavailable · 6 a check failed · 7 not allowed · 130
interrupted. `stemma up` runs until it is told to stop, so that Ctrl-C is its proper end: 0.
"""

from __future__ import annotations

import gc
import logging
import os
import sys
import traceback
from collections.abc import Sequence
from importlib import import_module
from typing import Final, NoReturn

import typer
from typer.exceptions import TyperException

from cli.output import err, print_error
from stemma.errors import InvalidInput, StemmaError, Unavailable

# What each module puts on the root, in the order of `--help`. A call imports only the module of its first word: all of
# them take longer than most commands do.
_COMMANDS: Final = {
    "costs": ("usage",),
    "graph": ("materialize", "demo", "status"),
    "knowledge": ("search", "sources", "index"),
    "serve": ("up", "down", "doctor"),
    "historian": ("historian",),
    "learning": ("replay", "shadow"),
    "ledger": ("verify",),
    "memory": ("features", "snapshots", "scorecards", "drift"),
    "personal": ("erase",),
    "sessions": ("sign-in", "sessions"),
}
_GROUPS: Final = {
    "agent": "agents.app",
    "approvals": "approvals.app",
    "browser": "browser.app",
    "budgets": "costs.budgets_app",
    "costs": "costs.app",
    "decisions": "decisions.app",
    "events": "events.app",
    "files": "files.app",
    "flags": "flags.app",
    "jobs": "jobs.app",
    "keys": "keys.app",
    "learning": "learning.app",
    "llm": "llm.app",
    "maps": "maps.app",
    "memory": "agent_memory.app",
    "nodes": "nodes.app",
    "outcomes": "outcomes.app",
    "papers": "papers.app",
    "policy": "policy.app",
    "promotions": "learning.promotions",
    "receipt": "receipt.app",
    "notify": "notify.app",
    "vault": "vault.app",
    "webhooks": "webhooks.app",
    "db": "database.app",
}

_INTERRUPTED = 130


def build(word: str | None = None) -> typer.Typer:
    """The command line; only what defines this word, where there is such a word."""
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
    known = word in _GROUPS or any(word in words for words in _COMMANDS.values())
    for module, words in _COMMANDS.items():
        if not known or word in words:
            import_module(f"cli.{module}").add_commands(app)
    for name, place in _GROUPS.items():
        if not known or word == name:
            module, _, attribute = place.partition(".")
            app.add_typer(getattr(import_module(f"cli.{module}"), attribute), name=name)
    return app


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command line and exit; a traceback is shown for an unexpected error only, and only when asked for."""
    # What is imported stays: looking for garbage in it again and again takes a tenth of a short command.
    gc.set_threshold(400_000)
    given = list(sys.argv[1:] if arguments is None else arguments)
    as_json = "--json" in given[: given.index("--") if "--" in given else None]
    try:
        root = typer.main.get_group(build(given[0] if given else None))
        code = root(given, prog_name="stemma", standalone_mode=False) or 0
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
    from stemma.store.settings import load_settings

    try:
        return logging.getLevelNamesMapping()[load_settings().log_level] <= logging.DEBUG
    except StemmaError:
        return False
