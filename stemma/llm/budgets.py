"""Budgets of what calls to models may use: of the studio, of a key, of an agent, by day or month, in UTC.

Here they are set, removed and shown; `holding` keeps calls within them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any, Final, Literal
from uuid import UUID, uuid4

from psycopg.rows import dict_row

from stemma.access.catalog import read_key
from stemma.access.principal import Principal
from stemma.errors import Conflict, InvalidInput, NotFound
from stemma.ledger.change import Change
from stemma.ledger.journal import audited
from stemma.ledger.writer import Statement
from stemma.registry.references import check_name
from stemma.store.database import Connection

Kind = Literal["studio", "key", "agent"]
Period = Literal["day", "month"]

PERMISSION: Final = "llm:budget"
_MOST_USD: Final = Decimal(10_000_000)
_MOST_TOKENS: Final = 10**15
_PLACES: Final = 10
_SET: Final = """
    INSERT INTO budgets (id, scope, subject, period, limit_usd, limit_tokens, set_by, set_at)
    VALUES (%(id)s, %(scope)s, %(subject)s, %(period)s, %(limit_usd)s, %(limit_tokens)s, %(set_by)s, %(set_at)s)
    ON CONFLICT (scope, subject, period) DO UPDATE SET limit_usd = excluded.limit_usd,
        limit_tokens = excluded.limit_tokens, set_by = excluded.set_by, set_at = excluded.set_at
    WHERE budgets.id = excluded.id
"""
_STANDINGS: Final = """
    SELECT b.id, b.scope, b.subject, b.period, b.limit_usd, b.limit_tokens, b.set_by, b.set_at,
        begun.on AS begun, used.usd AS used_usd, used.tokens AS used_tokens, used.unpriced, held.usd AS held_usd,
        held.tokens AS held_tokens
    FROM budgets AS b
    CROSS JOIN LATERAL (SELECT date_trunc(b.period, now() AT TIME ZONE 'UTC')::date AS on) AS begun
    CROSS JOIN LATERAL (
        SELECT coalesce(sum(cost_est), 0) AS usd, coalesce(sum(tokens), 0)::bigint AS tokens,
            coalesce(sum(unpriced), 0)::bigint AS unpriced
        FROM spending WHERE scope = b.scope AND subject = b.subject AND day >= begun.on
    ) AS used
    CROSS JOIN LATERAL (
        SELECT coalesce(sum(usd), 0) AS usd, coalesce(sum(tokens), 0)::bigint AS tokens FROM budget_reservations
        WHERE budget_id = b.id AND expires_at >= now()
    ) AS held
    ORDER BY array_position(ARRAY['studio', 'agent', 'key'], b.scope::text), b.subject, b.period
"""


@dataclass(frozen=True, slots=True)
class NewBudget:
    """A budget that is asked for. `subject` is the id of a key or the name of an agent, nothing for the studio's."""

    scope: Kind
    period: Period
    subject: str = ""
    limit_usd: Decimal | None = None
    limit_tokens: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget(NewBudget):
    """A budget in force."""

    id: UUID
    set_by: str
    set_at: datetime


@dataclass(frozen=True, slots=True)
class Standing:
    """How a budget stands in the period that began on `begun`; `held` is what calls under way may use at most.

    `unpriced` calls are not in the dollars, because their price is not known.
    """

    budget: Budget
    begun: date
    used_usd: Decimal
    used_tokens: int
    unpriced: int
    held_usd: Decimal
    held_tokens: int

    @property
    def share(self) -> float:
        """The share that is used of what has a limit, the greater where both do; 1 and more is used up."""
        return max(
            _share(self.used_usd, self.budget.limit_usd),
            _share(self.used_tokens, self.budget.limit_tokens),
        )


def set_budget(connection: Connection, principal: Principal, wanted: NewBudget) -> Change[Budget]:
    """Set a budget, or change the one that this has for the period; it holds for every call within a second.

    Raises Forbidden; InvalidInput that names the field; NotFound for a key that there is not; Conflict where another
    was set meanwhile.
    """
    principal.require(PERMISSION)
    wanted = _checked(connection, wanted)
    before = _find(connection, wanted)
    made = Budget(
        **{name: getattr(wanted, name) for name in NewBudget.__slots__},
        id=before or uuid4(),
        set_by=principal.actor,
        set_at=datetime.now(UTC),
    )
    refusal = Conflict("budget_changed", "This budget was set or removed meanwhile.", hint="Look at it again.")
    row = {name: getattr(made, name) for name in ("id", "set_by", "set_at", *NewBudget.__slots__)}
    return Change(_entries("budget.set", principal, made), (Statement(_SET, row, 1, refusal),), lambda _: made)


