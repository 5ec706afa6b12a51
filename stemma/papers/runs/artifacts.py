"""The files that a run leaves under `runs/{run_id}/`: its log, its events, what it measured, its notebook and its lock.

The first three are made of what the database has, also of a run whose process was killed.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any, Final
from uuid import UUID

from stemma.papers.runs.catalog import list_events
from stemma.papers.runs.model import ARTIFACT_BYTES, Artifact, Measured, RunEvent
from stemma.store.database import Connection
from stemma.store.files import FileStore

NAMES: Final = ("metrics.json", "events.jsonl", "logs.txt", "notebook.ipynb", "environment.json")

_AT_ONCE: Final = 2_000


def folder(run_id: UUID) -> str:
    """Where the files of a run are in the file store."""
    return f"runs/{run_id}"


def write_told(
    files: FileStore, connection: Connection, run_id: UUID, measured: Sequence[Measured], last: dict[str, Any]
) -> None:
    """Write log, events and metrics; `last` is the event that the run is about to end with."""
    lines: list[str] = []
    events: list[str] = []
    for event in _events(connection, run_id):
        events.append(_document(event))
        if event.type in ("log_line", "token"):
            lines.append(event.payload)
    events.append(json.dumps({"type": "stage_update", **last}))
    metrics = [entry.document() for entry in measured]
    _write(files, run_id, "logs.txt", "".join(f"{line}\n" for line in lines))
    _write(files, run_id, "events.jsonl", "".join(f"{event}\n" for event in events))
    _write(files, run_id, "metrics.json", json.dumps({"run_id": str(run_id), "metrics": metrics}, indent=1))


def write_made(files: FileStore, run_id: UUID, notebook: str, lock: dict[str, Any]) -> None:
    """Write the executed notebook and the environment that it was executed in."""
    files.write(f"{folder(run_id)}/notebook.ipynb", notebook.encode())
    files.write(f"{folder(run_id)}/environment.json", json.dumps(lock, indent=1).encode())


def list_artifacts(files: FileStore, run_id: UUID) -> tuple[Artifact, ...]:
    """The files of a run; none before it has ended."""
    found = {file.key.rpartition("/")[2]: file for file in files.list(folder(run_id))}
    return tuple(
        Artifact(name, found[name].key, found[name].size, found[name].size >= ARTIFACT_BYTES * 9 // 10 - 8_000)
        for name in NAMES
        if name in found
    )


def _write(files: FileStore, run_id: UUID, name: str, text: str) -> None:
    data = text.encode()
    if len(data) > ARTIFACT_BYTES:
        data = data[: data.rfind(b"\n", 0, ARTIFACT_BYTES) + 1]
    files.write(f"{folder(run_id)}/{name}", data)


def _events(connection: Connection, run_id: UUID) -> Iterator[RunEvent]:
    after = 0
    while found := list_events(connection, run_id, after, limit=_AT_ONCE):
        yield from found
        after = found[-1].seq


def _document(event: RunEvent) -> str:
    payload = event.payload if isinstance(event.payload, dict) else {"text": event.payload}
    return json.dumps({"type": event.type, "ts": event.ts.isoformat(), **payload}, ensure_ascii=False)
