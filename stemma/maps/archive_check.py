"""The invariants of a PMTiles archive's header and directories, for archives of any origin (specification v3, §3–4)."""

from __future__ import annotations

import numpy as np

from stemma.maps.findings import Findings
from stemma.maps.grid import zoom_of
from stemma.maps.pmtiles import GZIP, MVT, NONE, ROOT_BYTES, Archive, Directory, Header


def check_header(archive: Archive, findings: Findings) -> None:
    """Sections, types, zooms and bounds."""
    header = archive.header
    for name, end in _section_ends(header).items():
        if end > archive.size:
            message = f"The {name} ends at byte {end:,}; the file has {archive.size:,}."
            findings.add("file_truncated", message)
    if header.root_offset + header.root_length > ROOT_BYTES:
        findings.add("root_misplaced", f"The root directory does not lie in the first {ROOT_BYTES:,} bytes.")
    if header.tile_type != MVT:
        findings.add("tile_type_unknown", f"Tiles of type {header.tile_type} are not checked; 1 (MVT) is.")
    for name, value in (("internal", header.internal_compression), ("tile", header.tile_compression)):
        if value not in (NONE, GZIP):
            findings.add("compression_unknown", f"The {name} compression {value} is not read; none and gzip are.")
    if header.clustered not in (0, 1):
        findings.add("clustered_flag_wrong", f"The clustered flag is {header.clustered}.")
    if header.min_zoom > header.max_zoom:
        findings.add("zooms_wrong", f"The zooms go from {header.min_zoom} to {header.max_zoom}.")
    bounds = header.bounds
    if not (-180 <= bounds.west <= bounds.east <= 180 and -90 <= bounds.south <= bounds.north <= 90):
        findings.add("bounds_wrong", f"The bounds are {bounds.west}, {bounds.south}, {bounds.east}, {bounds.north}.")


def _section_ends(header: Header) -> dict[str, int]:
    return {
        "root directory": header.root_offset + header.root_length,
        "metadata section": header.metadata_offset + header.metadata_length,
        "leaf section": header.leaves_offset + header.leaves_length,
        "tile section": header.data_offset + header.data_length,
    }


def read_entries(archive: Archive, findings: Findings) -> Directory | None:
    """Every entry, or None where the directories cannot be read."""
    try:
        _check_leaves(archive, archive.root(), findings)
        return archive.entries()
    except ValueError as error:
        findings.add("directory_damaged", f"The directories cannot be read. {error}")
        return None


def _check_leaves(archive: Archive, root: Directory, findings: Findings) -> None:
    for place in np.flatnonzero(root.runs == 0).tolist():
        offset, length = int(root.offsets[place]), int(root.lengths[place])
        if offset + length > archive.header.leaves_length:
            findings.add("directory_damaged", f"Leaf directory {place} lies outside the leaf section.")
            continue
        leaf = archive.leaf(offset, length)
        following = int(root.ids[place + 1]) if place + 1 < len(root) else None
        last = int(leaf.ids[-1]) if len(leaf) else 0
        if not len(leaf) or int(leaf.ids[0]) != int(root.ids[place]) or (following is not None and last >= following):
            findings.add("directory_disorder", f"Leaf directory {place} does not begin where the root says.")


def check_entries(header: Header, entries: Directory, findings: Findings) -> None:
    """Order, extent, counts, zooms and the clustered flag."""
    if not len(entries):
        findings.add("archive_empty", "The archive has no tiles.")
        return
    following = entries.ids[:-1] + entries.runs[:-1]
    for place in np.flatnonzero(following > entries.ids[1:]).tolist():
        findings.add("directory_disorder", f"Entry {place + 1} is not after the one before it.")
    for place in np.flatnonzero(entries.lengths <= 0).tolist():
        findings.add("directory_damaged", f"Entry {place} has no bytes.")
    for place in np.flatnonzero(entries.offsets + entries.lengths > header.data_length).tolist():
        findings.add("tile_outside", f"Tile {int(entries.ids[place])} ends after the tile section.")
    _check_counts(header, entries, findings)
    _check_overlaps(entries, findings)
    low, high = zoom_of(int(entries.ids[0])), zoom_of(int(entries.ids[-1] + entries.runs[-1] - 1))
    if (low, high) != (header.min_zoom, header.max_zoom):
        told = f"The header says zoom {header.min_zoom} to {header.max_zoom}; there are tiles from {low} to {high}."
        findings.add("zooms_wrong", told)
    if is_clustered(entries) != bool(header.clustered):
        wrong = "says that tiles lie in the order of their ids; they do not" if header.clustered else "denies the order"
        findings.add("clustered_flag_wrong", f"The clustered flag {wrong}.")


def _check_counts(header: Header, entries: Directory, findings: Findings) -> None:
    counts = (
        ("addressed tiles", header.addressed_tiles, int(entries.runs.sum())),
        ("tile entries", header.tile_entries, len(entries)),
        ("tile contents", header.tile_contents, len(np.unique(entries.offsets))),
    )
    for name, told, found in counts:
        # Zero says that the number is not known (§3.1).
        if told not in (0, found):
            findings.add("count_wrong", f"The header says {told:,} {name}; there are {found:,}.")


def _check_overlaps(entries: Directory, findings: Findings) -> None:
    places = np.unique(np.stack((entries.offsets, entries.lengths), axis=1), axis=0)
    for place in np.flatnonzero(places[:-1].sum(axis=1) > places[1:, 0]).tolist():
        findings.add("tiles_overlap", f"Two contents share the bytes at {int(places[place + 1, 0]):,}.")


def is_clustered(entries: Directory) -> bool:
    """Whether contents lie in the order of ids: each follows the ones before, or is one of them (§3.1)."""
    ends = np.maximum.accumulate(entries.offsets + entries.lengths)
    before = np.concatenate(([0], ends[:-1]))
    return bool((entries.offsets <= before).all())
