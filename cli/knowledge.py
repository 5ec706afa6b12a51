"""`stemma search`, `sources` and `index`: asking the index, and saying what it is made of."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from cli.output import Json, moment, out, print_json, print_table, printable, say
from cli.session import commit, open_studio
from stemma.errors import NotFound
from stemma.knowledge.models import Hit, Source

sources_app = typer.Typer(name="sources", help="Where documents come from.", no_args_is_help=True)
index_app = typer.Typer(name="index", help="Generations of the search index.", no_args_is_help=True)


class Mode(StrEnum):
    """Which legs of the index answer."""

    HYBRID = "hybrid"
    DENSE = "dense"
    LEXICAL = "lexical"


def add_commands(app: typer.Typer) -> None:
    """Register the commands of this module."""
    app.command()(search)
    app.add_typer(sources_app)
    app.add_typer(index_app)


def search(
    query: Annotated[str, typer.Argument(help="What to look for, in plain words.")],
    k: Annotated[int, typer.Option("-k", help="How many hits, 1 to 100.")] = 5,
    source: Annotated[list[str] | None, typer.Option(help="Only this source; may be given more than once.")] = None,
    mode: Annotated[Mode, typer.Option(help="Which legs of the index answer.")] = Mode.HYBRID,
    cursor: Annotated[str | None, typer.Option(help="`next_cursor` of the page before.")] = None,
    as_json: Json = False,
) -> None:
    """Search the knowledge index; every hit quotes its document exactly."""
    from stemma.knowledge.search import Searcher

    settings, database = open_studio()
    with database:
        page = Searcher(database, settings).search(query, k=k, sources=source, mode=mode.value, cursor=cursor)
    if as_json:
        print_json(page)
        return
    if not page.hits:
        say("Nothing was found. Fewer or other words may help; `stemma status` shows what is indexed.")
    for number, hit in enumerate(page.hits, start=1):
        _print_hit(number, hit)
    if page.next_cursor:
        out.print(Text(f"more: --cursor {page.next_cursor}", style="dim"), soft_wrap=True)


def _print_hit(number: int, hit: Hit) -> None:
    where = printable(" › ".join((hit.citation.title, *hit.citation.heading_path)))
    page = f", page {hit.citation.page_first}" if hit.citation.page_first else ""
    out.print(Text(f"{number}. {where}", style="bold"))
    span = f"{hit.citation.start}–{hit.citation.end}"
    place = f"{hit.citation.source} · {hit.citation.uri}{page} · characters {span} · score {hit.score:.3f}"
    out.print(Text(f"   {printable(place)}", style="dim"))
    body = Text(printable(hit.text))
    for start, end in hit.highlights:
        body.stylize("bold yellow", start, end)
    for line in body.split("\n")[:12]:
        out.print(Text("   ") + line)
    out.print()


@sources_app.command("list")
def list_sources(as_json: Json = False) -> None:
    """List the registered sources."""
    from stemma.knowledge import sources

    _, database = open_studio()
    with database, database.snapshot() as connection:
        found = sources.list_sources(connection)
    if as_json:
        print_json(found)
    else:
        rows = [(source.name, source.kind, "\n".join(source.locations)) for source in found]
        print_table("Sources", ("name", "kind", "locations"), rows, empty="No sources.")


@sources_app.command("add")
def add_source(
    name: Annotated[str, typer.Argument(help="Lower-case letters, digits, - and _.")],
    paths: Annotated[list[Path], typer.Argument(help="One folder, or one or more files.")],
    as_json: Json = False,
) -> None:
    """Register a folder, or a list of files, as a source; `stemma materialize '*' -p NAME` reads it."""
    from stemma.access.principal import local_principal
    from stemma.knowledge import sources

    for path in paths:
        if not path.expanduser().exists():
            raise NotFound("path_missing", f"There is no file or folder {path}.", field="PATHS")
    locations = tuple(str(path.expanduser().resolve()) for path in paths)
    kind = "folder" if len(paths) == 1 and Path(locations[0]).is_dir() else "files"
    source = Source(name, kind, locations)
    settings, database = open_studio()
    with database:
        commit(settings, database, lambda connection: sources.register(connection, local_principal(), source))
    if as_json:
        print_json(source)
    else:
        say(f"Added {name}. Read it with: stemma materialize '*' --partition {name}")


@sources_app.command("remove")
def remove_source(name: Annotated[str, typer.Argument(help="The source to forget.")], as_json: Json = False) -> None:
    """Forget a source; its documents leave the index when the index is materialized next."""
    from stemma.access.principal import local_principal
    from stemma.knowledge import sources

    settings, database = open_studio()
    with database:
        commit(settings, database, lambda connection: sources.remove(connection, local_principal(), name))
    if as_json:
        print_json({"removed": name})
    else:
        say(f"Removed {name}. `stemma materialize knowledge/search_index` takes its documents out of the index.")


@index_app.command("list")
def list_generations(as_json: Json = False) -> None:
    """List the index generations that are kept."""
    from stemma.knowledge import generations

    _, database = open_studio()
    with database, database.snapshot() as connection:
        found = generations.list_generations(connection)
    if as_json:
        print_json(found)
    else:
        rows = [(g.id, g.state, g.model_name, g.dimensions, g.chunks, moment(g.created_at)) for g in found]
        print_table(
            "Index generations",
            ("id", "state", "model", "dimensions", "chunks", "created"),
            rows,
            empty="No index yet.",
        )


@index_app.command("rollback")
def rollback(as_json: Json = False) -> None:
    """Serve the previous index generation again; run it once more to come back."""
    from stemma.access.principal import local_principal
    from stemma.knowledge import generations
    from stemma.ledger.service import Ledger

    settings, database = open_studio()
    with database, Ledger(database.urls, settings) as ledger:
        report = generations.rollback(database)
        ledger.append(generations.rolled_back(report, local_principal())).result()
    if as_json:
        print_json(report)
    else:
        say(f"Search answers from generation {report.generation} now.")
