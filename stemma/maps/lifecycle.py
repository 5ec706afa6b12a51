"""What becomes of a build: the Historian hears of its start and its end, and an archive that holds takes its place."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

from psycopg.types.json import Jsonb

from stemma.errors import Conflict, StemmaError
from stemma.ledger.change import Change
from stemma.ledger.entries import NewEntry
from stemma.ledger.journal import transition
from stemma.ledger.writer import Statement
from stemma.maps.catalog import BuiltArchive, columns
from stemma.maps.registration import subject
from stemma.redaction import redact
from stemma.store.files import FileStore

if TYPE_CHECKING:
    from stemma.maps.cleaning import Cleaned

_REASON: Final = 1000
_JSON: Final = ("vector_layers", "zooms", "ledger", "months")
_RETIRE: Final = "UPDATE map_tiles SET current = false WHERE layer = %(layer)s AND current"
_FORGET: Final = "DELETE FROM map_tiles WHERE layer = %(layer)s AND version < %(version)s - 1"
# Of two builds that saw the same archive, the second would undo what the first made.
_INSERT: Final = """
    INSERT INTO map_tiles (layer, version, current, path, sha256, size, features_path, features_sha256, made_of, bounds,
        min_zoom, max_zoom, vector_layers, zooms, ledger, months, run_id, built_at)
    SELECT %(layer)s, %(version)s, true, %(path)s, %(sha256)s, %(size)s, %(features_path)s, %(features_sha256)s,
        %(made_of)s, %(bounds)s, %(min_zoom)s, %(max_zoom)s, %(vector_layers)s, %(zooms)s, %(ledger)s, %(months)s,
        %(run_id)s, %(built_at)s
    WHERE %(version)s > (SELECT coalesce(max(version), 0) FROM map_tiles WHERE layer = %(layer)s)
"""


def started(layer: str, run_id: str) -> NewEntry:
    """A build has begun."""
    return transition("map.build_started", subject=subject(layer), actor=_actor(run_id), data={"run_id": run_id})


def failed(layer: str, run_id: str, error: BaseException) -> NewEntry:
    """A build has failed; what was served before is served still."""
    code = error.code if isinstance(error, StemmaError) else type(error).__name__
    reason = redact(str(error).encode(errors="replace").decode().replace("\0", "\ufffd")).text[:_REASON]
    data = {"run_id": run_id, "code": code, "reason": reason}
    return transition("map.build_failed", subject=subject(layer), actor=_actor(run_id), data=data)


def activated(archive: BuiltArchive) -> Change[BuiltArchive]:
    """Serve a new archive in place of the current one, which is kept; those before it are forgotten.

    Raises Conflict(layer_built_meanwhile) at its commit where another build came first, and what the database says
    where the layer is gone.
    """
    facts: dict[str, Any] = {
        "run_id": archive.run_id,
        "version": archive.version,
        "sha256": archive.sha256,
        "size": archive.size,
        "features": archive.ledger.released,
        "rows": archive.ledger.rows,
    }
    entry = transition("map.built", subject=subject(archive.layer), actor=_actor(archive.run_id), data=facts)
    row = columns(archive)
    row.update({name: Jsonb(row[name]) for name in _JSON})
    refusal = Conflict(
        "layer_built_meanwhile",
        f"Another build of {archive.layer} came first.",
        field="layer",
        hint="Build it again if its source changed since.",
    )
    statements = (Statement(_RETIRE, row), Statement(_INSERT, row, rows=1, refusal=refusal), Statement(_FORGET, row))
    return Change((entry,), statements, lambda _: archive)


def forget(files: FileStore, gone: Sequence[BuiltArchive], kept: Sequence[BuiltArchive], cleaned: Cleaned) -> None:
    """Delete the files of archives that are forgotten, save those that others are made of too."""
    for key in files_of(gone) - files_of(kept) - {cleaned.features.key}:
        files.delete(key)


def files_of(archives: Sequence[BuiltArchive]) -> set[str]:
    """The keys of what is kept for archives."""
    return {key for archive in archives for key in (archive.path, archive.features_path)}


def _actor(run_id: str) -> str:
    return f"run:{run_id}"
