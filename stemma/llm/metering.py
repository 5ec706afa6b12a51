"""What every call to a model passes: a reservation before it, within the budgets, and what it used after it.

A call to one provider is one reservation, and becomes one row of `provider_usage`, however it ends; a fallback to
another provider is another call. A founder's call only adds to the totals of its day (`founder_usage`).
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from typing import Final, Literal, Self
from uuid import UUID, uuid4

import psycopg

from stemma.errors import Unavailable
from stemma.llm import holding, tokens
from stemma.llm.holding import Scope, Used, Wanted
from stemma.llm.model import Caller, Prompt, Usage
from stemma.llm.prices import Prices, load_published
from stemma.llm.recording import UsageWriter
from stemma.store.database import Connection, Database
from stemma.store.settings import Settings

_PATIENCE: Final = 20.0
_PAUSE: Final = 0.1
# Seconds for which it is believed which budgets there are.
_LOOKED: Final = 1.0
# A reservation outlives its call by so many seconds, lest a slow one be counted as none.
_GRACE: Final = 60.0
_NOTHING: Final = Usage(0, 0, counted="estimated")

Status = Literal["ok", "error", "cancelled"]


@dataclass(frozen=True, slots=True)
class Reservation:
    """The permission for one call to one provider. It is settled or released, once."""

    id: UUID
    caller: Caller
    provider: str
    model: str
    held: bool


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a call ended. `usage` is None where nothing was used, as when the provider did not answer at all;
    where it did and gave no count, `tokens.estimated` makes one.

    `error_code` belongs to `error` alone. `meta` never holds what was asked or answered.
    """

    status: Status
    latency_ms: float
    usage: Usage | None = None
    ttft_ms: float | None = None
    error_code: str | None = None
    meta: Mapping[str, str | int | float | bool] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Settlement:
    """What a call cost in US dollars, None where its price is not known; `written` is done when its row is on disk.

    Who acknowledges an answer waits for `written` first (`asyncio.wrap_future`): then no acknowledged call is ever
    missing. It raises Unavailable where the database stayed away for 20 s; the row is still written when it comes back.
    """

    cost: Decimal | None
    written: Future[None]


class Meter:
    """The process's meter. Thread-safe; `close()` writes what waits, or use it as a context manager."""

    def __init__(self, database: Database, settings: Settings) -> None:
        """Raises what `Prices.load` does for prices that cannot be read."""
        self._database = database
        self._prices = Prices.load(settings)
        self._budgeted: frozenset[Scope] = frozenset()
        self._looked_at = float("-inf")
        self._writer = UsageWriter(database.urls.app)
        # One alone, so that what is given back was held before.
        self._holders = ThreadPoolExecutor(1, thread_name_prefix="meter")

    def prepare(self) -> None:
        """Load the published prices meanwhile, which the first call that needs one would wait for."""
        self._holders.submit(load_published)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Accept nothing more and write what waits; what cannot be written within 20 s is counted in the log."""
        self._holders.shutdown()
        self._writer.close()

    def waiting(self) -> int:
        """How many calls wait to be written down."""
        return self._writer.waiting()

    async def reserve(self, prompt: Prompt, caller: Caller, provider: str, model: str) -> Reservation:
        """Hold what the call can cost at most in every budget that applies; at once where none does.

        A call is let through while anything is left, so that a budget is passed by one call at most. A budget that was
        set elsewhere holds here within a second. Raises BudgetExhausted (402) where nothing is left, or where a budget
        in US dollars cannot be kept because the price is not known; Unavailable where the database stays away.
        """
        scopes = holding.scopes_of(caller)
        if not await self._is_budgeted(scopes):
            return Reservation(uuid4(), caller, provider, model, held=False)
        most = tokens.most(prompt)
        cost = self._prices.cost(provider, model, most)
        wanted = Wanted(uuid4(), scopes, provider, cost, most.tokens_in + most.tokens_out, prompt.timeout + _GRACE)
        reservation = Reservation(wanted.id, caller, provider, model, held=True)
        try:
            await self._apart(lambda deadline: self._transact(lambda c: holding.hold(c, wanted), deadline))
        except asyncio.CancelledError:
            # It may be held all the same.
            self.release(reservation)
            raise
        return reservation

    def settle(self, reservation: Reservation, outcome: Outcome) -> Settlement:
        """Give back what was held and write what was used; does not wait. Call it however the call ended.

        Raises Unavailable after `close`, or where too much waits to be written.
        """
        usage = outcome.usage or _NOTHING
        cost = self._prices.cost(reservation.provider, reservation.model, usage)
        used = Used(
            id=reservation.id,
            ts=datetime.now(UTC),
            caller=reservation.caller,
            provider=reservation.provider,
            model=reservation.model,
            status=outcome.status,
            error_code=outcome.error_code,
            usage=usage,
            cost=cost,
            latency_ms=outcome.latency_ms,
            ttft_ms=outcome.ttft_ms,
            meta=dict(outcome.meta),
        )
        return Settlement(cost, self._writer.put(used))

    def release(self, reservation: Reservation) -> None:
        """Give back what was held for a call that never was made: it leaves no row. Does not wait."""
        if not reservation.held:
            return
        deadline = time.monotonic() + _PATIENCE
        # After `close` it expires by itself.
        with contextlib.suppress(RuntimeError):
            self._holders.submit(self._transact, lambda c: holding.give_back(c, reservation.id), deadline)

    async def _is_budgeted(self, scopes: tuple[Scope, ...]) -> bool:
        if not self._is_fresh():
            await self._apart(self._look)
        return not self._budgeted.isdisjoint(scopes)

    def _is_fresh(self) -> bool:
        return time.monotonic() - self._looked_at < _LOOKED

    def _look(self, deadline: float) -> None:
        # Those that waited behind a look share it.
        if not self._is_fresh():
            self._transact(self._read_budgets, deadline)

    def _read_budgets(self, connection: Connection) -> None:
        started = time.monotonic()
        self._budgeted, self._looked_at = holding.budgeted(connection), started

    async def _apart(self, work: Callable[[float], None]) -> None:
        """Do it in the holders' thread, by a deadline."""
        deadline = time.monotonic() + _PATIENCE
        try:
            await asyncio.get_running_loop().run_in_executor(self._holders, work, deadline)
        except RuntimeError as error:
            raise Unavailable("meter_closed", "Calls to models are not metered any more.") from error

    def _transact(self, work: Callable[[Connection], None], deadline: float) -> None:
        while True:
            left = max(deadline - time.monotonic(), _PAUSE)
            try:
                with self._database.transaction(timeout=left) as connection:
                    # What a server that dies forgets of this lasts no longer than the calls that it is about.
                    connection.execute("SET LOCAL synchronous_commit = off")
                    work(connection)
            except psycopg.OperationalError as error:
                if time.monotonic() > deadline:
                    what = f"The database does not answer: {' '.join(str(error).split())}."
                    raise Unavailable("database_unreachable", what) from error
                time.sleep(_PAUSE)
            else:
                return
