"""Holding what calls can use at most in the budgets that apply to them, and writing what they used: the SQL of it.

Whoever holds locks the budgets first and then reads what is used and held, so that calls take turns; whoever writes
gives back what was held and adds what was used in one transaction, so that nothing is ever counted twice or
not at all.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime
from decimal import Decimal
from typing import Any, Final
from uuid import UUID

from psycopg.types.json import Jsonb

from stemma.errors import BudgetExhausted
from stemma.llm.model import Caller, Usage
from stemma.llm.prices import OFFLINE
from stemma.store.database import Connection

Scope = tuple[str, str]
"""Whose budget: `studio`, `key` or `agent`, and the id of the key or the name of the agent."""

STUDIO: Final = ("studio", "")
_UNCHARGED: Final = frozenset({OFFLINE, "local"})

_LOCK: Final = """
    SELECT b.id, b.scope, b.subject, b.period, b.limit_usd, b.limit_tokens
    FROM budgets AS b JOIN unnest(%(scopes)s::text[], %(subjects)s::text[]) AS s (scope, subject) USING (scope, subject)
    ORDER BY b.id FOR UPDATE OF b
"""
_EXPIRE: Final = "DELETE FROM budget_reservations WHERE budget_id = ANY(%s) AND expires_at < clock_timestamp()"
_STAND: Final = """
    SELECT b.id, used.usd + held.usd, used.tokens + held.tokens
    FROM budgets AS b
    CROSS JOIN LATERAL (
        SELECT coalesce(sum(cost_est), 0) AS usd, coalesce(sum(tokens), 0)::bigint AS tokens FROM spending
        WHERE scope = b.scope AND subject = b.subject
            AND day >= date_trunc(b.period, clock_timestamp() AT TIME ZONE 'UTC')::date
    ) AS used
    CROSS JOIN LATERAL (
        SELECT coalesce(sum(usd), 0) AS usd, coalesce(sum(tokens), 0)::bigint AS tokens FROM budget_reservations
        WHERE budget_id = b.id AND id <> %(but)s
    ) AS held
    WHERE b.id = ANY(%(ids)s)
"""
_HOLD: Final = """
    INSERT INTO budget_reservations (id, budget_id, usd, tokens, expires_at)
    VALUES (%s, %s, %s, %s, clock_timestamp() + make_interval(secs => %s)) ON CONFLICT DO NOTHING
"""
_RETURN: Final = "DELETE FROM budget_reservations WHERE id = ANY(%s)"
_COPY: Final = """
    COPY provider_usage (ts, request_id, job_id, actor, key_id, agent, route, op, provider, model, status, error_code,
        tokens_in, tokens_cached, tokens_out, counted, cost_est, latency_ms, ttft_ms, meta) FROM STDIN
"""
_SPEND: Final = """
    INSERT INTO spending AS s (scope, subject, day, calls, unpriced, tokens, cost_est)
    VALUES (%s, %s, %s, %s, %s, %s, %s)
    ON CONFLICT (scope, subject, day) DO UPDATE SET calls = s.calls + excluded.calls,
        unpriced = s.unpriced + excluded.unpriced, tokens = s.tokens + excluded.tokens,
        cost_est = s.cost_est + excluded.cost_est
"""
_FOUNDER: Final = """
    INSERT INTO founder_usage AS f (day, calls, unpriced, tokens_in, tokens_out, cost_est)
    VALUES (%s, %s, %s, %s, %s, %s)
    ON CONFLICT (day) DO UPDATE SET calls = f.calls + excluded.calls, unpriced = f.unpriced + excluded.unpriced,
        tokens_in = f.tokens_in + excluded.tokens_in, tokens_out = f.tokens_out + excluded.tokens_out,
        cost_est = f.cost_est + excluded.cost_est
"""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a call can use at most, for how many seconds; `cost` is None where its price is not known."""

    id: UUID
    scopes: tuple[Scope, ...]
    provider: str
    cost: Decimal | None
    tokens: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Used:
    """A call that ended at `ts`, and what it used."""

    id: UUID
    ts: datetime
    caller: Caller
    provider: str
    model: str
    status: str
    error_code: str | None
    usage: Usage
    cost: Decimal | None
    latency_ms: float
    ttft_ms: float | None
    meta: dict[str, Any]


@dataclass(frozen=True, slots=True)
class _Budget:
    """A budget, locked, and what is used and held of it."""

    id: UUID
    scope: str
    subject: str
    period: str
    limit_usd: Decimal | None
    limit_tokens: int | None
    usd: Decimal
    tokens: int

    def refusal(self, wanted: Wanted) -> BudgetExhausted | None:
        """Why it does not let a call through; it does while anything is left."""
        if self.limit_usd is not None and wanted.cost is None and wanted.provider not in _UNCHARGED:
            what = f"The price of this model is not known, and {self._name} is in US dollars."
            return BudgetExhausted(
                "price_unknown", what, field="model", hint="Write its price in stemma/llm/prices.yaml."
            )
        if self.limit_usd is not None and self.usd >= self.limit_usd:
            return self._exhausted(f"{self.limit_usd.normalize():f} US dollars")
        if self.limit_tokens is not None and self.tokens >= self.limit_tokens:
            return self._exhausted(f"{self.limit_tokens:,} tokens")
        return None

    def _exhausted(self, limit: str) -> BudgetExhausted:
        what = f"{self._name} of {limit} a {self.period} is used up, by what was used and what is being asked now."
        hint = f"It begins anew with the next {self.period} (UTC); `stemma budgets` shows and sets it."
        return BudgetExhausted("budget_exhausted", what[0].upper() + what[1:], hint=hint)

    @property
    def _name(self) -> str:
        return "the studio's budget" if self.scope == "studio" else f"the budget of this {self.scope}"


