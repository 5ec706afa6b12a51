"""The features of entities as Parquet files, one for each node and month: for whoever reads them without the database.

A row is a day of an entity, with a column for each part of each feature, such as `mean_discount.sum`. Numbers are
doubles here; the exact ones are in the table.
"""

from __future__ import annotations

import io
import json
from calendar import monthrange
from collections import defaultdict
from collections.abc import Collection
from datetime import date
from typing import Any

from stemma.governance.memory.inputs import Key, Span
from stemma.store.database import Database
from stemma.store.files import FileStore


def export(database: Database, store: FileStore, made: Collection[Key]) -> dict[Key, str]:
    """Write the months of the days that were made anew; returns the file of each of them."""
    months: dict[tuple[str, date], list[Key]] = defaultdict(list)
    for node, day in made:
        months[node, day.replace(day=1)].append((node, day))
    files: dict[Key, str] = {}
    for (node, first), keys in sorted(months.items()):
        name = f"governance/entity_features/{node}/{first:%Y-%m}.parquet"
        last = first.replace(day=monthrange(first.year, first.month)[1])
        store.write(name, _written(database, node, Span(first, last)))
        files |= dict.fromkeys(keys, name)
    return files


def _written(database: Database, node: str, span: Span) -> bytes:
    import pyarrow as pa
    import pyarrow.parquet as pq

    with database.snapshot() as connection:
        rows = connection.execute(
            "SELECT day, entity, features FROM entity_features WHERE node = %s AND day BETWEEN %s AND %s"
            " ORDER BY day, entity",
            (node, span.first, span.last),
        ).fetchall()
    flat = [_flat(states) for _, _, states in rows]
    columns: dict[str, Any] = {
        "day": pa.array([day for day, _, _ in rows], pa.date32()),
        "entity": pa.array([entity for _, entity, _ in rows], pa.string()),
    }
    for name in sorted({name for row in flat for name in row}):
        values = [row.get(name) for row in flat]
        number = all(value is None or isinstance(value, float) for value in values)
        texts = values if number else [None if value is None else json.dumps(value) for value in values]
        columns[name] = pa.array(texts, pa.float64() if number else pa.string())
    file = io.BytesIO()
    pq.write_table(pa.table(columns), file, compression="zstd")
    return file.getvalue()


def _flat(states: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """The parts of a row by feature and part; which definition made them is left out."""
    return {
        f"{key.partition(':')[0]}.{part}": float(value) if type(value) is int else value
        for key, state in states.items()
        for part, value in state.items()
    }
