"""The ledger: durable appends beside one append per transaction in one run, head latency, and verification.

Both ways of appending have 64 clients, each waiting for its commit before it sends the next, and write the same rows
with the same hashes into chains of their own; they take turns. The baseline is what the writer would be without a
queue: each client in a transaction of its own that takes the chain's lock, reads its tail, inserts and commits.
"""

from __future__ import annotations

import statistics
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import astuple

import psycopg

from benchmarks.studio import Measure, Studio, percentile, publish, scratch_studio
from stemma.ledger.entries import NewEntry, draft, genesis
from stemma.ledger.heads import HeadStore
from stemma.ledger.service import Ledger
from stemma.ledger.verification import verify
from stemma.ledger.writer import LedgerWriter
from stemma.store.database import connect

_CLIENTS = 64
_SECONDS = 4.0
_ROUNDS = 3
_VERIFIED = 100_000
_HEADS = 20
_APPEND_BAR = 10.0
_VERIFY_BAR = 50_000
_HEAD_BAR = 1.0


def main() -> bool:
    """Run the benchmark; True when every bar is met."""
    with scratch_studio("ledger") as studio:
        measures = [*_appends(studio), *_heads(studio), *_verification(studio)]
    return publish("ledger", measures)


def _entry(chain: str, client: int, turn: int) -> NewEntry:
    data = {"verdict": "allow", "rules": [True, True, False], "cost_eur": 0.25, "input_sha256": f"{client:064x}"}
    return NewEntry(chain, "decision", "agent:bench", f"event/{client}/{turn}", data)


def _appends(studio: Studio) -> list[Measure]:
    """Acknowledged appends per second, both ways."""
    url = studio.database.urls.app
    connections = [connect(url, autocommit=True) for _ in range(_CLIENTS)]
    ours, theirs = [], []
    with LedgerWriter(url) as writer:

        def queued(client: int, turn: int) -> None:
            writer.append([_entry("grouped", client, turn)]).result()

        def alone(client: int, turn: int) -> None:
            _append_alone(connections[client], _entry("single", client, turn))

        for number in range(_ROUNDS):
            pair = [(ours, queued), (theirs, alone)]
            for rates, append in pair if number % 2 else reversed(pair):
                rates.append(_rate(append))
    for connection in connections:
        connection.close()
    grouped, single = statistics.median(ours), statistics.median(theirs)
    return [
        Measure("durable appends, 64 clients", grouped, "/s"),
        Measure("one append per transaction, 64 clients", single, "/s"),
        Measure("ratio", grouped / single, bar=_APPEND_BAR),
    ]


def _append_alone(connection: psycopg.Connection, entry: NewEntry) -> None:
    """The writer's own steps for one entry, inserted by the plainest statement."""
    prepared = draft(entry)
    with connection.transaction():
        connection.execute("SELECT pg_advisory_xact_lock(4711)")
        tail = connection.execute(
            "SELECT seq, entry_hash FROM ledger WHERE chain = %s ORDER BY seq DESC LIMIT 1", (entry.chain,)
        ).fetchone()
        seq, before = tail or (0, genesis(entry.chain))
        connection.execute(
            "INSERT INTO ledger (chain, seq, prev_hash, body, entry_hash, id, kind, actor, subject, created_at)"
            " VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s)",
            astuple(prepared.seal(seq + 1, before)),
        )


def _rate(append: Callable[[int, int], None]) -> float:
    """What 64 threads get through in the given time."""
    done = [0] * _CLIENTS
    deadline = time.perf_counter() + _SECONDS

    def client(number: int) -> None:
        while time.perf_counter() < deadline:
            append(number, done[number])
            done[number] += 1

    started = time.perf_counter()
    threads = [threading.Thread(target=client, args=(number,)) for number in range(_CLIENTS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(done) / (time.perf_counter() - started)


def _heads(studio: Studio) -> list[Measure]:
    """Seconds from a commit to a head in the second store that covers it, appends a quarter of a second apart."""
    store, waits = HeadStore(studio.settings), []
    with Ledger(studio.database.urls, studio.settings) as ledger:
        while not ledger.status().head_key:
            time.sleep(0.05)
        for turn in range(_HEADS):
            (entry,) = ledger.append([_entry("heads", 0, turn)]).result()
            committed = time.perf_counter()
            while True:
                newest = store.newest()
                tree = newest.head.of("heads") if newest else None
                if tree is not None and tree.size >= entry.seq:
                    break
                time.sleep(0.002)
            waits.append(time.perf_counter() - committed)
            time.sleep(0.05 * (turn % 6))
    return [
        Measure("commit to signed head, p50", percentile(waits, 0.5), "s"),
        Measure("commit to signed head, worst", max(waits), "s", bar=_HEAD_BAR, at_least=False),
    ]


def _verification(studio: Studio) -> list[Measure]:
    """Entries per second over at least 100,000 entries."""
    with LedgerWriter(studio.database.urls.app) as writer:
        futures = []
        for start in range(0, _VERIFIED, 1000):
            futures.append(writer.append([_entry("verified", start, turn) for turn in range(1000)]))
        for future in futures:
            future.result()
    measures = []
    for deep, bar in ((False, _VERIFY_BAR), (True, None)):
        report = verify(studio.database, studio.settings, deep=deep)
        assert report.clean and report.entries >= _VERIFIED
        name = "verify --deep" if deep else "verify"
        measures.append(Measure(f"{name}, {report.entries:,} entries", report.entries / report.seconds, "/s", bar=bar))
    return measures


if __name__ == "__main__":
    sys.exit(0 if main() else 1)
