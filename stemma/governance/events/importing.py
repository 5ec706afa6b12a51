"""Importing events from a file: each row an event, whose id follows from what it says.

So an import that was interrupted is done again from the start, and records what is missing. Rows that cannot be
recorded are put into a file of their own, with the reason beside each.
"""

from __future__ import annotations

import csv
import hashlib
import json
import re
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime
from decimal import Decimal
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, Final, Self
from uuid import UUID, uuid5

from stemma.access.principal import Principal
from stemma.errors import Conflict, InvalidInput, StemmaError
from stemma.governance.events import recording
from stemma.governance.events.catalog import find_events
from stemma.governance.events.files import Row, Table, open_table
from stemma.governance.events.model import NewEvent
from stemma.governance.events.types import EventType, load
from stemma.ledger.entries import canonical
from stemma.ledger.service import Ledger
from stemma.progress import Progress, ReportProgress
from stemma.store.database import Database
from stemma.store.files import storage_error

_IDS: Final = UUID("c8a3a2b5-4f0e-4b7e-9a55-3f0d4b1e7a10")
_NUMBER: Final = re.compile(r"-?(0|[1-9][0-9]{0,17})(\.[0-9]{1,30})?([eE][-+]?[0-9]{1,3})?")
_TRUTH: Final = {"true": True, "false": False}
_ATTEMPTS: Final = 3


@dataclass(frozen=True, slots=True)
class Columns:
    """Which columns say what: `data` is by member of the data; a member that it does not name has the column of its own
    name. Where `id` names a column, rows with the same value there are the same event; else those that say the same,
    in as many copies as the file has.
    """

    occurred_at: str = "occurred_at"
    entity: str | None = None
    correlation_id: str | None = None
    id: str | None = None
    data: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Imported:
    """What became of a file: rows read, events recorded, events that were there already, rows that were rejected, and
    the columns that were not looked at. `rejected_to` is the file with the rejected rows, where there are any.
    """

    rows: int
    recorded: int
    known: int
    rejected: int
    ignored: tuple[str, ...]
    rejected_to: Path | None


def import_file(
    database: Database,
    ledger: Ledger,
    principal: Principal,
    path: Path,
    *,
    type: str,  # noqa: A002 - what the field is called everywhere
    columns: Columns,
    rejected_to: Path,
    report: ReportProgress = lambda _: None,
) -> Imported:
    """Record the rows of a CSV or Parquet file as events of one type, in batches; reports after each.

    A time without a zone is taken to be in UTC. Raises Forbidden, NotFound, UnsupportedType, InvalidInput for a file,
    a type or columns that cannot be used, Unavailable where the rejected rows cannot be written; what was recorded
    before stays.
    """
    principal.require("decide:write")
    kind = database.read(lambda connection: load(connection, type))
    table = open_table(path)
    reader = _Reader(kind, columns, table)
    counts: Counter[str] = Counter()
    began = time.monotonic()
    with _Rejected(rejected_to, table.columns) as rejected:
        rows = enumerate(table.rows, start=1)
        while batch := list(islice(rows, recording.MAX_EVENTS)):
            events = dict(reader.events(batch, rejected))
            new = _record(database, ledger, principal, kind, events, dict(batch), rejected)
            counts.update(rows=len(batch), recorded=new, passed=len(events))
            report(Progress("import", "rows", counts["rows"], table.total, time.monotonic() - began))
    refused = rejected.count
    return Imported(
        rows=counts["rows"],
        recorded=counts["recorded"],
        known=counts["rows"] - counts["recorded"] - refused,
        rejected=refused,
        ignored=reader.ignored,
        rejected_to=rejected_to if refused else None,
    )


