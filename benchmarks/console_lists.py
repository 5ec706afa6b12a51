"""Long lists: how long the server takes for a page of the Historian, by each filter, and for a page of jobs.

A request goes through the whole application, from authentication to the compressed answer, without a network.
"""

from __future__ import annotations

import json
import sys
import time
from concurrent.futures import Future
from itertools import islice

import psycopg
from fastapi.testclient import TestClient

from api.app import create_app
from benchmarks.studio import Measure, Studio, console, percentile, publish, scratch_studio
from stemma.access.keys import NewKey, create_key
from stemma.access.permissions import Role
from stemma.access.principal import local_principal
from stemma.ledger.entries import NewEntry
from stemma.ledger.feed import Filter, list_entries
from stemma.ledger.journal import HISTORIAN, transition
from stemma.ledger.service import Ledger
from stemma.store.database import Connection

_ENTRIES = 100_000
_JOBS = 10_000
_AT_ONCE = 500
_TURNS = 20
_BAR_MS = 150.0

_INSERT_JOBS = """
    INSERT INTO jobs (id, kind, input, priority, actor, role, submitted_at, due_at, max_attempts, state, finished_at)
    SELECT gen_random_uuid(), CASE WHEN n %% 100 = 0 THEN 'embed' ELSE 'convert' END, '{"source": "inbox"}', 0,
        'key:' || n %% 7, 'Builder', now(), now(), 3, CASE WHEN n %% 50 = 0 THEN 'queued' ELSE 'done' END,
        CASE WHEN n %% 50 = 0 THEN NULL ELSE now() END
    FROM generate_series(1, %(jobs)s) AS n
"""


def main() -> bool:
    """Run the benchmark; True when every bar is met."""
    with scratch_studio("console") as studio:
        key = _fill(studio)
        settings = studio.settings.model_copy(update={"api_requests_per_minute": 1_000_000})
        middle = studio.database.read(_half_way)
        with TestClient(create_app(settings, database=studio.database), base_url="http://127.0.0.1:8400") as client:
            client.headers.update({"Authorization": f"Bearer {key}", "Accept": "text/html"})
            measures = [
                measure
                for name, (path, query) in _pages(middle).items()
                for measure in _measures(client, name, path, query)
            ]
    return publish("console_lists", measures, entries=_ENTRIES)


def _fill(studio: Studio) -> str:
    """A Historian of that length, half of whose kinds, subjects and actors are rare; returns an API key."""
    began = time.perf_counter()
    with (
        psycopg.connect(studio.database.urls.app) as connection,
        Ledger(studio.database.urls, studio.settings) as ledger,
    ):
        wanted = NewKey("bench", Role.OWNER, ("ledger:*", "jobs:*"))
        issued = ledger.commit(create_key(connection, local_principal(), wanted, studio.settings)).result()
        entries = map(_entry, range(_ENTRIES))
        while some := list(islice(entries, _AT_ONCE * 10)):
            sent: list[Future[object]] = [
                ledger.append(some[place : place + _AT_ONCE]) for place in range(0, len(some), _AT_ONCE)
            ]
            for future in sent:
                future.result()
        connection.execute(_INSERT_JOBS, {"jobs": _JOBS})
        connection.execute("ANALYZE ledger, jobs")
    console.print(f"{_ENTRIES:,} entries appended in {time.perf_counter() - began:.1f} s")
    return issued.key


def _entry(number: int) -> NewEntry:
    kind = "run.failed" if number % 1000 == 0 else f"job.{('queued', 'running', 'done')[number % 3]}"
    data = {"job": f"job-{number}", "seconds": number % 60, "note": "It was embedded and indexed." * 3}
    actor = "asset:rare" if number % 997 == 0 else f"key:{number % 7}"
    return transition(kind, subject=f"job/{number // 3}", actor=actor, data=data)


def _half_way(connection: Connection) -> tuple[str, str]:
    """The time of an entry in the middle, and the cursor of a page that is reached by many steps."""
    row = connection.execute(
        "SELECT created_at FROM ledger WHERE chain = %s AND seq = %s", (HISTORIAN, _ENTRIES // 2)
    ).fetchone()
    assert row is not None
    page = list_entries(connection, HISTORIAN, Filter(until=row[0]))
    return row[0].isoformat(), page.next_cursor or ""


def _pages(middle: tuple[str, str]) -> dict[str, tuple[str, dict[str, str]]]:
    at, cursor = middle
    return {
        "newest": ("/historian", {}),
        "half way by cursor": ("/historian", {"cursor": cursor}),
        "a common kind": ("/historian", {"kind": "job.done"}),
        "a rare kind": ("/historian", {"kind": "run.failed"}),
        "a family of kinds": ("/historian", {"kind": "run."}),
        "a subject": ("/historian", {"subject": "job/77"}),
        "a common actor": ("/historian", {"actor": "key:3"}),
        "a rare actor": ("/historian", {"actor": "asset:rare"}),
        "before the middle": ("/historian", {"until": at}),
        "a rare kind before the middle": ("/historian", {"kind": "run.failed", "until": at}),
        "nobody": ("/historian", {"actor": "nobody"}),
        "200 rows": ("/historian", {"limit": "200"}),
        "jobs": ("/jobs", {}),
        "200 jobs": ("/jobs", {"limit": "200"}),
        "jobs of a rare kind and state": ("/jobs", {"kind": "embed", "state": "queued"}),
        "jobs over the API": ("/api/v1/jobs", {}),
    }


def _measures(client: TestClient, name: str, path: str, query: dict[str, str]) -> list[Measure]:
    taken = []
    for _ in range(_TURNS):
        began = time.perf_counter()
        answer = client.get(path, params=query)
        taken.append((time.perf_counter() - began) * 1000)
        assert answer.status_code == 200, json.dumps([name, answer.status_code])
    return [
        Measure(f"{name}: p50", percentile(taken, 0.5), "ms"),
        Measure(f"{name}: p95", percentile(taken, 0.95), "ms", _BAR_MS, at_least=False),
    ]


if __name__ == "__main__":
    sys.exit(0 if main() else 1)
