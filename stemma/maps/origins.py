"""Bringing a layer's source to this machine, from wherever it is, and telling cheaply whether it changed.

What the files hold is read in `sources`; URLs are fetched by the one fetcher of `stemma.store.fetch`.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import json
import re
import tempfile
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import Any, Final
from urllib.parse import unquote, urlsplit

from stemma.errors import InvalidInput, NotFound, Unavailable
from stemma.maps.layers import Layer
from stemma.maps.sources import FORMATS, SourceFile, source_files
from stemma.store.fetch import Network, fetch
from stemma.store.settings import Settings

_SUFFIXES: Final = {
    "text/csv": ".csv",
    "application/geo+json": ".geojson",
    "application/json": ".json",
    "application/vnd.apache.parquet": ".parquet",
    "application/zip": ".zip",
}


@contextlib.contextmanager
def opened(
    layer: Layer, folder: Path | None, settings: Settings, *, allow: Sequence[Network] = ()
) -> Iterator[tuple[SourceFile, ...]]:
    """The files of a layer's source, on this machine for as long as the block lasts, by month.

    A path on this machine is relative to `folder`; `allow` is for tests, as that of `fetch`. Raises what `source_files`
    and `fetch` raise; InvalidInput(folder_unknown, package_unknown, store_unsupported), NotFound(source_not_found),
    Unavailable(source_unreachable).
    """
    if layer.source.scheme in ("", "package"):
        yield tuple(source_files(*_local(layer, folder)))
        return
    with tempfile.TemporaryDirectory() as name:
        bring = _bring_object if layer.source.scheme == "s3" else _bring_url
        path = bring(layer.source.path, Path(name), settings, allow)
        yield tuple(source_files(_at(layer, path.name), Path(name)))


def fingerprint(layer: Layer, folder: Path | None) -> str:
    """Words that change when the source does, without reading it; raises as `opened` does.

    Of a file its name, size and time of change, of an object its tag. A URL tells nothing before it is fetched: its
    words are those of the day.
    """
    seen: list[Any]
    if layer.source.scheme in ("http", "https"):
        seen = [datetime.now(UTC).date().isoformat()]
    elif layer.source.scheme == "s3":
        store, place = _store(layer.source.path)
        with _store_errors(layer.source.path):
            seen = [(path, str(store.ukey(path))) for path in _objects(store, place)]
    else:
        parts = [part for file in source_files(*_local(layer, folder)) for part in file.parts]
        seen = [(part.name, part.stat().st_size, part.stat().st_mtime_ns) for part in parts]
    return hashlib.sha256(json.dumps(seen).encode()).hexdigest()[:16]


def _at(layer: Layer, path: str) -> Layer:
    """The same layer with its source at a path on this machine."""
    return layer.model_copy(update={"source": layer.source.model_copy(update={"path": path})})


def _local(layer: Layer, folder: Path | None) -> tuple[Layer, Path]:
    """The layer, and the folder that its source's path is relative to."""
    if layer.source.scheme == "package":
        name, _, path = layer.source.path.removeprefix("package://").partition("/")
        return _at(layer, path), _package_folder(name)
    if folder is None:
        raise InvalidInput(
            "folder_unknown",
            f"Nobody said which folder the source of {layer.id} is relative to.",
            field="source.path",
            hint="Add the layer from its YAML file, which stands in that folder.",
        )
    return layer, folder


def _package_folder(name: str) -> Path:
    # Found without importing it: packages of data bring heavy libraries along.
    spec = importlib.util.find_spec(name) if name.isidentifier() else None
    folders = spec.submodule_search_locations if spec else None
    if not folders:
        raise InvalidInput("package_unknown", f"There is no installed package {name!r}.", field="source.path")
    return Path(folders[0])


def _bring_url(url: str, folder: Path, settings: Settings, allow: Sequence[Network]) -> Path:
    fetched = fetch(url, settings, allow=allow)
    name = re.sub(r"[^\w.-]", "_", PurePosixPath(unquote(urlsplit(url).path)).name)[-100:].lstrip(".") or "source"
    if PurePosixPath(name).suffix.lower() not in (*FORMATS, ".zip"):
        name += _SUFFIXES.get(fetched.content_type.partition(";")[0].strip().lower(), "")
    path = folder / name
    path.write_bytes(fetched.body)
    return path


def _bring_object(location: str, folder: Path, settings: Settings, allow: Sequence[Network]) -> Path:
    """Download an object, or the objects right under a prefix."""
    store, place = _store(location)
    path = folder / PurePosixPath(place).name
    with _store_errors(location):
        found = _objects(store, place)
        if found == [place]:
            store.get_file(place, str(path))
            return path
        path.mkdir()
        for item in found:
            store.get_file(item, str(path / PurePosixPath(item).name))
    return path


def _objects(store: Any, place: str) -> list[str]:
    if store.isfile(place):
        return [place]
    found = sorted(item["name"] for item in store.ls(place, detail=True) if item["type"] == "file")
    if not found:
        raise FileNotFoundError(place)
    return found


def _store(location: str) -> tuple[Any, str]:
    from upath import UPath

    try:
        place = UPath(location.rstrip("/"))
        store = place.fs
    except (ImportError, ValueError) as error:
        raise InvalidInput(
            "store_unsupported",
            f"The store of the source cannot be opened: {error}.",
            field="source.path",
            hint="Install the extra s3: pip install '.[s3]'.",
        ) from error
    # A process that lives long would go on seeing the objects that it saw first.
    store.invalidate_cache()
    return store, place.path


@contextlib.contextmanager
def _store_errors(location: str) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError as error:
        raise NotFound("source_not_found", f"There is no source {location}.", field="source.path") from error
    except Exception as error:
        # What a store's client raises is its own affair; botocore's errors have no base in common with OSError.
        raise Unavailable(
            "source_unreachable",
            f"{location} cannot be read: {type(error).__name__}: {error}",
            field="source.path",
            hint="Check the credentials and the name of the bucket.",
        ) from error
