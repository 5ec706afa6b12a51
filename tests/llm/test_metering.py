"""What calls to models use is held, written and counted exactly, by several processes' worth of meters at once."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator
from decimal import Decimal
from uuid import UUID, uuid4

import psycopg
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stemma.access.keys import IssuedKey
from stemma.access.permissions import Role
from stemma.access.principal import Principal, local_principal
from stemma.errors import BudgetExhausted, Conflict, Forbidden, InvalidInput, NotFound, StemmaError, Unavailable
from stemma.ledger.service import Ledger
from stemma.llm import budgets, tokens
from stemma.llm.budgets import Budget, NewBudget
from stemma.llm.metering import Meter, Outcome, Reservation
from stemma.llm.model import Caller, Message, Prompt, ToolSpec, Usage
from stemma.llm.prices import Prices
from stemma.llm.usage import Use, list_usage
from stemma.store.database import Database
from stemma.store.settings import Settings

PROMPT = Prompt((Message("user", "What does the lamp take?"),), max_tokens=1_000)
MODEL = "gpt-4o-mini"
KEY = UUID("8e03978e-40d5-43dd-bc93-6894a57f9324")


def caller(**given: object) -> Caller:
    return Caller(**{"actor": "key:a", "route": "/api/v1/llm/run", "op": "run", "request_id": "r-1", **given})


@pytest.fixture
def meter(database: Database, settings: Settings) -> Iterator[Meter]:
    with Meter(database, settings) as opened:
        yield opened


@pytest.fixture
def budget(database: Database, settings: Settings) -> Callable[..., Budget]:
    """Set a budget as `stemma budgets set` does."""

    def make(scope: str = "studio", period: str = "day", **given: object) -> Budget:
        wanted = NewBudget(scope, period, **given)
        with Ledger(database.urls, settings) as ledger:
            change = database.read(lambda connection: budgets.set_budget(connection, local_principal(), wanted))
            return ledger.commit(change).result(20)

    return make


async def call(meter: Meter, caller: Caller, outcome: Outcome | None = None) -> Decimal | None:
    """One call that is held and settled, and waits until its row is on disk."""
    reservation = await meter.reserve(PROMPT, caller, "openai", MODEL)
    settled = meter.settle(reservation, outcome or Outcome("ok", 12.5, Usage(1_000, 100), ttft_ms=3.0))
    await asyncio.wrap_future(settled.written)
    return settled.cost


def rows(database: Database) -> tuple[Use, ...]:
    return database.read(lambda connection: list_usage(connection, limit=200)).data


def ask(database: Database, query: str) -> list[tuple[object, ...]]:
    with database.transaction() as connection:
        return connection.execute(query).fetchall()


def spent(database: Database) -> list[tuple[object, ...]]:
    """What was used, whichever day it was when it was."""
    return ask(
        database,
        "SELECT scope, subject, sum(calls), sum(unpriced), sum(tokens), sum(cost_est) FROM spending"
        " GROUP BY scope, subject ORDER BY scope",
    )


def test_every_call_is_a_row_however_it_ended(meter: Meter, database: Database) -> None:
    ended = [
        Outcome("ok", 12.5, Usage(1_000, 100, tokens_cached=400), ttft_ms=3.0, meta={"attempts": 2}),
        Outcome("error", 1.0, error_code="provider_timeout"),
        Outcome("cancelled", 7.0, Usage(1_000, 3, counted="estimated"), ttft_ms=2.0),
    ]

    async def calls() -> list[Decimal | None]:
        return [await call(meter, caller(agent="nova", key_id=KEY), outcome) for outcome in ended]

    costs = asyncio.run(calls())
    assert costs == [Decimal("0.00018"), 0, Decimal("0.0001518")]
    found = rows(database)[::-1]
    assert [(use.status, use.error_code, use.tokens_in, use.tokens_cached, use.tokens_out) for use in found] == [
        ("ok", None, 1_000, 400, 100),
        ("error", "provider_timeout", 0, 0, 0),
        ("cancelled", None, 1_000, 0, 3),
    ]
    assert [use.cost_est for use in found] == costs and found[0].meta == {"attempts": 2}
    assert {(use.agent, use.key_id, use.route) for use in found} == {("nova", KEY, "/api/v1/llm/run")}
    assert spent(database) == [
        (scope, subject, 3, 0, 2_103, sum(costs))
        for scope, subject in (("agent", "nova"), ("key", str(KEY)), ("studio", ""))
    ]


def test_an_unknown_price_is_unknown_and_never_zero(meter: Meter, database: Database) -> None:
    async def one() -> Decimal | None:
        reservation = await meter.reserve(PROMPT, caller(), "local", "llama")
        settled = meter.settle(reservation, Outcome("ok", 1.0, Usage(10, 5)))
        await asyncio.wrap_future(settled.written)
        return settled.cost

    assert asyncio.run(one()) is None
    assert [use.cost_est for use in rows(database)] == [None]
    assert spent(database) == [("studio", "", 1, 1, 15, 0)]


def test_a_founder_leaves_totals_alone(meter: Meter, database: Database, budget: Callable[..., Budget]) -> None:
    budget(limit_usd=Decimal(1))
    founder = caller(actor="key:founder", agent="nova", key_id=KEY, founder=True)

    async def calls() -> None:
        await call(meter, founder)
        await call(meter, founder, Outcome("cancelled", 5.0, Usage(7, 3)))

    asyncio.run(calls())
    assert rows(database) == ()
    cost = Decimal("0.00021285")
    columns = "sum(calls), sum(unpriced), sum(tokens_in), sum(tokens_out), sum(cost_est)"
    assert ask(database, f"SELECT {columns} FROM founder_usage") == [(2, 0, 1_007, 103, cost)]
    assert spent(database) == [("studio", "", 2, 0, 1_110, cost)]
    assert ask(database, "SELECT * FROM budget_reservations") == []


def test_sixty_four_first_calls_pass_a_budget_by_one_reservation_at_most(
    database: Database, settings: Settings, budget: Callable[..., Budget]
) -> None:
    limit = Decimal("0.004")
    budget(limit_usd=limit)
    one = Prices.load(settings).cost("openai", MODEL, tokens.most(PROMPT))
    assert one is not None and limit / one > 2

    async def storm(meters: list[Meter]) -> list[Reservation | BaseException]:
        wanted = [meters[number % 4].reserve(PROMPT, caller(), "openai", MODEL) for number in range(64)]
        return await asyncio.gather(*wanted, return_exceptions=True)

    # Each with its own connection, as if it were a process of its own.
    with contextlib.ExitStack() as opened:
        meters = [opened.enter_context(Meter(database, settings)) for _ in range(4)]
        answers = asyncio.run(storm(meters))
        let_through = [answer for answer in answers if isinstance(answer, Reservation)]
        refused = [answer for answer in answers if isinstance(answer, BudgetExhausted)]
        assert len(let_through) + len(refused) == 64
        held = ask(database, "SELECT count(*), sum(usd) FROM budget_reservations")[0]
        assert held == (len(let_through), one * len(let_through))
        assert limit <= held[1] < limit + one
        assert {(answer.code, answer.status) for answer in refused} == {("budget_exhausted", 402)}
        for reservation in let_through:
            meters[0].release(reservation)
    assert ask(database, "SELECT * FROM budget_reservations") == []


def test_what_a_dead_process_held_is_free_again_when_its_calls_must_have_ended(
    meter: Meter, database: Database, budget: Callable[..., Budget]
) -> None:
    budget(limit_tokens=1)

    async def twice() -> None:
        await meter.reserve(PROMPT, caller(), "openai", MODEL)
        with pytest.raises(BudgetExhausted):
            await meter.reserve(PROMPT, caller(), "openai", MODEL)
        ask_expired = "UPDATE budget_reservations SET expires_at = now() - interval '1 s' RETURNING expires_at"
        assert len(ask(database, ask_expired)) == 1
        await meter.reserve(PROMPT, caller(), "openai", MODEL)

    asyncio.run(twice())


def test_budgets_of_keys_and_agents_hold_for_them_alone(
    meter: Meter,
    database: Database,
    settings: Settings,
    budget: Callable[..., Budget],
    issue_key: Callable[..., IssuedKey],
) -> None:
    key = issue_key(settings, database.urls).api_key
    budget("key", "month", subject=str(key.id), limit_tokens=1_100)
    budget("agent", subject="nova", limit_tokens=0)

    async def calls() -> None:
        await call(meter, caller(key_id=key.id))
        with pytest.raises(BudgetExhausted, match="this key of 1,100 tokens a month"):
            await meter.reserve(PROMPT, caller(key_id=key.id), "openai", MODEL)
        with pytest.raises(BudgetExhausted, match="this agent"):
            await meter.reserve(PROMPT, caller(agent="nova"), "openai", MODEL)
        await call(meter, caller(agent="lyra", key_id=KEY))

    asyncio.run(calls())
    agents, keys = database.read(budgets.standings)
    assert (agents.share, agents.used_tokens) == (1.0, 0)
    assert (keys.share, keys.used_tokens, keys.held_tokens) == (1.0, 1_100, 0)


def test_dollars_refuse_what_has_no_price_but_at_home(meter: Meter, budget: Callable[..., Budget]) -> None:
    budget(limit_usd=Decimal(5))

    async def calls() -> None:
        with pytest.raises(BudgetExhausted) as refused:
            await meter.reserve(PROMPT, caller(), "openai", "gpt-of-tomorrow")
        assert refused.value.code == "price_unknown"
        for provider in ("local", "offline"):
            await meter.reserve(PROMPT, caller(), provider, "any")

    asyncio.run(calls())


def test_what_the_database_refuses_fails_alone(meter: Meter, database: Database) -> None:
    async def calls() -> list[object]:
        free = [await meter.reserve(PROMPT, caller(), "openai", MODEL) for _ in range(20)]
        bad = Outcome("ok", -1.0)
        settled = [meter.settle(one, bad if number == 7 else Outcome("ok", 1.0)) for number, one in enumerate(free)]
        return await asyncio.gather(*(asyncio.wrap_future(one.written) for one in settled), return_exceptions=True)

    answers = asyncio.run(calls())
    assert [isinstance(answer, psycopg.Error) for answer in answers] == [number == 7 for number in range(20)]
    assert len(rows(database)) == 19
    assert spent(database) == [("studio", "", 19, 0, 0, 0)]


def test_what_cannot_even_be_sent_fails_alone(meter: Meter, database: Database) -> None:
    async def calls() -> list[object]:
        named = [MODEL, "half a character: \ud800", MODEL]
        free = [await meter.reserve(PROMPT, caller(), "local", name) for name in named]
        settled = [meter.settle(one, Outcome("ok", 1.0)) for one in free]
        first = await asyncio.gather(*(asyncio.wrap_future(one.written) for one in settled), return_exceptions=True)
        await call(meter, caller())
        return first

    answers = asyncio.run(calls())
    assert [type(answer) for answer in answers] == [type(None), UnicodeEncodeError, type(None)]
    assert len(rows(database)) == 3


def test_a_lost_connection_neither_loses_nor_doubles(meter: Meter, database: Database) -> None:
    async def calls() -> None:
        for number in range(40):
            reservation = await meter.reserve(PROMPT, caller(request_id=f"r-{number}"), "openai", MODEL)
            settled = meter.settle(reservation, Outcome("ok", 1.0, Usage(3, 2)))
            if number % 10 == 5:
                with psycopg.connect(database.urls.owner, autocommit=True) as connection:
                    connection.execute(
                        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                        " WHERE datname = current_database() AND pid <> pg_backend_pid()"
                    )
            await asyncio.wrap_future(settled.written)

    asyncio.run(calls())
    assert sorted(use.request_id for use in rows(database)) == sorted(f"r-{number}" for number in range(40))
    assert [one[:5] for one in spent(database)] == [("studio", "", 40, 0, 200)]


def test_a_closed_meter_has_written_everything_and_takes_no_more(database: Database, settings: Settings) -> None:
    async def calls(meter: Meter) -> Reservation:
        reserved = [await meter.reserve(PROMPT, caller(), "openai", MODEL) for _ in range(1_200)]
        for reservation in reserved[1:]:
            meter.settle(reservation, Outcome("ok", 1.0, Usage(1, 1)))
        return reserved[0]

    with Meter(database, settings) as meter:
        left = asyncio.run(calls(meter))
    assert ask(database, "SELECT count(*) FROM provider_usage") == [(1_199,)]
    with pytest.raises(Unavailable, match="not written down"):
        meter.settle(left, Outcome("ok", 1.0))


@pytest.mark.parametrize(
    ("wanted", "error", "field"),
    [
        (NewBudget("studio", "day"), InvalidInput, "limit_usd"),
        (NewBudget("studio", "day", limit_usd=Decimal("NaN")), InvalidInput, "limit_usd"),
        (NewBudget("studio", "day", limit_usd=Decimal("-0.01")), InvalidInput, "limit_usd"),
        (NewBudget("studio", "day", limit_usd=Decimal("1e-11")), InvalidInput, "limit_usd"),
        (NewBudget("studio", "day", limit_tokens=-1), InvalidInput, "limit_tokens"),
        (NewBudget("studio", "day", subject="nova", limit_tokens=1), InvalidInput, "subject"),
        (NewBudget("agent", "day", limit_tokens=1), InvalidInput, "subject"),
        (NewBudget("agent", "day", subject="No Va", limit_tokens=1), InvalidInput, "subject"),
        (NewBudget("key", "day", subject="x", limit_tokens=1), InvalidInput, "subject"),
        (NewBudget("key", "day", subject=str(uuid4()), limit_tokens=1), NotFound, None),
    ],
)
def test_budgets_that_make_no_sense_are_refused(
    database: Database, wanted: NewBudget, error: type[StemmaError], field: str | None
) -> None:
    with pytest.raises(error) as refused:
        database.read(lambda connection: budgets.set_budget(connection, local_principal(), wanted))
    assert refused.value.field == field


def test_budgets_are_set_changed_and_removed_by_admins(
    database: Database, settings: Settings, budget: Callable[..., Budget]
) -> None:
    made = budget(limit_usd=Decimal(1))
    changed = budget(limit_usd=Decimal(2))
    assert changed.id == made.id
    viewer = Principal("key:v", Role.VIEWER, frozenset({"llm:*"}))
    with pytest.raises(Forbidden):
        database.read(lambda connection: budgets.remove_budget(connection, viewer, made.id))
    first, second = (
        database.read(lambda connection: budgets.remove_budget(connection, local_principal(), made.id))
        for _ in range(2)
    )
    with Ledger(database.urls, settings) as ledger:
        assert ledger.commit(first).result(20) == changed
        with pytest.raises(Conflict):
            ledger.commit(second).result(20)
    assert database.read(budgets.standings) == ()
    with pytest.raises(NotFound):
        database.read(lambda connection: budgets.remove_budget(connection, local_principal(), made.id))


def test_own_prices_come_first(settings: Settings) -> None:
    file = settings.home / "prices.yaml"
    file.write_text(
        'openai:\n  gpt-4o-mini: {input: 1, cached: 0.1, output: 2}\nlocal:\n  "*": {input: 0, output: 3}\n'
    )
    prices = Prices.load(settings.model_copy(update={"llm_prices": file}))
    usage = Usage(1_000_000, 500_000, tokens_cached=400_000)
    assert prices.cost("openai", MODEL, usage) == Decimal("1.64")
    assert prices.cost("local", "any", usage) == Decimal("1.5")
    assert prices.cost("offline", "any", usage) == 0
    assert prices.cost("openai", "gpt-of-tomorrow", usage) is None


@pytest.mark.parametrize(
    "text", ["openai: 3", "openai: {m: {input: -1, output: 1}}", "openai: {m: {input: .inf, output: 1}}", "a: [", "- 1"]
)
def test_prices_that_cannot_be_read_are_refused(settings: Settings, text: str) -> None:
    file = settings.home / "prices.yaml"
    file.write_text(text)
    with pytest.raises(InvalidInput) as refused:
        Prices.load(settings.model_copy(update={"llm_prices": file}))
    assert refused.value.field == "STEMMA_LLM_PRICES"


@given(st.text(), st.text())
def test_no_estimate_is_above_the_most_that_a_call_can_use(said: str, described: str) -> None:
    tools = (ToolSpec("search", described, {"type": "object"}),)
    prompt = Prompt((Message("user", said), Message("assistant", said)), tools=tools)
    used = tokens.estimated(prompt, said)
    assert 0 <= used.tokens_in <= tokens.most(prompt).tokens_in
    assert used.tokens_out == tokens.estimate(said)
