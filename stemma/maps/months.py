"""Months that were judged before are not read again: what `features.judge` says of a file, kept by its content.

Where it is kept is the caller's: a folder, the file store, a dictionary.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import MutableMapping, Sequence
from typing import Final

import pyarrow as pa

from stemma.maps.features import Judged, judge
from stemma.maps.layers import Layer
from stemma.maps.sources import SourceFile, read

VERSION: Final = "1"
"""Changes when the same rows would be judged otherwise."""


def judge_files(layer: Layer, files: Sequence[SourceFile], kept: MutableMapping[str, bytes]) -> list[Judged]:
    """Judge the files of a layer; those that `kept` knows by `key_of` are not read, the others are added to it.

    Raises what `sources.read` raises. What is damaged is read anew.
    """
    judged = []
    for file in files:
        key = key_of(layer, file)
        found = _parsed(kept.get(key))
        if found is None:
            found = judge(layer, read(layer, file))
            kept[key] = found.packed()
        judged.append(found)
    return judged


def key_of(layer: Layer, file: SourceFile) -> str:
    """A fingerprint (hexadecimal) of all that `judge` follows from: the file, and what the layer says of reading it."""
    described = layer.model_dump(
        mode="json", include={"kind", "columns", "attributes", "bounds", "privacy", "incidents"}
    )
    source = [layer.source.encoding, layer.source.crs]
    said = [VERSION, described, source, file.path.name, file.partition, [part.sha256 for part in file.inputs]]
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()


def _parsed(data: bytes | None) -> Judged | None:
    if data is not None:
        with contextlib.suppress(ValueError, pa.ArrowException):
            return Judged.parse(data)
    return None
