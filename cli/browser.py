"""`stemma browser`: the Chromium that pictures, PDFs and the tests of pages need."""

from __future__ import annotations

from pathlib import Path

import typer

from cli.output import Json, print_json, say
from stemma.browser import find, version
from stemma.store.settings import load_settings

app = typer.Typer(help="The Chromium that pictures, PDFs and the tests of pages need.", no_args_is_help=True)


@app.command()
def status(as_json: Json = False) -> None:
    """Show which Chromium is used; ends with 5 where there is none."""
    _show(find(load_settings()), as_json)


@app.command()
def install(as_json: Json = False) -> None:
    """Find Chromium, or install it: Playwright's download, else Debian's package where we are root."""
    from stemma.browser_install import find_or_install

    _show(find_or_install(load_settings()), as_json)


def _show(path: Path, as_json: bool) -> None:
    told = version(path)
    if as_json:
        print_json({"path": path, "version": told})
    else:
        say(f"{told}: {path}")