class _Reader:
    """Makes events of rows."""

    def __init__(self, kind: EventType, columns: Columns, table: Table) -> None:
        self._kind = kind
        self._columns = _present(columns, table.columns)
        self._properties: Mapping[str, Any] = kind.schema.get("properties", {})
        self._data = self._members(table.columns)
        self._copies: Counter[bytes] = Counter()
        named = {self._columns.occurred_at, self._columns.entity, self._columns.correlation_id, self._columns.id}
        self.ignored = tuple(name for name in table.columns if name not in {*self._data.values(), *named})

    def events(self, batch: Sequence[tuple[int, Row]], rejected: _Rejected) -> Iterator[tuple[int, NewEvent]]:
        """The events of the rows that are ones, by number of the row."""
        for number, row in batch:
            try:
                event = self._event(row)
                recording.check(event, self._kind)
            except StemmaError as error:
                rejected.write(number, row, error)
            else:
                yield number, event

    def _event(self, row: Row) -> NewEvent:
        columns = self._columns
        event = NewEvent(
            type=self._kind.name,
            data={
                member: _value(row[column], self._properties.get(member))
                for member, column in self._data.items()
                if column in row
            },
            occurred_at=_time(row.get(columns.occurred_at), columns.occurred_at),
            entity=_text(row, columns.entity),
            correlation_id=_text(row, columns.correlation_id),
        )
        return replace(event, id=self._id(event, row))

    def _id(self, event: NewEvent, row: Row) -> UUID:
        if self._columns.id is not None:
            key = _text(row, self._columns.id)
            if key is None:
                raise InvalidInput("row_without_id", "It has no id.", field=self._columns.id)
            return uuid5(_IDS, f"{event.type}\0id\0{key}")
        assert event.occurred_at is not None
        said = [event.occurred_at.isoformat(), event.entity, event.correlation_id, dict(event.data)]
        digest = hashlib.sha256(canonical(said)).digest()
        self._copies[digest] += 1
        return uuid5(_IDS, f"{event.type}\0content\0{digest.hex()}\0{self._copies[digest]}")

    def _members(self, columns: Sequence[str]) -> dict[str, str]:
        """The members of the data, and the column of each."""
        wanted = {name: name for name in self._properties if name in columns} | dict(self._columns.data)
        for member, column in wanted.items():
            if column not in columns:
                raise _missing(column, columns)
            if member not in self._properties and self._kind.schema.get("additionalProperties") is False:
                what = f"{self._kind.name} has no {member!r} in its data."
                raise InvalidInput("column_unknown", what, field="--map")
        for member in self._kind.schema.get("required", ()):
            if member not in wanted:
                what = f"No column says {member!r}, which {self._kind.name} requires."
                raise InvalidInput("column_missing", what, field="--map", hint=f"Write --map {member}=COLUMN.")
        return wanted


def _present(columns: Columns, there: Sequence[str]) -> Columns:
    """The columns as named, where they are not named those of the usual names that are there."""
    for named in (columns.occurred_at, columns.entity, columns.correlation_id, columns.id):
        if named is not None and named not in there:
            raise _missing(named, there)
    return replace(
        columns,
        entity=columns.entity or ("entity" if "entity" in there else None),
        correlation_id=columns.correlation_id or ("correlation_id" if "correlation_id" in there else None),
    )


def _missing(column: str, there: Sequence[str]) -> InvalidInput:
    what = f"There is no column {column!r}."
    hint = f"There are {', '.join(there)[:500]}."
    return InvalidInput("column_missing", what, field="FILE", hint=hint)


def _value(cell: Any, schema: Any) -> Any:
    """The cell as its schema wants it; where it cannot be made that, as it is: the schema says what is wrong."""
    if isinstance(cell, datetime | date):
        return cell.isoformat()
    if isinstance(cell, Decimal):
        return float(cell)
    if not isinstance(cell, str):
        return cell
    wanted = schema.get("type") if isinstance(schema, Mapping) else None
    types = wanted if isinstance(wanted, list) else [wanted]
    if {"number", "integer"} & set(types) and (found := _NUMBER.fullmatch(cell)):
        return int(cell) if found[2] is None and found[3] is None else float(cell)
    if "boolean" in types:
        return _TRUTH.get(cell.lower(), cell)
    if {"object", "array"} & set(types):
        try:
            return json.loads(cell)
        except (ValueError, RecursionError):
            return cell
    return cell


