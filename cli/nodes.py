"""`stemma nodes`: where decisions of one sort are made."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from cli.output import Json, moment, print_json, print_table, say
from cli.session import commit, open_studio
from stemma.access.principal import local_principal
from stemma.errors import InvalidInput, NotFound

app = typer.Typer(help="Nodes: where decisions of one sort are made.", no_args_is_help=True)


@app.command("list")
def list_nodes(
    name: Annotated[str | None, typer.Argument(help="All versions of this node; else the newest of each.")] = None,
    as_json: Json = False,
) -> None:
    """List the published nodes, or the versions of one."""
    from stemma.governance.nodes import KIND
    from stemma.registry import catalog

    _, database = open_studio()
    with database:
        page = database.read(
            lambda c: catalog.list_newest(c, KIND) if name is None else catalog.list_versions(c, KIND, name)
        )
    if as_json:
        print_json(page)
        return
    rows = [(v.name, v.version, moment(v.published_at), v.published_by, v.changelog) for v in page.data]
    print_table("Nodes", ("name", "version", "published", "by", "changelog"), rows, empty="No nodes.")


@app.command()
def show(
    reference: Annotated[str, typer.Argument(metavar="REFERENCE", help="name or name@1.2.3.")], as_json: Json = False
) -> None:
    """Show what a reference resolves to."""
    from stemma.governance.nodes import KIND
    from stemma.registry import catalog
    from stemma.registry.references import parse_reference

    _, database = open_studio()
    with database:
        published = database.read(lambda c: catalog.find(c, KIND, parse_reference(reference)))
    if as_json:
        print_json(published)
        return
    say(f"{published.reference}, {moment(published.published_at)} by {published.published_by}: {published.changelog}")
    say(json.dumps(published.content, ensure_ascii=False, indent=2))


@app.command()
def publish(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The node, as YAML.")], as_json: Json = False
) -> None:
    """Publish a version for good; its policy has to be published. From then on it is what decides."""
    from stemma.governance import nodes

    try:
        text = file.read_text("utf-8")
    except FileNotFoundError as error:
        raise NotFound("file_missing", f"There is no file {file}.", field="FILE") from error
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidInput("file_unreadable", f"{file} cannot be read as UTF-8 text.", field="FILE") from error
    settings, database = open_studio()
    with database:
        published = commit(settings, database, lambda c: nodes.publish(c, local_principal(), text))
    if as_json:
        print_json(published)
    else:
        say(f"{published.reference} is published.")
