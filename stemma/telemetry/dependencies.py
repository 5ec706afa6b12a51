"""What the studio leans on outside the API's process: stored files, Dagster's daemon, the receivers of notifications.

Each is looked at in a thread of its own and for some seconds at most, so that one that hangs says so and holds up no
other. Receivers are connected to and sent nothing. `recorder` has it done every minute.
"""

from __future__ import annotations

import secrets
import socket
import threading
import time
from collections.abc import Callable
from functools import partial
from typing import Final

import psycopg

from stemma.errors import StemmaError, Unavailable
from stemma.notify.channels import Channel, load_routing
from stemma.notify.sending import reach
from stemma.store.database import Database
from stemma.store.files import FileStore
from stemma.store.settings import Settings
from stemma.telemetry.checks import Check

CHANNEL: Final = "channel/"
PATIENCE: Final = 5.0
"""Seconds that each has for its answer."""

_PROBES: Final = "health"
_HEARTBEAT: Final = (
    "SELECT extract(epoch FROM (now() AT TIME ZONE 'UTC') - max(timestamp))::float8 FROM daemon_heartbeats"
)
_SILENT_SECONDS: Final = 180.0

Look = Callable[[], Check]


class Dependencies:
    """Looks at all of them. To be called by one thread at a time."""

    def __init__(self, settings: Settings, database: Database, *, patience: float = PATIENCE) -> None:
        self._settings = settings
        self._database = database
        self._patience = patience
        self._under_way: dict[str, threading.Thread] = {}

    def check(self) -> dict[str, Check]:
        """How each stands; raises nothing."""
        answers: dict[str, Check] = {}
        looks = self._looks()
        for name, look in looks.items():
            # One that still hangs since the last time is not asked by another thread as well.
            if name not in self._under_way or not self._under_way[name].is_alive():
                thread = threading.Thread(target=_answer, args=(answers, name, look), name=f"look-{name}", daemon=True)
                self._under_way[name] = thread
                thread.start()
        deadline = time.monotonic() + self._patience
        for name in looks:
            self._under_way[name].join(max(0.0, deadline - time.monotonic()))
        silent = _failed(f"It did not answer within {self._patience:g} seconds.")
        return {name: answers.get(name, silent) for name in looks}

    def _looks(self) -> dict[str, Look]:
        looks: dict[str, Look] = {
            "files": partial(_check_files, self._settings),
            "daemon": partial(_check_daemon, self._database),
        }
        try:
            channels = load_routing(self._settings).channels
        except StemmaError as error:
            said = _failed(str(error))
            return {**looks, "channels": lambda: said}
        return looks | {f"{CHANNEL}{name}": partial(_check_channel, one) for name, one in channels.items()}


def _answer(answers: dict[str, Check], name: str, look: Look) -> None:
    try:
        answers[name] = look()
    except StemmaError as error:
        answers[name] = _failed(str(error))
    except Exception as error:
        # Stores raise what their libraries do, whose words may hold an address or a key.
        answers[name] = _failed(f"Looking at it ended with {type(error).__name__}.")


def _failed(detail: str) -> Check:
    return Check("failed", required=False, detail=detail)


def _check_files(settings: Settings) -> Check:
    """Write a file, read it and remove it: any less does not tell whether there is room, or a right to write."""
    store, key, said = FileStore.open_default(settings), f"{_PROBES}/{socket.gethostname()}", secrets.token_bytes(16)
    store.write(key, said)
    if store.read(key) != said:
        raise Unavailable("files_differ", "The store of files does not give back what was written.")
    store.delete(key)
    return Check("ok", required=False, detail="Files are written, read and removed.")


def _check_daemon(database: Database) -> Check:
    unheard = Check("not_running", required=False, detail="No schedule and no sensor runs: Dagster's daemon is silent.")
    options = f"-c statement_timeout={PATIENCE * 1000:.0f}"
    with psycopg.connect(database.urls.dagster, connect_timeout=int(PATIENCE), options=options) as connection:
        try:
            row = connection.execute(_HEARTBEAT).fetchone()
        except psycopg.errors.UndefinedTable:
            return unheard
    if row is None or row[0] is None or row[0] > _SILENT_SECONDS:
        return unheard
    return Check("ok", required=False, detail=f"Dagster's daemon was heard {max(row[0], 0):.0f} seconds ago.")


def _check_channel(channel: Channel) -> Check:
    host, port, tls = channel.address
    reach(host, port, tls=tls, allow_private=channel.allow_private, timeout=PATIENCE)
    return Check("ok", required=False, detail="Its receiver takes connections.")
