"""Switches over calls to models, thrown while the studio runs: offline, stealth, and who is left out.

A switch is on while its row is there. A process that makes calls opens a `SwitchBoard`, which hears of every change
within a second; what a switch means for the choice of a provider is `Switches.allowed`. A change is an entry of the
ledger that names the switch and nothing else.
"""

from __future__ import annotations

import contextlib
import re
import selectors
import socket
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final, LiteralString, Self

import psycopg
from psycopg import sql
from psycopg.rows import class_row

from stemma.access.principal import Principal
from stemma.errors import InvalidInput, Unavailable
from stemma.ledger.change import Change
from stemma.ledger.journal import audited
from stemma.ledger.writer import Statement
from stemma.store.database import Connection, connect
from stemma.store.logs import EventLog

OFFLINE: Final = "offline"
STEALTH: Final = "stealth"
SECRETS_ONLINE: Final = "secrets-online"
PERMISSION: Final = "admin:founder"
CHANNEL: Final[LiteralString] = "stemma_switches"

_AT_HOME: Final = frozenset({"local", "offline"})
_EXCLUDED: Final = re.compile(r"(provider|agent)/[a-z][a-z0-9_-]{0,62}")
_POLL_SECONDS: Final = 0.5
_TRUSTED_SECONDS: Final = 10.0
_SET: Final = """
    INSERT INTO model_switches (name, set_by, set_at) VALUES (%(name)s, %(set_by)s, %(set_at)s)
    ON CONFLICT (name) DO NOTHING
"""
_log = EventLog("llm.switches")


@dataclass(frozen=True, slots=True)
class Switch:
    """A switch that is on, and who threw it when."""

    name: str
    set_by: str
    set_at: datetime


@dataclass(frozen=True, slots=True)
class Switches:
    """What is on. `offline`: no call leaves this machine; `stealth`: no founder's call does.

    `excluded` are `provider/<name>` and `agent/<name>`, which are not called. `secrets_online` lets the founder's own
    secrets go to every provider, where they otherwise go to `local` and `offline` alone.
    """

    offline: bool = False
    stealth: bool = False
    excluded: frozenset[str] = frozenset()
    secrets_online: bool = False

    @classmethod
    def of(cls, names: Iterable[str]) -> Self:
        """Those of these names."""
        on = frozenset(names)
        return cls(OFFLINE in on, STEALTH in on, frozenset(filter(_EXCLUDED.fullmatch, on)), SECRETS_ONLINE in on)

    def allowed(self, providers: Iterable[str], *, founder: bool) -> tuple[str, ...]:
        """Those of these providers that may be called now, in their order."""
        within = {"offline"} if self.offline else _AT_HOME if self.stealth and founder else None
        return tuple(
            name for name in providers if (within is None or name in within) and f"provider/{name}" not in self.excluded
        )

    def excludes_agent(self, name: str) -> bool:
        """Whether the agent is not to be called."""
        return f"agent/{name}" in self.excluded

    def shares_founder_secrets(self, provider: str) -> bool:
        """Whether the founder's own secrets may be told to this provider in the founder's calls."""
        return provider in _AT_HOME or self.secrets_online


class SwitchBoard:
    """The switches as a process knows them: `now()` costs nothing and is at most a second behind the database.

    Thread-safe; use it as a context manager. It holds one connection and one thread, which reads at every change and
    twice a second.
    """

    def __init__(self, url: str) -> None:
        """`url` is the libpq URI of a role that may read; nothing happens before `with`."""
        self._url = url
        self._ending = threading.Event()
        self._woken, self._wake = socket.socketpair()
        self._known = Switches()
        self._read_at = float("-inf")

    def __enter__(self) -> Self:
        """Reads them once; where the database does not answer, nothing is known of them until it does."""
        connection: Connection | None = None
        with contextlib.suppress(Unavailable, psycopg.Error):
            connection = connect(self._url, autocommit=True)
            self._look(connection)
        self._thread = threading.Thread(target=self._watch, args=(connection,), name="switches", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ending.set()
        self._wake.close()
        self._thread.join()
        self._woken.close()

    def now(self) -> Switches:
        """What is on; raises Unavailable with code `switches_unknown` where that could not be read for 10 seconds."""
        if time.monotonic() - self._read_at > _TRUSTED_SECONDS:
            what = "Whether models may be called is not known: the switches in the database cannot be read."
            raise Unavailable("switches_unknown", what, hint="Run `stemma doctor` to see what is wrong.")
        return self._known

    def _look(self, connection: Connection) -> None:
        began = time.monotonic()
        self._known = read(connection)
        self._read_at = began

    def _watch(self, connection: Connection | None) -> None:
        told = False
        while not self._ending.is_set():
            try:
                connection = connection or connect(self._url, autocommit=True)
                self._follow(connection)
            except (Unavailable, psycopg.Error) as error:
                if not told:
                    _log.warning("the switches cannot be read", error=" ".join(str(error).split()))
                told = True
                if connection is not None:
                    connection.close()
                connection = None
                self._ending.wait(_POLL_SECONDS)
        if connection is not None:
            connection.close()

    def _follow(self, connection: Connection) -> None:
        connection.execute(sql.SQL("LISTEN {}").format(sql.Identifier(CHANNEL)))
        with selectors.DefaultSelector() as awaited:
            awaited.register(connection, selectors.EVENT_READ)
            # Who ends does not wait until the next look.
            awaited.register(self._woken, selectors.EVENT_READ)
            while not self._ending.is_set():
                self._look(connection)
                awaited.select(_POLL_SECONDS)
                for _ in connection.notifies(timeout=0):
                    pass


def read(connection: Connection) -> Switches:
    """What is on."""
    return Switches.of(name for (name,) in connection.execute("SELECT name FROM model_switches"))


def list_switches(connection: Connection) -> tuple[Switch, ...]:
    """Every switch that is on, by name."""
    with connection.cursor(row_factory=class_row(Switch)) as rows:
        return tuple(rows.execute("SELECT name, set_by, set_at FROM model_switches ORDER BY name"))


def throw(connection: Connection, principal: Principal, name: str, *, on: bool) -> Change[Switches]:
    """Throw a switch; gives what is on after it. One that is so already is thrown again without effect.

    Raises Forbidden; InvalidInput for a name that no switch has, and for the provider `offline`, which is what is left
    when all others are excluded.
    """
    principal.require(PERMISSION)
    _check(name)
    names = {switch.name for switch in list_switches(connection)}
    after = Switches.of(names | {name} if on else names - {name})
    made = Switch(name, principal.actor, datetime.now(UTC))
    statement = (
        Statement(_SET, {field: getattr(made, field) for field in Switch.__slots__})
        if on
        else Statement("DELETE FROM model_switches WHERE name = %(name)s", {"name": name})
    )
    told = audited(principal, "switch.thrown", resource=f"switch/{name}", meta={"on": on}, critical=True)
    return Change(told, (statement,), lambda _: after)


def _check(name: str) -> None:
    if name == "provider/offline":
        what = "The offline provider cannot be excluded: it is what answers when no other may."
        raise InvalidInput("switch_unknown", what, field="name")
    if name not in (OFFLINE, STEALTH, SECRETS_ONLINE) and not _EXCLUDED.fullmatch(name):
        hint = f"Switches are {OFFLINE}, {STEALTH}, {SECRETS_ONLINE}, provider/<name> and agent/<name>."
        raise InvalidInput("switch_unknown", f"There is no switch {name[:80]!r}.", field="name", hint=hint)