def _time(cell: Any, column: str) -> datetime:
    at = cell
    if isinstance(cell, date) and not isinstance(cell, datetime):
        at = datetime(cell.year, cell.month, cell.day, tzinfo=UTC)
    if isinstance(cell, str):
        try:
            at = datetime.fromisoformat(cell)
        except ValueError:
            at = None
    if not isinstance(at, datetime):
        hint = "Write it as 2026-01-31 or 2026-01-31T12:00:00Z."
        raise InvalidInput("row_time_invalid", "It does not say when it occurred.", field=column, hint=hint)
    return at if at.tzinfo else at.replace(tzinfo=UTC)


def _text(row: Row, column: str | None) -> str | None:
    return str(row[column]) if column is not None and column in row else None


def _record(
    database: Database,
    ledger: Ledger,
    principal: Principal,
    kind: EventType,
    events: Mapping[int, NewEvent],
    rows: Mapping[int, Row],
    rejected: _Rejected,
) -> int:
    """Record those that are not there; gives how many these were."""
    attempts = 0
    while True:
        new, clashing = _sorted_out(database, kind, events)
        try:
            if new:
                change = database.read(partial(recording.record, principal=principal, events=new))
                ledger.commit(change).result()
        except Conflict:
            # Somebody recorded one of them meanwhile.
            attempts += 1
            if attempts == _ATTEMPTS:
                raise
        else:
            for number, event in clashing.items():
                what = f"The event {event.id} is there already, with other content."
                rejected.write(number, rows[number], Conflict("event_id_taken", what, field="id"))
            return len(new)


def _sorted_out(
    database: Database, kind: EventType, events: Mapping[int, NewEvent]
) -> tuple[list[NewEvent], dict[int, NewEvent]]:
    """Those that are not there, each once, and, by number, those whose ids belong to others."""
    there = database.read(lambda connection: find_events(connection, {event.id for event in events.values()}))
    new: dict[UUID, NewEvent] = {}
    clashing: dict[int, NewEvent] = {}
    for number, event in events.items():
        other = there.get(event.id)
        if other is None:
            if new.setdefault(event.id, event) != event:
                clashing[number] = event
        elif other.sha256 != recording.check(event, kind):
            clashing[number] = event
    return list(new.values()), clashing


class _Rejected:
    """The file of rejected rows, which appears whole when the import ends, and only where there are any."""

    def __init__(self, path: Path, columns: Sequence[str]) -> None:
        self.count = 0
        self._path = path
        self._columns = columns

    def __enter__(self) -> Self:
        try:
            self._file = tempfile.NamedTemporaryFile(
                "w", encoding="utf-8", newline="", dir=self._path.parent, prefix=".rejected-", delete=False
            )
        except OSError as error:
            raise storage_error(error) from error
        self._writer = csv.writer(self._file)
        self._writer.writerow(["row", "code", "place", "message", *self._columns])
        return self

    def __exit__(self, *_: object) -> None:
        temporary = Path(self._file.name)
        try:
            self._file.close()
            if self.count:
                temporary.replace(self._path)
        except OSError as error:
            raise storage_error(error) from error
        finally:
            temporary.unlink(missing_ok=True)

    def write(self, number: int, row: Row, why: StemmaError) -> None:
        """Put a row there, with the reason."""
        self.count += 1
        # What UTF-8 cannot say is one of the things that a row is rejected for.
        cells = (str(row.get(name, "")).encode(errors="replace").decode() for name in self._columns)
        self._writer.writerow([number, why.code, why.field or "", why.message, *cells])
