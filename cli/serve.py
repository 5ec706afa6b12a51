"""`stemma up`, `down` and `doctor`: serving the studio, stopping its database, and examining the machine."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator

import typer

from cli.output import Json, err, out, print_json, print_table
from cli.session import open_studio
from stemma.errors import CheckFailed, Conflict, StemmaError
from stemma.store.settings import Settings, load_settings

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
    from stemma.processes import ProcessTree, ServiceState

    started_at = time.time()
    settings, database = open_studio()
    with database:
        urls = database.urls

    def show(state: ServiceState) -> None:
        where = f" on port {state.port}" if state.port else ""
        why = f" [yellow]{state.detail}[/]" if state.detail else ""
        err.print(f"  {state.name:<12} {state.state}{where}{why}")

    def ready() -> None:
        fail_interrupted_runs(settings, urls, before=started_at)
        out.print(f"\n  API         http://127.0.0.1:{settings.api_port}/api/v1/search?q=vector+index")
        out.print(f"  API schema  http://127.0.0.1:{settings.api_port}/openapi.json")
        out.print(f"  Dagster UI  http://127.0.0.1:{settings.webserver_port}/")
        out.print(f"  Inbox       {settings.inbox}  [dim](files dropped here become searchable)[/]")
        out.print(f"  Logs        {settings.home / 'logs'}")
        out.print("\n  Ctrl-C stops everything.")

    tree = ProcessTree(settings.home, services(settings, prepare(settings, urls)), on_change=show)
    try:
        with _database_kept_up(settings):
            tree.run(ready)
    finally:
        _stop_database(settings)


@contextlib.contextmanager
def _database_kept_up(settings: Settings) -> Iterator[None]:
    """Start the embedded server's supervisor again should it be killed; another server is not ours to start."""
    from stemma.store import embedded

    ended = threading.Event()

    def watch() -> None:
        while not ended.wait(_SECONDS_BETWEEN_LOOKS):
            try:
                embedded.ensure_running(settings)
            except StemmaError as error:
                err.print(f"  {'postgres':<12} {error}", markup=False)

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
        err.print(f"  {'postgres':<12} stays up: {error.message}", markup=False)


def down(
    force: bool = typer.Option(False, "--force", help="Stop it even while another process uses it."), as_json: Json = False
) -> None:
    """Stop the embedded Postgres now instead of a minute after its last use."""
    from stemma.store import embedded

    stopped = embedded.stop(load_settings(), force=force)
    if as_json:
        print_json({"stopped": stopped})
    else:
        out.print("Stopped the embedded Postgres." if stopped else "It was not running.")


def doctor(as_json: Json = False) -> None:
    """Examine the machine and say what to mend; exits with 6 when something must be mended."""
    from stemma.doctor import examine

    findings = examine(load_settings())
    if as_json:
        print_json(findings)
    else:
        colour = {"ok": "green", "warn": "yellow", "fail": "red"}
        rows = [(f"[{colour[f.level]}]{f.level}[/]", f.name, f.what, f.mend) for f in findings]
        print_table("Doctor", ("", "what", "found", "to do"), rows, empty="Nothing was examined.")
    failed = [finding.name for finding in findings if finding.level == "fail"]
    if failed:
        raise CheckFailed("machine_not_ready", f"To mend: {', '.join(failed)}.")
