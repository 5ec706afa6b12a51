"""What a process opens to take part in the ledger: its writer and its signer, which the writer wakes."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future
from typing import Self, TypeVar

from stemma.ledger.change import Change
from stemma.ledger.entries import Entry, NewEntry
from stemma.ledger.signer import LedgerSigner, SignerStatus
from stemma.ledger.writer import LedgerWriter, Observer, Statement
from stemma.store.database import DatabaseUrls
from stemma.store.settings import Settings

T = TypeVar("T")


class Ledger:
    """A writer and a signer on one database. Thread-safe; `close()`, or use it as a context manager."""

    def __init__(self, urls: DatabaseUrls, settings: Settings, *, observer: Observer | None = None) -> None:
        self._signer = LedgerSigner(urls.app, settings)
        self._writer = LedgerWriter(urls.app, on_commit=self._signer.wake, observer=observer)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def append(self, entries: Sequence[NewEntry], companions: Sequence[Statement] = ()) -> Future[tuple[Entry, ...]]:
        """Append entries and run their companions in one transaction; see `LedgerWriter.append`."""
        return self._writer.append(entries, companions)

    def commit(self, change: Change[T], *also: Statement) -> Future[T]:
        """Write a change, with further statements, in one transaction; the future has its result.

        Raises, and the future has, what `LedgerWriter.append` says.
        """
        answered: Future[T] = Future()
        answered.set_running_or_notify_cancel()

        def answer(appended: Future[tuple[Entry, ...]]) -> None:
            try:
                answered.set_result(change.result(appended.result()))
            except BaseException as error:
                answered.set_exception(error)

        self.append(change.entries, (*change.companions, *also)).add_done_callback(answer)
        return answered

    async def commit_async(self, change: Change[T], *also: Statement) -> T:
        """`commit` for coroutines; no thread waits meanwhile."""
        return change.result(await self._writer.append_async(change.entries, (*change.companions, *also)))

    def waiting(self) -> int:
        """How many appends wait for the writer."""
        return self._writer.waiting()

    def status(self) -> SignerStatus:
        """How signing stands in this process."""
        return self._signer.status()

    def close(self) -> None:
        """Write what was accepted, sign it, and end both threads."""
        self._writer.close()
        self._signer.close()
