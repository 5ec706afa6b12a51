"""Files become events once, however often they are imported; what cannot is put aside with its reason."""

from __future__ import annotations

import csv
from collections.abc import Callable
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import parquet

from stemma.access.principal import local_principal
from stemma.errors import InvalidInput, NotFound, StemmaError, UnsupportedType
from stemma.governance.events import importing, recording, types
from stemma.governance.events.catalog import list_events
from stemma.governance.events.importing import Columns, Imported
from stemma.ledger.change import Change
from stemma.ledger.service import Ledger
from stemma.progress import Progress
from stemma.store.database import Database
from stemma.store.settings import Settings

Import = Callable[..., Imported]


@pytest.fixture
def importer(
    settings: Settings, database: Database, commit: Callable[[Change[Any]], Any], asked_type: str, tmp_path: Path
) -> Import:
    commit(database.read(lambda c: types.publish(c, local_principal(), asked_type)))

    def run(path: Path, columns: Columns | None = None, **more: Any) -> Imported:
        wanted = {"type": "Asked", "columns": columns or Columns(), "rejected_to": tmp_path / "rejected.csv", **more}
        with Ledger(database.urls, settings) as ledger:
            return importing.import_file(database, ledger, local_principal(), path, **wanted)

    return run


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    def write(*lines: str, name: str = "events.csv") -> Path:
        path = tmp_path / name
        path.write_text("\n".join(lines) + "\n", "utf-8")
        return path

    return write


def amounts(database: Database) -> list[Any]:
    return [event.data["amount"] for event in database.read(lambda c: list_events(c, limit=200)).data]


def test_a_file_is_imported_once(database: Database, importer: Import, write: Any) -> None:
    lines = ["occurred_at,entity,amount,note,other", "2025-03-01,acme,1.5,,x", "2025-03-01T12:00:00+02:00,,2,hi,y"]
    path = write(*lines, *["2025-03-02T00:00:00Z,acme,3,same,z"] * 2)
    told: list[Progress] = []
    imported = importer(path, report=told.append)
    assert imported == Imported(4, 4, 0, 0, ("other",), None)
    assert [progress.done for progress in told] == [4]
    first, second, third, fourth = reversed(database.read(list_events).data)
    assert (first.data, first.entity) == ({"amount": 1.5}, "acme") and second.entity is None
    assert first.occurred_at == datetime(2025, 3, 1, tzinfo=UTC) and second.occurred_at.hour == 10
    assert third.data == fourth.data and third.id != fourth.id
    again = importer(path)
    assert (again.recorded, again.known) == (0, 4)
    grown = importer(write(*lines, *["2025-03-02T00:00:00Z,acme,3,same,z"] * 3, name="grown.csv"))
    assert (grown.recorded, grown.known) == (1, 4)


def test_an_import_that_was_interrupted_goes_on(
    database: Database, importer: Import, write: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write("occurred_at,amount", *(f"2025-03-01,{n}" for n in range(25)))
    monkeypatch.setattr(recording, "MAX_EVENTS", 10)

    def stop(progress: Progress) -> None:
        if progress.done == 20:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        importer(path, report=stop)
    assert len(amounts(database)) == 20
    assert (imported := importer(path)).recorded == 5 and imported.known == 20
    assert sorted(amounts(database)) == list(range(25))
    assert [entry.name for entry in path.parent.glob(".rejected*")] == []


def test_rows_that_cannot_be_events_are_put_aside(database: Database, importer: Import, write: Any) -> None:
    path = write(
        "occurred_at,entity,amount,note",
        "2025-03-01,a,1,", "yesterday,a,2,", ",a,3,", "2025-03-01,a,four,", "2025-03-01,a,,", "9999-03-01,a,5,",
        f"2025-03-01,{'x' * 300},6,", "2025-03-01,a,7,with\0nul", "2025-03-01,a,1e300,", "2025-03-01,a,NaN,",
        "2025-03-01,a,8", "",
    )  # fmt: skip
    imported = importer(path)
    assert (imported.rows, imported.recorded, imported.rejected) == (11, 2, 9)
    assert sorted(amounts(database)) == [1, 8]
    assert imported.rejected_to is not None
    assert imported.rejected_to.stat().st_mode & 0o777 == 0o600
    with imported.rejected_to.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["row"], row["code"], row["place"]) for row in rows] == [
        ("2", "row_time_invalid", "occurred_at"), ("3", "row_time_invalid", "occurred_at"),
        ("4", "event_data_invalid", "/data/amount"), ("5", "event_data_invalid", "/data"),
        ("6", "event_time_invalid", "/occurred_at"), ("7", "event_name_invalid", "/entity"),
        ("8", "event_data_invalid", "/data/note"), ("9", "event_data_invalid", "/data/amount"),
        ("10", "event_data_invalid", "/data/amount"),
    ]  # fmt: skip
    assert rows[0]["amount"] == "2"


