"""`stemma maps`: build an archive of a layer, and check any archive."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cli.output import Json, print_json, print_table, say
from stemma.errors import CheckFailed

if TYPE_CHECKING:
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


@app.command()
def build(
    layer: Annotated[Path, typer.Argument(help="The layer's YAML file; its source is relative to it.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="The archive to write.")],
    as_json: Json = False,
) -> None:
    """Read, clean and tile a layer, and check the result before it takes the place of the one before."""
    from stemma.maps.layer_build import build_layer

    built = build_layer(layer, output)
    if as_json:
        print_json(built)
        return
    ledger = built.ledger
    rows = [(name, getattr(ledger, name)) for name in ledger.__slots__ if name not in ("partition", "rows")]
    print_table(f"{ledger.rows:,} rows", ("reason", "rows"), rows, empty="")
    say(f"{output}: {built.tiles:,} tiles, {built.size:,} bytes; rejected rows are in {built.quarantine}.")
