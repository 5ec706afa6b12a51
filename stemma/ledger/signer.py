"""Signing: one live process per database turns the chains' tails into signed heads within a second of a commit.

Who signs is decided by an advisory lock that ends with its session; the others stand by. Signing never holds up an
append: where the second store is full or the key is lost, entries go on and `status()` tells of it.
"""

from __future__ import annotations

import logging
import threading
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Self

import psycopg
from psycopg import IsolationLevel

from stemma.errors import CheckFailed, StemmaError
from stemma.ledger.entries import genesis
from stemma.ledger.feed import read_tails
from stemma.ledger.heads import HeadStore, SignedHead, resumable, sign_head
from stemma.ledger.keys import heads_begun, key_lost, note_heads_begun, public_keys, signing_key
from stemma.ledger.merkle import Frontier
from stemma.store.database import Connection, connect
from stemma.store.settings import Settings

logger = logging.getLogger(__name__)

_SIGNER_LOCK = 0x5374656D6D614C
_POLL = 0.3
_PAUSE = 0.5
_AFTER_FAILURE = 1.0


@dataclass(frozen=True, slots=True)
class SignerStatus:
    """How signing stands in this process; `alert` is why there is no newer head, in one sentence."""

    leading: bool = False
    head_at: datetime | None = None
    head_key: str | None = None
    alert_code: str | None = None
    alert: str | None = None


class _Trees:
    """The Merkle tree of every chain as signed so far, and the last entry hash of each."""

    def __init__(self, frontiers: dict[str, Frontier], tips: dict[str, bytes]) -> None:
        self.frontiers = frontiers
        self._tips = tips

    @classmethod
    def resume(cls, connection: Connection, newest: SignedHead | None) -> Self:
        """Go on from a head; nothing before it is read again, and nothing that contradicts it is signed."""
        frontiers = resumable(newest) if newest else {}
        tips = {}
        for chain, frontier in frontiers.items():
            row = connection.execute(
                "SELECT entry_hash FROM ledger WHERE chain = %s AND seq = %s", (chain, frontier.size)
            ).fetchone()
            if row is None:
                raise _contradiction(chain, f"a head covers {frontier.size:,} entries, of which the last is gone")
            tips[chain] = bytes(row[0])
        return cls(frontiers, tips)

    def catch_up(self, connection: Connection) -> bool:
        """Add what was appended since; says whether there was anything. Raises CheckFailed for a broken chain."""
        with connection.transaction():
            tails = read_tails(connection)
            for chain, frontier in self.frontiers.items():
                if tails.get(chain, 0) < frontier.size:
                    raise _contradiction(chain, f"it had {frontier.size:,} entries and has {tails.get(chain, 0):,}")
            grown = self._grown(tails)
            for chain in grown:
                self._extend(connection, chain)
        return bool(grown)

    def behind(self, connection: Connection) -> bool:
        """Whether a chain has grown since."""
        return bool(self._grown(read_tails(connection)))

    def _grown(self, tails: dict[str, int]) -> list[str]:
        return [chain for chain, seq in tails.items() if chain not in self._tips or seq > self._size(chain)]

    def _size(self, chain: str) -> int:
        return self.frontiers[chain].size if chain in self.frontiers else 0

    def _extend(self, connection: Connection, chain: str) -> None:
        old = self.frontiers.get(chain, Frontier())
        grown, tip = Frontier(old.size, list(old.nodes)), self._tips.get(chain, genesis(chain))
        with connection.cursor(name="unsigned_entries", binary=True) as cursor:
            cursor.itersize = 10_000
            cursor.execute(
                "SELECT seq, prev_hash, entry_hash FROM ledger WHERE chain = %s AND seq > %s ORDER BY seq",
                (chain, old.size),
            )
            for seq, prev_hash, entry_hash in cursor:
                if seq != grown.size + 1 or prev_hash != tip:
                    raise _contradiction(chain, f"entry {seq:,} does not follow entry {grown.size:,}")
                grown.append(entry_hash)
                tip = entry_hash
        self.frontiers[chain], self._tips[chain] = grown, tip


def _contradiction(chain: str, what: str) -> CheckFailed:
    return CheckFailed(
        "ledger_contradicts_head",
        f"The chain {chain} does not continue what was signed: {what}.",
        hint="Run `stemma verify`.",
    )


