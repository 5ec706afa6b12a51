"""Ends a run whose process was killed: `python -m stemma.papers.runs.lost RUN_ID`, which its guard becomes.

Its artifacts are made of the events that were written until then. What is left of its notebook is the business of the
sandbox's keeper.
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Final
from uuid import UUID

from stemma.errors import Conflict, StemmaError
from stemma.ledger.writer import LedgerWriter
from stemma.papers.runs import artifacts, lifecycle
from stemma.papers.runs.catalog import get_run
from stemma.store.database import Database
from stemma.store.files import FileStore
from stemma.store.settings import Settings, load_settings

_ATTEMPTS: Final = 50
_PAUSE: Final = 0.1
# It lives as long as the run: all that it needs before its time is an interpreter.
_GUARD: Final = """
import os, signal, sys
os.setsid()
for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
    signal.signal(number, signal.SIG_IGN)
if not os.read(0, 1):
    os.execv(sys.argv[1], sys.argv[1:])
"""


@contextlib.contextmanager
def guarded(run_id: UUID) -> Iterator[None]:
    """Have a run closed should this process be killed within the block, by a process that waits beside it."""
    closing = [sys.executable, "-m", __name__, str(run_id)]
    # Nothing of ours is read: whoever kills this process closes the input.
    guard = subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", _GUARD, *closing], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL
    )
    try:
        yield
    finally:
        guard.communicate(b"\n")


def close(settings: Settings, database: Database, run_id: UUID) -> bool:
    """End a run that nobody holds any more; whether it has ended, now or before."""
    files = FileStore.open_default(settings)
    with database.snapshot() as connection:
        run = get_run(connection, run_id)
        if run.status.is_final or not run.started_at:
            return run.status.is_final
    with contextlib.suppress(Conflict), LedgerWriter(database.urls.app) as writer:
        change = database.read(lambda connection: lifecycle.lose(connection, run_id))
        with contextlib.suppress(StemmaError), database.snapshot() as connection:
            artifacts.write_told(files, connection, run_id, (), lifecycle.last_stage(run, lifecycle.DEAD))
        writer.append(change.entries, change.companions).result()
        return True
    return False


def main() -> None:
    """Close the run named on the command line, as soon as the database knows that its process is dead."""
    settings = load_settings()
    with Database.open(settings) as database:
        for _ in range(_ATTEMPTS):
            if close(settings, database, UUID(sys.argv[1])):
                return
            time.sleep(_PAUSE)


if __name__ == "__main__":
    main()
