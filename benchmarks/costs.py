"""What summing up a million calls to models takes, a day and a quarter at a time, beside a recount by DuckDB.

Needs the extra `bench`. The recount reads the usage as a file that Postgres wrote, and is compared to the last digit.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import duckdb

from benchmarks.studio import Measure, Studio, publish, scratch_studio
from cli import execution
from resources.instance import open_instance
from stemma.store.database import Database
from stemma.telemetry import costs
from stemma.telemetry.days import Span

_ROWS = 1_000_000
_DAYS = 90
_FIRST = date(2025, 1, 6)
_BAR_DAY = 2.0

_FILL = """
    INSERT INTO provider_usage (ts, request_id, actor, agent, route, op, provider, model, status, error_code, tokens_in,
        tokens_cached, tokens_out, counted, cost_est, latency_ms, ttft_ms, meta)
    SELECT %(first)s::date::timestamp AT TIME ZONE 'UTC' + (n * %(seconds)s) * interval '1 second', 'r-' || n,
        'key:' || n %% 50, (ARRAY['nova', 'lyra', 'riven', NULL])[1 + n %% 4],
        (ARRAY['/api/v1/llm/run', '/api/v1/agents/{name}'])[1 + n %% 2], 'run',
        (ARRAY['openai', 'local', 'offline'])[1 + n / 7 %% 3], 'model-' || n / 5 %% 12,
        CASE n %% 40 WHEN 7 THEN 'error' WHEN 13 THEN 'cancelled' ELSE 'ok' END,
        CASE n %% 40 WHEN 7 THEN 'provider_timeout' END, 10 + (n::bigint * 7919) %% 9000, n %% 10,
        (n::bigint * 104729) %% 3000,
        CASE n %% 5 WHEN 0 THEN 'estimated' ELSE 'provider' END,
        CASE n / 7 %% 3 WHEN 1 THEN NULL ELSE 0.0000001237 * ((n::bigint * 31) %% 100003) END,
        5 + (n::bigint * 7919) %% 20000, n %% 4000, '{}'
    FROM generate_series(0, %(rows)s - 1) AS n
"""
_FOUNDER = """
    INSERT INTO founder_usage SELECT %(first)s::date + day, 3, 1, 1000 + day, 500, 0.0123456789
    FROM generate_series(0, %(days)s - 1) AS day
"""
_COLUMNS = "calls, errors, cancelled, unpriced, tokens_in, tokens_cached, tokens_out, cost_est"
_KEPT = f"SELECT day, provider, model, agent, route, {_COLUMNS} FROM cost_days WHERE NOT founder ORDER BY 1, 2, 3, 4, 5"
_RECOUNT = """
    SELECT CAST(ts AS DATE), provider, model, coalesce(agent, ''), route, count(*),
        count(*) FILTER (status = 'error'), count(*) FILTER (status = 'cancelled'), count(*) - count(cost_est),
        sum(tokens_in), sum(tokens_cached), sum(tokens_out), coalesce(sum(cost_est), 0)
    FROM usage GROUP BY ALL ORDER BY 1, 2, 3, 4, 5
"""
_READ = """
    CREATE TABLE usage AS SELECT * FROM read_csv($file, header = true, nullstr = '\\N', quote = '"', columns = {
        'ts': 'TIMESTAMP', 'provider': 'VARCHAR', 'model': 'VARCHAR', 'agent': 'VARCHAR', 'route': 'VARCHAR',
        'status': 'VARCHAR', 'tokens_in': 'BIGINT', 'tokens_cached': 'BIGINT', 'tokens_out': 'BIGINT',
        'cost_est': 'DECIMAL(28, 10)'})
"""


def main() -> bool:
    """Run the benchmark; True when the bars are met."""
    span = Span(_FIRST, _FIRST + timedelta(days=_DAYS - 1))
    with scratch_studio("costs") as studio, _environment(studio):
        _fill(studio.database)
        day = _seconds(lambda: costs.sync_days(studio.database, Span(span.first, span.first)))
        quarter = _seconds(lambda: costs.sync_days(studio.database, span))
        backfill, runs = _backfill(studio, span)
        kept = studio.database.read(lambda connection: connection.execute(_KEPT).fetchall())
        recounted, recount = _recount(studio.database)
        differences = sum(one != other for one, other in zip(kept, recounted, strict=True))
        within = studio.database.read(lambda connection: costs.differences(connection, span))
    measures = [
        Measure("calls", _ROWS),
        Measure("one day", day, "s", bar=_BAR_DAY, at_least=False),
        Measure("ninety days by one statement", quarter, "s"),
        Measure("ninety days as assets, with checks and receipts", backfill, "s"),
        Measure("runs of the ninety days", runs, bar=1, at_least=False),
        Measure("rows of costs", len(kept)),
        Measure("rows that differ from DuckDB's", differences, bar=0, at_least=False),
        Measure("DuckDB, the file read", recount, "s"),
        Measure("differences from the raw usage and the founder's totals", len(within), bar=0, at_least=False),
    ]
    return publish("costs", measures)


@contextmanager
def _environment(studio: Studio) -> Iterator[None]:
    """Runs of the graph read the settings anew."""
    settings = studio.settings
    given = {
        "STEMMA_HOME": str(settings.home),
        "STEMMA_DATABASE_URL": settings.database_url or "",
        "STEMMA_DATABASE_OWNER_URL": settings.database_owner_url or "",
        "STEMMA_DAGSTER_DATABASE_URL": settings.dagster_database_url or "",
    }
    before = {name: os.environ.get(name) for name in given}
    os.environ.update(given)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _fill(database: Database) -> None:
    with database.transaction() as connection:
        connection.execute(_FILL, {"first": _FIRST, "rows": _ROWS, "seconds": _DAYS * 86_400 / _ROWS})
        connection.execute(_FOUNDER, {"first": _FIRST, "days": _DAYS})
    with database.owner(autocommit=True) as connection:
        connection.execute("ANALYZE provider_usage")


def _backfill(studio: Studio, span: Span) -> tuple[float, int]:
    """All days as assets; how long it took, and how many runs it was."""
    seconds = _seconds(
        lambda: execution.materialize(studio.settings, studio.database, "costs/daily", f"{span.first}...{span.last}")
    )
    with open_instance(studio.settings, studio.database.urls) as instance:
        return seconds, instance.get_runs_count()


def _recount(database: Database) -> tuple[list[Any], float]:
    """The same sums by DuckDB, and how long it took to read the file and add it up."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "usage.csv"
        with database.transaction() as connection, file.open("wb") as written:
            copied = (
                "COPY (SELECT ts AT TIME ZONE 'UTC' AS ts, provider, model, agent, route, status, tokens_in,"
                " tokens_cached, tokens_out, cost_est FROM provider_usage) TO STDOUT (FORMAT csv, HEADER, NULL '\\N')"
            )
            with connection.cursor().copy(copied) as copy:
                for block in copy:
                    written.write(block)
        started = time.perf_counter()
        with duckdb.connect() as other:
            other.execute(_READ, {"file": str(file)})
            rows = other.execute(_RECOUNT).fetchall()
        return [(*row[:-1], Decimal(row[-1])) for row in rows], time.perf_counter() - started


def _seconds(work: Any) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


if __name__ == "__main__":
    sys.exit(0 if main() else 1)
