"""Writing a run's events while it goes, in batches, each of which wakes whoever follows the run.

The process that holds the run is the only one that writes. What is more than the artifacts may hold is dropped here.
"""

from __future__ import annotations

import json
import logging
import queue
import threading
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any, Final, Self
from uuid import UUID

import psycopg
from psycopg.types.json import Json

from stemma.errors import StemmaError, Unavailable
from stemma.papers.runs.model import ARTIFACT_BYTES, CHANNEL
from stemma.store.database import Connection, Database

logger = logging.getLogger(__name__)

_BATCH: Final = 500
_PATIENCE: Final = 30.0
# What counts most comes last: a flood of lines leaves room for it.
_FOR_LINES: Final = ARTIFACT_BYTES * 9 // 10
_FOR_ALL: Final = ARTIFACT_BYTES - 64_000
_LINES: Final = frozenset({"log_line", "token", "sample_pred"})
_TRUNCATED: Final = "warning: E_ARTIFACT_TOO_LARGE (truncated): what came after is not kept."
# A batch is one value: half of what an array for each column costs here.
_ADD: Final = """
    INSERT INTO p2n.run_events (id, run_id, seq, type, ts, payload)
    SELECT gen_random_uuid(), %s, seq, type, ts, payload
    FROM json_to_recordset(%s) AS event (seq bigint, type text, ts timestamptz, payload jsonb)
"""
_ADD_POINTS: Final = """
    INSERT INTO p2n.run_series (id, run_id, ts, metric, split, value, step)
    SELECT gen_random_uuid(), %s, ts, metric, split, value, step
    FROM json_to_recordset(%s) AS point (ts timestamptz, metric text, split text, value float8, step bigint)
"""


@dataclass(frozen=True, slots=True)
class _Point:
    metric: str
    split: str
    value: float
    step: int


@dataclass(frozen=True, slots=True)
class _Event:
    seq: int
    type: str
    ts: datetime
    payload: Any
    point: _Point | None


class Recorder:
    """Takes events from one thread and writes them in another; leaving the block waits until all are written."""

    def __init__(self, database: Database, run_id: UUID) -> None:
        self._database = database
        self._run_id = run_id
        self._waiting: queue.SimpleQueue[_Event | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._write_all, name="run-events", daemon=True)
        self._seq = 0
        self._step = 0
        self._bytes = 0
        self._seen: set[tuple[str, str, str, float]] = set()
        self.truncated = False
        self._failure: Exception | None = None

    def __enter__(self) -> Self:
        (last,) = self._database.read(_last_seq(self._run_id))
        self._seq = last
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._waiting.put(None)
        self._thread.join()

    def tell(self, kind: str, payload: Any) -> None:
        """Add an event; a point that is there already is dropped, and what there is no more room for."""
        now = datetime.now(UTC)
        point = None
        if kind == "metric_update":
            payload = {"ts": now.isoformat(timespec="microseconds"), **payload}
            identity = (str(payload["ts"]), payload["metric"], payload["split"], payload["value"])
            if identity in self._seen:
                return
            self._seen.add(identity)
        size = len(json.dumps(payload, ensure_ascii=False).encode()) + 120
        if self._bytes + size > (_FOR_LINES if kind in _LINES else _FOR_ALL):
            self._truncate(now)
            return
        if kind == "metric_update":
            self._step += 1
            point = _Point(payload["metric"], payload["split"], payload["value"], self._step)
        self._add(kind, now, payload, size, point)

    @property
    def failure(self) -> Exception | None:
        """Why events could not be written, where they could not."""
        return self._failure

    def _truncate(self, now: datetime) -> None:
        if not self.truncated:
            self.truncated = True
            self._add("log_line", now, _TRUNCATED, 0, None)

    def _add(self, kind: str, now: datetime, payload: Any, size: int, point: _Point | None) -> None:
        self._seq += 1
        self._bytes += size
        self._waiting.put(_Event(self._seq, kind, now, payload, point))

    def _write_all(self) -> None:
        while (first := self._waiting.get()) is not None:
            batch, ended = [first], False
            while len(batch) < _BATCH and not self._waiting.empty():
                following = self._waiting.get()
                if following is None:
                    ended = True
                    break
                batch.append(following)
            try:
                self._write(batch)
            except (StemmaError, psycopg.Error) as error:
                logger.warning("events of run %s were not written: %s", self._run_id, error)
                self._failure = error
                return
            if ended:
                return

    def _write(self, batch: Sequence[_Event]) -> None:
        try:
            self._insert(batch)
        except psycopg.OperationalError:
            # The server restarts; the pool waits for it. What was committed unanswered is not written twice.
            with self._database.transaction(timeout=_PATIENCE) as connection:
                (last,) = _last_seq(self._run_id)(connection)
            self._insert([event for event in batch if event.seq > last])

    def _insert(self, batch: Sequence[_Event]) -> None:
        if not batch:
            return
        events = [{"seq": e.seq, "type": e.type, "ts": e.ts.isoformat(), "payload": e.payload} for e in batch]
        points = [{"ts": e.ts.isoformat(), **asdict(e.point)} for e in batch if e.point is not None]
        try:
            with self._database.transaction() as connection:
                connection.execute(_ADD, (self._run_id, Json(events)))
                if points:
                    connection.execute(_ADD_POINTS, (self._run_id, Json(points)))
                connection.execute("SELECT pg_notify(%s, %s)", (CHANNEL, str(self._run_id)))
        except Unavailable as error:
            raise psycopg.OperationalError(str(error)) from error


def _last_seq(run_id: UUID) -> Any:
    def read(connection: Connection) -> tuple[int]:
        row = connection.execute("SELECT coalesce(max(seq), 0) FROM p2n.run_events WHERE run_id = %s", (run_id,))
        (last,) = row.fetchone() or (0,)
        return (int(last),)

    return read