def test_rows_with_an_id_are_told_apart_by_it(database: Database, importer: Import, write: Any) -> None:
    columns = Columns("when", id="no", data={"amount": "Amount asked"})
    path = write("no,when,Amount asked", "1,2025-03-01,1", "2,2025-03-01,2", "1,2025-03-01,1", "2,2025-03-01,9")
    imported = importer(path, columns)
    assert (imported.recorded, imported.known, imported.rejected) == (2, 1, 1)
    imported = importer(write("no,when,Amount asked", "2,2025-03-01,3", ",2025-03-01,4"), columns)
    assert (imported.recorded, imported.rejected) == (0, 2)
    assert sorted(amounts(database)) == [1, 2]


def test_somebody_who_imports_at_the_same_time_does_no_harm(
    settings: Settings, database: Database, importer: Import, write: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write("occurred_at,amount", "2025-03-01,1", "2025-03-01,2")
    meanwhile = iter([lambda: importer(path)])
    commit = Ledger.commit

    def late(ledger: Ledger, change: Any, *also: Any) -> Any:
        for other in meanwhile:
            other()
        return commit(ledger, change, *also)

    monkeypatch.setattr(Ledger, "commit", late)
    assert importer(path).known == 2
    assert sorted(amounts(database)) == [1, 2]


def test_parquet_is_read_by_its_types(database: Database, importer: Import, tmp_path: Path) -> None:
    path = tmp_path / "events.parquet"
    at = datetime(2025, 3, 1, 8)
    columns = {
        "occurred_at": [at, at], "amount": [Decimal("1.25"), None], "note": ["a", "b"], "more": [[1, 2], [3]],
    }  # fmt: skip
    parquet.write_table(pa.table(columns), path)
    imported = importer(path)
    assert (imported.recorded, imported.rejected) == (1, 1)
    (event,) = database.read(list_events).data
    assert event.data == {"amount": 1.25, "note": "a", "more": [1, 2]} and event.occurred_at == at.replace(tzinfo=UTC)


@pytest.mark.parametrize(
    ("content", "columns", "error"),
    [
        (b"", Columns(), InvalidInput),
        (b"occurred_at,occurred_at\n", Columns(), InvalidInput),
        (b"when,amount\n2025-03-01,1\n", Columns(), InvalidInput),
        (b"occurred_at,other\n2025-03-01,1\n", Columns(), InvalidInput),
        (b"occurred_at,amount\n2025-03-01,1\n", Columns(data={"unknown": "amount"}), InvalidInput),
        (b"occurred_at,amount\n2025-03-01,1\n", Columns(entity="nobody"), InvalidInput),
        (b"occurred_at,amount\n2025-03-01,1,2,3\n", Columns(), InvalidInput),
        (b'occurred_at,amount\n2025-03-01,"1\n', Columns(), InvalidInput),
        (b"occurred_at,amount\n2025-03-01,\xff\n", Columns(), InvalidInput),
    ],
)
def test_a_file_that_cannot_be_used_is_refused(
    importer: Import, tmp_path: Path, content: bytes, columns: Columns, error: type[StemmaError]
) -> None:
    path = tmp_path / "events.csv"
    path.write_bytes(content)
    with pytest.raises(error):
        importer(path, columns)


def test_only_files_that_are_there_and_of_a_known_kind_are_read(importer: Import, tmp_path: Path) -> None:
    with pytest.raises(NotFound):
        importer(tmp_path / "nothing.csv")
    (tmp_path / "events.xlsx").touch()
    with pytest.raises(UnsupportedType):
        importer(tmp_path / "events.xlsx")
    (tmp_path / "events.parquet").write_bytes(b"PAR1 it is not")
    with pytest.raises(InvalidInput):
        importer(tmp_path / "events.parquet")
    with pytest.raises(InvalidInput, match="no event type"):
        importer(tmp_path / "events.csv", type="Nothing")
