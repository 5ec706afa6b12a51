"""`stemma up`, `down` and `doctor`: serving the studio, stopping its database, and examining the machine."""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from importlib.metadata import version
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.text import Text

from cli.output import Json, err, print_json, print_table, say
from cli.session import commit, open_studio
from stemma.errors import CheckFailed, Conflict, StemmaError
from stemma.store.settings import Settings, begin, load_settings

if TYPE_CHECKING:
    from stemma.store.database import DatabaseUrls

_SECONDS_BETWEEN_LOOKS = 1.0


def add_commands(app: typer.Typer) -> None:
    """Register the commands of this module."""
    app.command()(up)
    app.command()(down)
    app.command()(doctor)


def up() -> None:
    """Serve the API, the Dagster UI, sensors and schedules until Ctrl-C; restarts what dies."""
    from cli.services import services
    from resources.instance import fail_interrupted_runs, prepare
    from stemma import processes
    from stemma.access.links import nobody_has_signed_in

    started_at = time.time()
    settings = load_settings()
    processes.require_none(settings.home)
    begin(settings)
    settings, database = open_studio()
    with database:
        urls = database.urls
        first = database.read(nobody_has_signed_in)

    def show(state: processes.ServiceState) -> None:
        where = f" on port {state.port}" if state.port else ""
        why = f": {state.detail}" if state.state == "restarting" else ""
        say(f"  {state.name:<12} {state.state}{where}{why}", console=err)

    def ready() -> None:
        fail_interrupted_runs(settings, urls, before=started_at)
        _record(settings, urls, "studio.started", {"version": version("stemma-studio")})
        say(f"\n  Console     {settings.api_url}")
        say(f"  API schema  {settings.api_url}/openapi.json")
        say(f"  Dagster UI  {settings.api_url}/dagster")
        say(f"  Inbox       {settings.inbox}  (files dropped here become searchable)")
        say(f"  Logs        {settings.home / 'logs'}")
        if first:
            _show_link(settings, urls)
        else:
            say("\n  `stemma sign-in` prints a link that signs a browser in.")
        say("\n  Ctrl-C stops everything.")
        sys.stdout.flush()

    tree = processes.ProcessTree(settings.home, services(settings, prepare(settings, urls)), on_change=show)
    try:
        with _database_kept_up(settings):
            tree.run(ready)
            _record(settings, urls, "studio.stopped", {"seconds": round(time.time() - started_at)})
    finally:
        _stop_database(settings)


def _show_link(settings: Settings, urls: DatabaseUrls) -> None:
    """Let whoever started the studio in, as nobody has been yet."""
    from stemma.access.links import make_link
    from stemma.access.principal import local_principal
    from stemma.store.database import Database

    try:
        with Database(urls) as database:
            link = commit(settings, database, lambda c: make_link(c, local_principal(), settings))
    except StemmaError as error:
        say(f"  A sign-in link could not be made: {error}", console=err)
        return
    say(f"\n  Sign in     {link.url}")
    say("              once, within 15 minutes; `stemma sign-in` prints another one")


def _record(settings: Settings, urls: DatabaseUrls, kind: str, data: Mapping[str, Any]) -> None:
    """Tell the Historian; a studio whose database is away starts and stops all the same."""
    from stemma.access.principal import local_principal
    from stemma.ledger.journal import transition
    from stemma.ledger.service import Ledger

    entry = transition(kind, subject="studio", actor=local_principal().actor, data=data)
    try:
        with Ledger(urls, settings) as ledger:
            ledger.append([entry]).result()
    except StemmaError as error:
        say(f"  {kind} was not recorded: {error}", console=err)


@contextlib.contextmanager
def _database_kept_up(settings: Settings) -> Iterator[None]:
    """Start the embedded server's supervisor again should it be killed; another server is not ours to start."""
    from stemma.store import embedded

    ended = threading.Event()

    def watch() -> None:
        told = ""
        while not ended.wait(_SECONDS_BETWEEN_LOOKS):
            try:
                embedded.ensure_running(settings)
                told = ""
            except StemmaError as error:
                if str(error) != told:
                    told = str(error)
                    say(f"  {'postgres':<12} {told}", console=err)

    watcher = threading.Thread(target=watch, name="postgres-watcher", daemon=True)
    if settings.database_url is None:
        watcher.start()
    try:
        yield
    finally:
        ended.set()
        if watcher.is_alive():
            watcher.join()


def _stop_database(settings: Settings) -> None:
    from stemma.store import embedded

    if settings.database_url is not None:
        return
    try:
        embedded.stop(settings)
    except Conflict as error:
        say(f"  {'postgres':<12} stays up: {error.message}", console=err)


def down(
    force: Annotated[bool, typer.Option("--force", help="Stop it even while another process uses it.")] = False,
    as_json: Json = False,
) -> None:
    """Stop the embedded Postgres now instead of a minute after its last use."""
    from stemma.store import embedded

    stopped = embedded.stop(load_settings(), force=force)
    if as_json:
        print_json({"stopped": stopped})
    else:
        say("Stopped the embedded Postgres." if stopped else "It was not running.")


def doctor(as_json: Json = False) -> None:
    """Examine the machine and say what to mend; exits with 6 when something must be mended."""
    from stemma.doctor import examine

    findings = examine(load_settings())
    if as_json:
        print_json(findings)
    else:
        colour = {"ok": "green", "warn": "yellow", "fail": "red"}
        rows = [(Text(f.level, style=colour[f.level]), f.name, f.what, f.mend) for f in findings]
        print_table("Doctor", ("", "what", "found", "to do"), rows, empty="Nothing was examined.")
    failed = [finding.name for finding in findings if finding.level == "fail"]
    if failed and as_json:
        raise typer.Exit(CheckFailed.exit_code)
    if failed:
        raise CheckFailed("machine_not_ready", f"To mend: {', '.join(failed)}.")