def remove_budget(connection: Connection, principal: Principal, budget_id: UUID) -> Change[Budget]:
    """Take a budget away; gives what it was. Raises Forbidden, NotFound; Conflict where it changed meanwhile."""
    principal.require(PERMISSION)
    found = next((one.budget for one in standings(connection) if one.budget.id == budget_id), None)
    if found is None:
        raise NotFound("budget_not_found", f"There is no budget {budget_id}.", hint="`stemma budgets` lists them.")
    refusal = Conflict("budget_changed", "This budget was set or removed meanwhile.", hint="Look at it again.")
    statement = Statement(
        "DELETE FROM budgets WHERE id = %s AND set_at = %s", (budget_id, found.set_at), rows=1, refusal=refusal
    )
    return Change(_entries("budget.removed", principal, found), (statement,), lambda _: found)


def standings(connection: Connection) -> tuple[Standing, ...]:
    """How every budget stands: the studio's, those of agents, those of keys."""
    names = [*NewBudget.__slots__, "id", "set_by", "set_at"]
    rows = connection.cursor(row_factory=dict_row).execute(_STANDINGS).fetchall()
    return tuple(Standing(budget=Budget(**{name: row.pop(name) for name in names}), **row) for row in rows)


def _share(used: Decimal | int, limit: Decimal | int | None) -> float:
    if limit is None:
        return 0.0
    return float(used / limit) if limit else 1.0


def _checked(connection: Connection, wanted: NewBudget) -> NewBudget:
    if wanted.limit_usd is None and wanted.limit_tokens is None:
        hint = "Give US dollars, tokens, or both."
        raise InvalidInput("budget_unlimited", "A budget needs a limit.", field="limit_usd", hint=hint)
    if wanted.limit_usd is not None and not _is_amount(wanted.limit_usd):
        what = f"A limit is 0 to {_MOST_USD:,} US dollars, to {_PLACES} places."
        raise InvalidInput("limit_invalid", what, field="limit_usd")
    if wanted.limit_tokens is not None and not 0 <= wanted.limit_tokens <= _MOST_TOKENS:
        raise InvalidInput("limit_invalid", f"A limit is 0 to {_MOST_TOKENS:,} tokens.", field="limit_tokens")
    if (wanted.scope == "studio") != (not wanted.subject):
        what = "The studio's budget has no subject; that of a key has its id, that of an agent its name."
        raise InvalidInput("subject_invalid", what, field="subject")
    if wanted.scope == "agent":
        check_name(wanted.subject, field="subject")
    if wanted.scope == "key":
        return replace(wanted, subject=str(read_key(connection, _key_id(wanted.subject)).id))
    return wanted


def _is_amount(value: Decimal) -> bool:
    return value.is_finite() and 0 <= value <= _MOST_USD and round(value, _PLACES) == value


def _key_id(text: str) -> UUID:
    try:
        return UUID(text)
    except ValueError as error:
        hint = "`stemma keys list` shows the ids."
        raise InvalidInput("subject_invalid", "This is not the id of a key.", field="subject", hint=hint) from error


def _find(connection: Connection, wanted: NewBudget) -> UUID | None:
    row = connection.execute(
        "SELECT id FROM budgets WHERE (scope, subject, period) = (%s, %s, %s)",
        (wanted.scope, wanted.subject, wanted.period),
    ).fetchone()
    return row[0] if row else None


def _entries(action: str, principal: Principal, budget: Budget) -> tuple[Any, ...]:
    meta = {
        "scope": budget.scope,
        "subject": budget.subject,
        "period": budget.period,
        "limit_usd": None if budget.limit_usd is None else f"{budget.limit_usd.normalize():f}",
        "limit_tokens": budget.limit_tokens,
    }
    resource = f"budget/{budget.scope}/{budget.subject or 'studio'}/{budget.period}"
    return audited(principal, action, resource=resource, meta=meta, critical=True)
