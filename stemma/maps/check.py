"""The check of a whole archive, ours or anybody's: what holds, what does not, and what each zoom shows.

It shares no code with the encoders. The parts are `archive_check` (header and directories), `tile_check` (one tile) and
`continuity` (across tiles).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from stemma.maps import compression
from stemma.maps.archive_check import check_entries, check_header, read_entries
from stemma.maps.continuity import Complete, Continuity, Level
from stemma.maps.findings import Findings, Problem
from stemma.maps.grid import first_tile_id
from stemma.maps.part_memory import PartMemory
from stemma.maps.pmtiles import CONTENT_LIMIT, Archive, Directory
from stemma.maps.point_tiles import TILE_BYTES
from stemma.maps.tile_check import Declared, Shown, TileChecker, TileName


@dataclass(frozen=True, slots=True)
class LayerFigures:
    """What a zoom shows of a layer: `retained` distinct features, `aggregated` ones in counts, and how many are `lost`.

    Without a declaration in the metadata, features are lost compared with the last zoom. None where only a sample of
    the tiles was read.
    """

    zoom: int
    layer: str
    features: int
    retained: int
    aggregated: int
    lost: int | None


@dataclass(frozen=True, slots=True)
class Report:
    """The result; sizes in bytes. `read` of `tiles` were decoded; `largest` is the largest stored tile."""

    file: str
    clean: bool
    tiles: int
    read: int
    largest: int
    layers: tuple[LayerFigures, ...]
    problems: tuple[Problem, ...]
    omitted: int


def check(
    path: Path, *, tile_bytes: int = TILE_BYTES, sample: int | None = None, memory: PartMemory | None = None
) -> Report:
    """Check an archive; `tile_bytes` is the budget of a stored tile, `sample` how many tiles to decode at most.

    With a sample, every n-th tile is read and what holds across tiles is not looked at. What `memory` has is not
    decoded again, but checked as the rest is. Raises NotFound, and InvalidInput(archive_invalid) for what is no
    PMTiles v3 archive at all.
    """
    findings = Findings()
    with Archive(path) as archive:
        check_header(archive, findings)
        entries = read_entries(archive, findings)
        if entries is None:
            return Report(path.name, False, 0, 0, 0, (), findings.problems, findings.omitted)
        check_entries(archive.header, entries, findings)
        for place in np.flatnonzero(entries.lengths > tile_bytes).tolist():
            told = f"Tile {TileName(int(entries.ids[place]))} has {int(entries.lengths[place]):,} bytes."
            findings.add("tile_over_budget", told)
        total = int(entries.runs.sum())
        step = max(1, -(-total // sample)) if sample else 1
        checked = _Checked(archive, entries, findings, step, memory)
        figures = checked.run()
    largest = int(entries.lengths.max()) if len(entries) else 0
    problems = findings.problems
    return Report(path.name, not problems, total, checked.read, largest, figures, problems, findings.omitted)


class _Checked:
    """The tiles of an archive, zoom by zoom from the last, so that memory holds two zooms at most."""

    def __init__(
        self, archive: Archive, entries: Directory, findings: Findings, step: int, memory: PartMemory | None
    ) -> None:
        self._archive = archive
        self._entries = entries
        self._findings = findings
        self._step = step
        self._memory = memory
        self.read = 0
        declared, complete = _described(archive, findings)
        self._complete = {item.layer: item for item in complete}
        self._cells = frozenset(item.cells for item in complete)
        self._tiles = TileChecker(declared, self._cells, findings)
        self._retained: dict[str, int] = {}

    def run(self) -> tuple[LayerFigures, ...]:
        continuity = Continuity(self._complete, self._findings)
        figures: list[LayerFigures] = []
        zooms = range(self._archive.header.min_zoom, min(self._archive.header.max_zoom, 30) + 1)
        for zoom in reversed(zooms):
            level = Level(zoom)
            for tile_id, shown in self._shown(zoom):
                level.add(tile_id, shown)
            if self._step == 1:
                continuity.compare(level, self._cells)
            figures += self._figures(level)
        return tuple(reversed(figures))

    def _shown(self, zoom: int) -> Iterator[tuple[int, Shown]]:
        entries = self._entries
        start, end = first_tile_id(zoom), first_tile_id(zoom + 1)
        for place in np.flatnonzero((entries.ids < end) & (entries.ids + entries.runs > start)).tolist():
            first = max(int(entries.ids[place]), start)
            last = min(int(entries.ids[place] + entries.runs[place]), end)
            wanted = range(first + -first % self._step, last, self._step)
            if not wanted:
                continue
            shown = self._tile(wanted[0], int(entries.offsets[place]), int(entries.lengths[place]))
            self.read += len(wanted)
            yield from ((tile_id, item) for tile_id in wanted for item in shown)

    def _tile(self, tile_id: int, offset: int, length: int) -> list[Shown]:
        data = self._archive.span(self._archive.header.data_offset + offset, length)
        known = self._memory.recall(data) if self._memory is not None else None
        if known is not None:
            return self._tiles.look(tile_id, known)
        content = self._content(data, length, TileName(tile_id))
        if content is None:
            return []
        if self._memory is None:
            return self._tiles.check(tile_id, content)
        return self._tiles.check(tile_id, content, partial(self._memory.decode, stored=data))

    def _content(self, data: bytes, length: int, name: TileName) -> bytes | None:
        if len(data) < length:
            self._findings.add("tile_missing", f"Tile {name} lies outside the file.")
            return None
        try:
            return self._archive.content(data)
        except compression.TooLong:
            self._findings.add("tile_over_budget", f"Tile {name} unpacks to more than {CONTENT_LIMIT:,} bytes.")
        except ValueError as error:
            self._findings.add("tile_damaged", f"Tile {name}: {error}")
        return None

    def _figures(self, level: Level) -> Iterator[LayerFigures]:
        """The figures of the zoom by layer, counts beside the layer that they count."""
        for layer in sorted((level.identities.keys() | self._complete.keys()) - self._cells):
            complete = self._complete.get(layer)
            retained = len(level.seen(layer).identities)
            counted = level.counted.get(complete.cells, 0) if complete else 0
            expected = complete.features if complete else self._retained.setdefault(layer, retained)
            lost = expected - retained - counted if self._step == 1 else None
            yield LayerFigures(level.zoom, layer, level.features(layer), retained, counted, lost)


def _described(archive: Archive, findings: Findings) -> tuple[dict[str, Declared], list[Complete]]:
    """The layers that the metadata name, and those of them that are declared complete."""
    try:
        metadata = archive.metadata()
        declared = {str(item["id"]): _declared(item, archive) for item in metadata.get("vector_layers", [])}
        complete = [Complete.parse(item) for item in (metadata.get("stemma") or {}).get("layers", [])]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        findings.add("metadata_damaged", f"The metadata cannot be read: {error}.")
        return {}, []
    if not declared:
        findings.add("metadata_damaged", "The metadata do not name the vector layers.")
    return declared, complete


def _declared(item: dict[str, Any], archive: Archive) -> Declared:
    low, high = archive.header.min_zoom, archive.header.max_zoom
    return Declared(dict(item["fields"]), int(item.get("minzoom", low)), int(item.get("maxzoom", high)))
