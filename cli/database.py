"""`stemma db`: migrating, backing up, restoring and reaching the database."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from cli.output import Json, print_json, say
from stemma.store.settings import load_settings

app = typer.Typer(help="The database: migrate, back up, restore, and its URL.", no_args_is_help=True)


@app.command()
def migrate(as_json: Json = False) -> None:
    """Bring the database to the newest schema."""
    from stemma.store import migrations
    from stemma.store.database import resolve_urls

    before, after = migrations.upgrade(resolve_urls(load_settings()).owner)
    if as_json:
        print_json({"before": before, "after": after})
    else:
        say(f"The schema is at {after}." if before == after else f"Migrated from {before or 'nothing'} to {after}.")


@app.command()
def backup(
    target: Annotated[Path | None, typer.Argument(help="What to write; default: in STEMMA_HOME/backups.")] = None,
    as_json: Json = False,
) -> None:
    """Write both databases and the built files into one archive."""
    from stemma.store import backup as backups

    settings = load_settings()
    stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
    archive = backups.backup(settings, target or settings.home / "backups" / f"stemma-{stamp}.tar")
    if as_json:
        print_json(archive)
    else:
        say(f"Wrote {archive.path} ({archive.size:,} bytes). Restore with: stemma db restore {archive.path}")


@app.command()
def restore(
    archive: Annotated[Path, typer.Argument(help="An archive that `stemma db backup` wrote.")],
    force: Annotated[bool, typer.Option("--force", help="Replace what the databases hold now.")] = False,
    as_json: Json = False,
) -> None:
    """Restore an archive; refuses to replace data unless told to, and keeps the old data when it fails."""
    from stemma.store import backup as backups

    report = backups.restore(load_settings(), archive, force=force)
    if as_json:
        print_json(report)
    else:
        say(f"Restored {archive}.")


@app.command()
def url(as_json: Json = False) -> None:
    """Print the database's URL, password included, for psql and the like."""
    from stemma.store.database import resolve_urls

    urls = resolve_urls(load_settings())
    if as_json:
        print_json(urls)
    else:
        say(urls.app)
