"""`stemma erase`: what is sealed about a subject, for nobody to open again."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cli.output import Json, err, moment, plain, print_json, say
from stemma.errors import InvalidInput
from stemma.store.settings import load_settings

if TYPE_CHECKING:
    from stemma.personal.erasure import Erasure, Plan


def add_commands(app: typer.Typer) -> None:
    """Register the commands of this module."""
    app.command()(erase)


def erase(
    subject: Annotated[str, typer.Argument(help="The person, by the name under which their data were sealed.")],
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    as_json: Json = False,
) -> None:
    """Destroy the key of a subject's personal data; nobody can undo it."""
    from stemma.access.principal import local_principal
    from stemma.ledger.service import Ledger
    from stemma.personal import erasure
    from stemma.personal.keys import file_in_home
    from stemma.store import migrations
    from stemma.store.backup import archives_with
    from stemma.store.database import Database

    principal = local_principal()
    principal.require("admin:erase")
    settings = load_settings()
    with Database.open(settings) as database:
        migrations.upgrade(database.urls.owner)
        with database.transaction() as connection:
            planned = erasure.plan(connection, settings, subject)
        if not yes and not _confirmed(planned, as_json=as_json):
            say("Nothing was erased.")
            return
        with database.transaction() as connection:
            erasure.destroy_key(connection, settings, planned)
        with Ledger(database.urls, settings) as ledger:
            done = ledger.commit(erasure.erase(principal, planned)).result()
    archives = archives_with(settings.home / "backups", file_in_home(planned.subject))
    if as_json:
        print_json({**plain(done), "archives": archives})
    else:
        _show(done, archives)


def _confirmed(planned: Plan, *, as_json: bool) -> bool:
    if as_json or not sys.stdin.isatty():
        raise InvalidInput(
            "confirmation_missing",
            "Erasing cannot be undone, and there is nobody to ask.",
            field="--yes",
            hint="Say --yes.",
        )
    if planned.key is None:
        return True
    say(f"{planned.subject.reference}: {_counted(planned)}.", console=err)
    say("Their key is destroyed. Nobody can undo this, and nobody can open these fields again.", console=err)
    return typer.confirm("Erase?", err=True)


def _counted(what: Plan | Erasure) -> str:
    fields = ", ".join(f"{on.fields:,} on {on.chain}" for on in what.sealed)
    return f"sealed fields: {fields or 'none'}"


def _show(done: Erasure, archives: tuple[Path, ...]) -> None:
    if done.again:
        say(f"subject/{done.subject} was erased already, at {moment(done.erased_at)}.")
    else:
        say(f"Erased subject/{done.subject}; {_counted(done)}.")
    for archive in archives:
        say(f"{archive} was made before and still holds a key of theirs.")
    if archives:
        say("Make a new backup and delete these, with every copy: whoever has one can open what it holds.")