class _Session:
    """One turn at signing: what a holder of the lock does until its connection ends."""

    def __init__(self, connection: Connection, settings: Settings) -> None:
        self._connection = connection
        self._settings = settings
        self._store = HeadStore(settings)
        self._newest = self._believed()
        connection.isolation_level = IsolationLevel.REPEATABLE_READ
        self._trees = _Trees.resume(connection, self._newest)

    def behind(self) -> bool:
        """Whether entries wait that no head of this session covers."""
        return self._trees.behind(self._connection)

    def sign_pending(self) -> SignedHead | None:
        """Sign and keep a head when there is something new; None otherwise. After an error the session is over."""
        if not self._trees.catch_up(self._connection):
            return None
        time = datetime.now(UTC)
        before = self._newest
        if before is not None:
            time = max(time, before.head.time + timedelta(microseconds=1))
        signed = sign_head(time, self._trees.frontiers, signing_key(self._settings))
        self._store.write(signed)
        if not heads_begun(self._settings):
            note_heads_begun(self._settings)
        self._newest = signed
        # Within one hour the last head says all that those before it said, as long as one key signed them.
        if before is not None and before.key[:13] == signed.key[:13] and before.head.key_id == signed.head.key_id:
            self._store.supersede(before.key)
        return signed

    def _believed(self) -> SignedHead | None:
        known = public_keys(self._settings)
        if not known and self._store.newest() is not None:
            raise key_lost("and every public key are gone")
        return self._store.believed(known)


def sign_once(url: str, settings: Settings) -> SignedHead | None:
    """Sign what has no head yet; None when there is nothing, or another process signs.

    Raises what keeps a head from being signed: CheckFailed, Unavailable.
    """
    with connect(url, autocommit=True) as connection:
        return _Session(connection, settings).sign_pending() if _leads(connection) else None


def _leads(connection: Connection) -> bool:
    return connection.execute("SELECT pg_try_advisory_lock(%s)", (_SIGNER_LOCK,)).fetchone() == (True,)


def _resign(connection: Connection) -> None:
    connection.execute("SELECT pg_advisory_unlock(%s)", (_SIGNER_LOCK,))


class LedgerSigner:
    """The process's signer: a thread that stands by or signs. `close()` signs the tail, or use a context manager."""

    def __init__(self, url: str, settings: Settings) -> None:
        """`url` is the libpq URI of a role that may read the ledger."""
        self._url = url
        self._settings = settings
        self._wake = threading.Event()
        self._stop = threading.Event()
        self._status = SignerStatus()
        self._thread = threading.Thread(target=self._run, name="ledger-signer", daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def wake(self) -> None:
        """Say that something was committed, so that the next poll need not be waited for."""
        self._wake.set()

    def status(self) -> SignerStatus:
        """How signing stands."""
        return self._status

    def close(self) -> None:
        """Sign what is left, where this process leads, and end the thread."""
        self._stop.set()
        self._wake.set()
        self._thread.join()

    def _run(self) -> None:
        while True:
            try:
                with connect(self._url, autocommit=True) as connection:
                    self._attend(connection)
            except (StemmaError, psycopg.Error) as error:
                self._alert(error)
            except Exception as error:
                logger.exception("the ledger's signer failed")
                self._alert(error)
            self._status = replace(self._status, leading=False)
            if self._stop.wait(_AFTER_FAILURE):
                return

    def _attend(self, connection: Connection) -> None:
        """Stand by or sign until the end is asked for or something fails."""
        session: _Session | None = None
        ending = False
        while not ending:
            ending = self._stop.is_set()
            self._wake.clear()
            if session is None and _leads(connection):
                session = _Session(connection, self._settings)
                self._status = replace(self._status, leading=True)
            if session is not None:
                self._signed(session.sign_pending())
            if not ending:
                self._wake.wait(_POLL)
        if session is not None:
            self._hand_over(connection, session)

    def _hand_over(self, connection: Connection, session: _Session) -> None:
        """Give the lock up; sign what came from those who saw it held until now and have gone away since."""
        _resign(connection)
        while session.behind() and _leads(connection):
            session = _Session(connection, self._settings)
            self._signed(session.sign_pending())
            _resign(connection)

    def _signed(self, signed: SignedHead | None) -> None:
        if self._status.alert is not None:
            logger.info("the ledger's heads can be signed again")
            self._status = replace(self._status, alert_code=None, alert=None)
        if signed is not None:
            self._status = replace(self._status, head_at=signed.head.time, head_key=signed.key)
            # Under load every commit wakes the signer; two heads a second are enough.
            self._stop.wait(_PAUSE)

    def _alert(self, error: Exception) -> None:
        """Tell of a failure once, not at every attempt."""
        code = error.code if isinstance(error, StemmaError) else "signing_failed"
        message = str(error) if isinstance(error, StemmaError) else f"{type(error).__name__}: {error}"
        if (code, message) != (self._status.alert_code, self._status.alert):
            logger.error("no head of the ledger can be signed: %s", message)
        self._status = replace(self._status, alert_code=code, alert=message)