def scopes_of(caller: Caller) -> tuple[Scope, ...]:
    """Whose budgets a call counts in. A founder's call names neither key nor agent anywhere."""
    if caller.founder:
        return (STUDIO,)
    named = [("key", str(caller.key_id))] if caller.key_id is not None else []
    return (STUDIO, *named, *([("agent", caller.agent)] if caller.agent else []))


def budgeted(connection: Connection) -> frozenset[Scope]:
    """Whatever has a budget."""
    return frozenset(connection.execute("SELECT DISTINCT scope, subject FROM budgets").fetchall())


def hold(connection: Connection, wanted: Wanted) -> None:
    """Hold it in every budget that applies, in the caller's transaction; raises BudgetExhausted where one refuses.

    What was held already, by a transaction whose end nobody heard of, is not counted twice.
    """
    budgets = _locked(connection, wanted)
    if refusal := next(filter(None, (budget.refusal(wanted) for budget in budgets)), None):
        raise refusal
    held = [(wanted.id, budget.id, wanted.cost or Decimal(0), wanted.tokens, wanted.seconds) for budget in budgets]
    connection.cursor().executemany(_HOLD, held)


def give_back(connection: Connection, reservation_id: UUID) -> None:
    """Give back what a call holds that was never made."""
    connection.execute(_RETURN, ([reservation_id],))


def write(connection: Connection, used: Sequence[Used]) -> None:
    """Give back what ended calls held, and write what they used, in the caller's transaction."""
    connection.execute(_RETURN, ([one.id for one in used],))
    with connection.cursor() as cursor:
        with cursor.copy(_COPY) as copy:
            for one in used:
                if not one.caller.founder:
                    copy.write_row(_row(one))
        # In one order, so that processes that write at once do not wait for each other in a ring.
        cursor.executemany(_SPEND, [(*key, *total.spent) for key, total in sorted(_by_scope(used).items())])
        cursor.executemany(_FOUNDER, [(day, *total.founder) for day, total in sorted(_founders(used).items())])


def _locked(connection: Connection, wanted: Wanted) -> list[_Budget]:
    """The budgets that apply, locked, as they stand now without what is wanted."""
    scopes, subjects = zip(*wanted.scopes, strict=True)
    rows = connection.execute(_LOCK, {"scopes": list(scopes), "subjects": list(subjects)}).fetchall()
    ids = [row[0] for row in rows]
    connection.execute(_EXPIRE, (ids,))
    found = connection.execute(_STAND, {"ids": ids, "but": wanted.id}).fetchall()
    used: dict[UUID, tuple[Any, ...]] = {budget_id: stand for budget_id, *stand in found}
    return [_Budget(*(*row, *used[row[0]])) for row in rows]


@dataclass(slots=True)
class _Total:
    calls: int = 0
    unpriced: int = 0
    tokens_in: int = 0
    tokens_out: int = 0
    cost: Decimal = field(default_factory=Decimal)

    def add(self, one: Used) -> None:
        self.calls += 1
        self.unpriced += one.cost is None
        self.tokens_in += one.usage.tokens_in
        self.tokens_out += one.usage.tokens_out
        self.cost += one.cost or 0

    @property
    def spent(self) -> tuple[int, int, int, Decimal]:
        return self.calls, self.unpriced, self.tokens_in + self.tokens_out, self.cost

    @property
    def founder(self) -> tuple[int, int, int, int, Decimal]:
        return self.calls, self.unpriced, self.tokens_in, self.tokens_out, self.cost


def _by_scope(used: Iterable[Used]) -> dict[tuple[str, str, date], _Total]:
    totals: dict[tuple[str, str, date], _Total] = defaultdict(_Total)
    for one in used:
        for scope, subject in scopes_of(one.caller):
            totals[scope, subject, one.ts.date()].add(one)
    return totals


def _founders(used: Iterable[Used]) -> dict[date, _Total]:
    totals: dict[date, _Total] = defaultdict(_Total)
    for one in used:
        if one.caller.founder:
            totals[one.ts.date()].add(one)
    return totals


def _row(one: Used) -> tuple[Any, ...]:
    caller, usage = one.caller, one.usage
    return (
        one.ts, caller.request_id, caller.job_id, caller.actor, caller.key_id, caller.agent, caller.route, caller.op,
        one.provider, one.model, one.status, one.error_code, usage.tokens_in, usage.tokens_cached, usage.tokens_out,
        usage.counted, one.cost, one.latency_ms, one.ttft_ms, Jsonb(one.meta),
    )  # fmt: skip
