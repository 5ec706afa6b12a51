"""`stemma maps`: the layers of the studio, building their archives, and checking any archive."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cli.graph import print_outcome
from cli.output import Json, moment, print_json, print_table, say
from cli.session import commit, open_studio
from stemma.access.principal import local_principal
from stemma.errors import CheckFailed

if TYPE_CHECKING:
    from stemma.maps.catalog import BuiltArchive, RegisteredLayer, Visibility
    from stemma.maps.check import Report

app = typer.Typer(help="Map layers and their tiles.", no_args_is_help=True)


@app.command("check")
def check_archive(
    file: Annotated[Path, typer.Argument(help="A PMTiles archive of vector tiles, ours or anybody's.")],
    sample: Annotated[int | None, typer.Option(min=1, help="Decode at most so many tiles.")] = None,
    tile_bytes: Annotated[int, typer.Option(min=1, help="The most that a stored tile may have.")] = 500_000,
    as_json: Json = False,
) -> None:
    """Check an archive: header, directories, every tile, what each zoom keeps; ends with 6 when something is wrong."""
    from stemma.maps.check import check

    report = check(file, tile_bytes=tile_bytes, sample=sample)
    if as_json:
        print_json(report)
    else:
        _show(report)
    if not report.clean and as_json:
        raise typer.Exit(CheckFailed.exit_code)
    if not report.clean:
        count = len(report.problems) + report.omitted
        raise CheckFailed("archive_unsound", f"{report.file} does not hold what it should: {count:,} problems.")


def _show(report: Report) -> None:
    rows = [(f.zoom, f.layer, f.features, f.retained, f.aggregated, f.lost) for f in report.layers]
    columns = ("zoom", "layer", "features", "retained", "aggregated", "lost")
    print_table(report.file, columns, rows, empty="There are no layers.")
    for problem in report.problems:
        say(f"{problem.code}: {problem.message}")
    if report.omitted:
        say(f"… and {report.omitted:,} more.")
    read = "all" if report.read == report.tiles else f"a sample of {report.read:,}"
    say(f"{report.tiles:,} tiles, {read} decoded, the largest of {report.largest:,} bytes.")


@app.command("layers")
def list_layers(as_json: Json = False) -> None:
    """Show the map layers of this studio, and what is served of each."""
    from stemma.maps import catalog

    _, database = open_studio()
    with database, database.snapshot() as connection:
        layers, archives = catalog.list_layers(connection), catalog.current_archives(connection)
    if as_json:
        print_json([{"layer": layer, "archive": archives.get(layer.id)} for layer in layers])
        return
    print_table(
        "Map layers",
        ("layer", "kind", "visible to", "features", "zooms", "bytes", "built"),
        [_row(layer, archives.get(layer.id)) for layer in layers],
        empty="No map layers. `stemma maps add LAYER.yaml` adds one.",
    )


def _row(registered: RegisteredLayer, archive: BuiltArchive | None) -> tuple[object, ...]:
    layer = registered.layer
    said = (layer.id, layer.kind, registered.visibility)
    if archive is None:
        return (*said, "", "", "", "not yet")
    zooms = f"{archive.min_zoom}–{archive.max_zoom}"
    return (*said, f"{archive.ledger.released:,}", zooms, f"{archive.size:,}", moment(archive.built_at))


@app.command()
def add(
    layer: Annotated[Path, typer.Argument(help="The layer's YAML file; a source on this machine is relative to it.")],
    members: Annotated[
        bool, typer.Option("--members", help="Hide it from viewers, who would see it otherwise.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Add a map layer, or describe one anew; `stemma maps build` then builds it, as a running studio does by itself."""
    from stemma.maps import origins
    from stemma.maps.layers import load_layer
    from stemma.maps.registration import register

    described, folder = load_layer(layer), layer.expanduser().resolve().parent
    # Who adds a layer is there to mend its source; who builds it later is not.
    origins.fingerprint(described, folder)
    visibility: Visibility = "members" if members else "everyone"
    settings, database = open_studio()
    with database:
        added = commit(
            settings,
            database,
            lambda connection: register(connection, local_principal(), described, folder=folder, visibility=visibility),
        )
    if as_json:
        print_json(added)
    else:
        say(f"{added.id} is a layer of {added.layer.kind}. `stemma maps build {added.id}` builds it.")


@app.command()
def build(
    layer: Annotated[str, typer.Argument(help="A layer's id or, with --output, any layer's YAML file.")],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Write the archive to this file, apart from the studio.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Read, clean and tile a layer, and check the result before it takes the place of the one before."""
    if output is not None:
        _build_file(Path(layer), output, as_json=as_json)
        return
    from cli import execution
    from stemma.maps import catalog

    settings, database = open_studio()
    with database:
        with database.snapshot() as connection:
            catalog.find_layer(connection, layer)
        outcome = execution.materialize(settings, database, '+key:"maps/tiles"', layer)
    if as_json:
        print_json(outcome)
    else:
        print_outcome(outcome)


def _build_file(layer: Path, output: Path, *, as_json: bool) -> None:
    from stemma.maps.layer_build import build_layer
    from stemma.store.settings import load_settings

    built = build_layer(layer, output, load_settings())
    if as_json:
        print_json(built)
        return
    ledger = built.ledger
    rows = [(name, getattr(ledger, name)) for name in ledger.__slots__ if name not in ("partition", "rows")]
    print_table(f"{ledger.rows:,} rows", ("reason", "rows"), rows, empty="")
    say(f"{output}: {built.tiles:,} tiles, {built.size:,} bytes; rejected rows are in {built.quarantine}.")
