"""What every call to a model passes: a reservation before it, within the budgets, and what it used after it.

A call to one provider is one reservation, and becomes one row of `provider_usage`, however it ends; a fallback to
another provider is another call. A founder's call only adds to the totals of its day (`founder_usage`).
"""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Literal, Self
from uuid import UUID

from stemma.llm.model import Caller, Prompt, Usage
from stemma.store.database import DatabaseUrls
from stemma.store.settings import Settings

Status = Literal["ok", "error", "cancelled"]


@dataclass(frozen=True, slots=True)
class Reservation:
    """The permission for one call to one provider. It is settled or released, once."""

    id: UUID
    caller: Caller
    provider: str
    model: str


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
    missing. It raises Unavailable where the database stayed away.
    """

    cost: Decimal | None
    written: Future[None]


class Meter:
    """The process's meter: a thread with a connection of its own. Thread-safe; `close()` writes what waits."""

    def __init__(self, urls: DatabaseUrls, settings: Settings) -> None: ...

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Accept nothing more, write what waits, and end the thread."""

    async def reserve(self, prompt: Prompt, caller: Caller, provider: str, model: str) -> Reservation:
        """Hold what the call can cost at most in every budget that applies; at once where none does.

        Raises BudgetExhausted (402) where a budget would be passed or cannot be kept because the price is not known,
        Unavailable where the database stays away.
        """
        raise NotImplementedError

    def settle(self, reservation: Reservation, outcome: Outcome) -> Settlement:
        """Give back what was held and write what was used; does not wait. Call it however the call ended.

        Raises Unavailable after `close` or where too much waits to be written.
        """
        raise NotImplementedError

    def release(self, reservation: Reservation) -> None:
        """Give back what was held for a call that never was made: it leaves no row. Does not wait."""
