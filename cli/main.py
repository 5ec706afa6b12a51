"""The entry point: collects the commands and turns errors into one line and an exit code.

Exit codes: 0 done · 1 unexpected error · 2 wrong usage or input · 3 not found · 4 conflict with the present state ·
5 something needed is unavailable · 6 a check failed · 130 interrupted.
"""

from __future__ import annotations

import sys

import typer

from cli import database, graph, knowledge, serve
from cli.output import err, print_error
from stemma.errors import StemmaError

app = typer.Typer(
    name="stemma",
    help="Everything an AI studio produces, as materialized assets with receipts.",
    epilog=(
        "Exit codes: 0 done · 1 unexpected error · 2 wrong usage or input · 3 not found · 4 conflict · "
        "5 unavailable · 6 a check failed · 130 interrupted."
    ),
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
graph.add_commands(app)
knowledge.add_commands(app)
serve.add_commands(app)
app.add_typer(database.app, name="db")


def main() -> None:
    """Run the command line; never shows a traceback for a mistake of its user."""
    try:
        app()
    except StemmaError as error:
        print_error(error, as_json="--json" in sys.argv)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        err.print("interrupted")
        sys.exit(130)
