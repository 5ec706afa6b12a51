"""Months that were judged before are not read again: what `features.judge` says of a file, kept by its content.

Where it is kept is the caller's: a folder, the file store, a dictionary.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import MutableMapping, Sequence

import pyarrow as pa

from stemma.maps.features import Judged, judge
from stemma.maps.layers import Layer
from stemma.maps.sources import SourceFile, read
from stemma.maps.versions import CLEANING


def judge_files(layer: Layer, files: Sequence[SourceFile], kept: MutableMapping[str, bytes]) -> list[Judged]:
    """Judge the files of a layer; those that `kept` has are not read, the others are added to it.

    Keys are fingerprints (hexadecimal) of the file and of what the layer says of reading it. What is damaged is read
    anew. Raises what `sources.read` raises.
    """
    frame = _frame(layer)
    judged = []
    for file in files:
        said = [*frame, file.path.name, file.partition, *(part.sha256 for part in file.inputs)]
        key = hashlib.sha256(json.dumps(said).encode()).hexdigest()
        found = _parsed(kept.get(key))
        if found is None:
            found = judge(layer, read(layer, file))
            kept[key] = found.packed()
        judged.append(found)
    return judged


def _frame(layer: Layer) -> list[object]:
    """All that `judge` follows from beside the file: what the layer says of reading it."""
    described = layer.model_dump(
        mode="json", include={"kind", "columns", "attributes", "bounds", "privacy", "incidents"}
    )
    return [CLEANING, described, layer.source.encoding, layer.source.crs]


def _parsed(data: bytes | None) -> Judged | None:
    if data is not None:
        with contextlib.suppress(ValueError, pa.ArrowException):
            return Judged.parse(data)
    return None
