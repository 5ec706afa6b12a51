"""One archive of several: a vector tile is a sequence of layers, so that layers merge by concatenation."""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from itertools import groupby
from operator import itemgetter
from pathlib import Path

from stemma.errors import InvalidInput
from stemma.maps import compression
from stemma.maps.building import Provenance, metadata
from stemma.maps.pmtiles import Archive, ArchiveWriter, Header
from stemma.maps.point_tiles import TILE_BYTES


def merge(path: Path, archives: Sequence[Path], provenance: Provenance, tile_bytes: int = TILE_BYTES) -> Header:
    """Write one archive with the layers of several, in the order given.

    Raises InvalidInput: layer_twice where two have a layer of one name, tile_over_budget where a tile of both together
    is larger than `tile_bytes`.
    """
    with ExitStack() as stack, ArchiveWriter(path) as writer:
        opened = [stack.enter_context(Archive(item)) for item in archives]
        described = [archive.metadata() for archive in opened]
        layers = [item for metadata_of in described for item in metadata_of.get("vector_layers", [])]
        _refuse_twice([str(item["id"]) for item in layers])
        numbered = [_numbered(number, archive) for number, archive in enumerate(opened)]
        for tile_id, group in groupby(heapq.merge(*numbered, key=itemgetter(0, 1)), key=itemgetter(0)):
            parts = [(opened[number], data) for _, number, data in group]
            data = _together(parts)
            if len(data) > tile_bytes:
                raise InvalidInput("tile_over_budget", f"A merged tile has {len(data):,} bytes; {tile_bytes:,} fit.")
            writer.add(tile_id, data)
        bounds = opened[0].header.bounds
        for archive in opened[1:]:
            bounds = bounds.joined(archive.header.bounds)
        declared = [item for of in described for item in (of.get("stemma") or {}).get("layers", [])]
        center = min(archive.header.center_zoom for archive in opened)
        return writer.finish(bounds, center, metadata(provenance, layers, declared))


def _numbered(number: int, archive: Archive) -> Iterator[tuple[int, int, bytes]]:
    return ((tile_id, number, data) for tile_id, data in archive.stored())


def _together(parts: Sequence[tuple[Archive, bytes]]) -> bytes:
    """One tile of several; a single one of ours stays as it is."""
    if len(parts) == 1 and compression.is_gzip(parts[0][1]):
        return parts[0][1]
    return compression.compress(b"".join(archive.content(data) for archive, data in parts))


def _refuse_twice(names: Sequence[str]) -> None:
    for name in names:
        if names.count(name) > 1:
            raise InvalidInput("layer_twice", f"Two archives have a layer {name}.", hint="Rename one of them.")
