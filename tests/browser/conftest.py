"""The console in a real browser, over a studio with some real content.

A page is looked at when it is in `PAGES`; what it shows is made by `_stock`. test_pages.py does the looking.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import httpx
import pytest
from playwright.sync_api import Browser, expect

from api.app import create_app
from resources.instance import open_instance
from stemma.access import sessions
from stemma.access.authentication import recognise
from stemma.access.keys import IssuedKey
from stemma.access.permissions import Role
from stemma.access.principal import Principal, local_principal
from stemma.access.sessions import OpenedSession
from stemma.approvals.decisions import decide
from stemma.approvals.model import Approval, Risk, Verdict
from stemma.approvals.requests import Proposal, request
from stemma.browser import find, launched
from stemma.errors import Unavailable
from stemma.governance import nodes, policies
from stemma.governance.decisions import flags, review
from stemma.governance.decisions.deciding import Decider
from stemma.governance.decisions.model import Decision, State
from stemma.governance.events.model import NewEvent
from stemma.governance.learning import promotion, shadow
from stemma.governance.memory.drift import sync_drift
from stemma.governance.memory.features import sync_features
from stemma.governance.memory.inputs import Span
from stemma.governance.memory.scorecards import sync_scorecards
from stemma.governance.outcomes.model import NewOutcome
from stemma.governance.outcomes.recording import record as record_outcomes
from stemma.governance.samples import publish_samples
from stemma.jobs import lifecycle
from stemma.jobs.model import Job
from stemma.jobs.running import RunningJob
from stemma.jobs.submission import JobRequest, submit
from stemma.knowledge import sources
from stemma.ledger.change import Change
from stemma.ledger.journal import run_failed
from stemma.ledger.receipts import Input, sync
from stemma.ledger.service import Ledger
from stemma.llm import budgets
from stemma.llm.budgets import NewBudget
from stemma.maps.catalog import BuiltArchive
from stemma.store.database import Database, DatabaseUrls
from stemma.store.outputs import Artifact
from stemma.store.settings import REPOSITORY, Settings
from stemma.telemetry import costs, error_budget, latency
from stemma.telemetry import days as usage_days

_NEWEST = "finance.discounts@1.1.0"
_ENOUGH = 30

# Another test may have both processors.
expect.set_options(timeout=30_000)


@dataclass(frozen=True)
class Stock:
    """What the studio holds that a page's address may need."""

    key_id: str
    document_id: int
    run_id: str
    receipt_id: str
    approvals: dict[str, Approval]
    runs: Any
    jobs: dict[str, Job]
    governed: dict[str, Decision]
    papers: dict[str, Any]
    call: str = ""


@dataclass(frozen=True)
class Page:
    """A page by its name: where it is in the studio, and a text of its data that its HTML has to hold.

    `drawn` selects what is there only when its scripts are done, `largest` is the most that it may load, in bytes.
    """

    name: str
    address: Callable[[Stock], str]
    text: str
    drawn: str | None = None
    largest: int = 60 * 1024


DRAWN = "#map[data-idle]"
LARGEST_MAP = 500 * 1024

PAGES = (
    Page("overview", lambda stock: "/", "knowledge/search_index"),
    Page("search", lambda stock: "/search", "broken.pdf"),
    Page("search-hits", lambda stock: "/search?q=index+a+vector+column", "Vector search"),
    Page("search-nothing", lambda stock: "/search?q=zzxqj&mode=lexical", "Nothing was found"),
    Page("agents", lambda stock: "/agents", "answers you"),
    Page("agent", lambda stock: "/agents/nova", "What you ask"),
    Page("agent-history", lambda stock: "/agents/nova/history", "Which index does a filter need?"),
    Page("agent-call", lambda stock: f"/agents/nova/calls/{stock.call}", "What it rests on"),
    Page("agent-prompt", lambda stock: "/agents/nova/prompt", "You are Nova"),
    Page("agent-memory", lambda stock: "/agents/nova/memory", "Filters are written by hand."),
    Page("agent-forget", lambda stock: "/agents/nova/memory/forget", "Nobody can undo it."),
    Page("agent-log", lambda stock: "/agents/nova/log", "call done"),
    Page("document", lambda stock: f"/search/documents/{stock.document_id}?start=20&end=60", "hnsw.md"),
    Page("jobs", lambda stock: "/jobs", "The source is gone."),
    Page("jobs-filtered", lambda stock: "/jobs?kind=noop&state=queued&actor=", "noop"),
    Page("jobs-nothing", lambda stock: "/jobs?kind=embed", "No job matches"),
    Page("job", lambda stock: f"/jobs/{stock.jobs['done'].id}", "read the second chapter"),
    Page("job-waiting", lambda stock: f"/jobs/{stock.jobs['waiting'].id}", "The worker is off"),
    Page("job-failed", lambda stock: f"/jobs/{stock.jobs['failed'].id}", "Why it failed"),
    Page("job-new", lambda stock: "/jobs/new", "Builds, checks and activates"),
    Page("job-new-kind", lambda stock: "/jobs/new?kind=convert", "The source"),
    Page("job-cancel", lambda stock: f"/jobs/{stock.jobs['waiting'].id}/cancel", "Cancel this job?"),
    Page("runs", lambda stock: "/runs", "handbook/words"),
    Page("runs-failed", lambda stock: "/runs?state=failed", "schedule:nightly"),
    Page("runs-none", lambda stock: "/runs?state=cancelling", "No run is cancelling"),
    Page("run", lambda stock: f"/runs/{stock.runs.second}", "words are there"),
    Page("run-failed", lambda stock: f"/runs/{stock.runs.failed}", "has no words"),
    Page("run-deleted", lambda stock: f"/runs/{stock.run_id}", "Only its receipts are left"),
    Page("run-log", lambda stock: f"/runs/{stock.runs.second}/log?level=INFO", "a word is long"),
    Page("costs", lambda stock: "/costs", "Error budget left"),
    Page("decisions", lambda stock: "/decisions?limit=12", "The discount is a usual one."),
    Page("decisions-nothing", lambda stock: "/decisions?node=hr&state=lapsed", "No decision matches"),
    Page("review", lambda stock: "/decisions/review", "Orders of more than 10,000"),
    Page("decision", lambda stock: f"/decisions/{stock.governed['alone'].id}", "made again: the same verdict"),
    Page("decision-waiting", lambda stock: f"/decisions/{stock.governed['waiting'].id}", "if nobody decides by then"),
    Page("decision-resolved", lambda stock: f"/decisions/{stock.governed['resolved'].id}", "As agreed with the"),
    Page("decision-resolve", lambda stock: _resolve(stock), "It takes effect at once"),
    Page("decision-words", lambda stock: f"/decisions/{stock.governed['alone'].id}/explanation", "In plain words"),
    Page("events", lambda stock: "/events?type=DiscountRequested&limit=12", "CG-12520"),
    Page("event", lambda stock: f"/events/{stock.governed['denied'].event_id}", "higher than any that is given"),
    Page("policies", lambda stock: "/policies", "never given"),
    Page("policy", lambda stock: "/policies/finance.discounts@1.1.0", "More than half of this customer"),
    Page("policy-diff", lambda stock: "/policies/finance.discounts@1.0/diff?against=finance.discounts", "highest"),
    Page("policy-edit", lambda stock: "/policies/-/edit?of=finance.discounts", "There is no changelog."),
    Page("learning", lambda stock: "/learning", "Look and decide"),
    Page("learning-savings", lambda stock: "/learning/savings", "Not seen, estimated"),
    Page("learning-days", lambda stock: "/learning/days", "too few to say"),
    Page("replay", lambda stock: "/replay?again=true", "all of them"),
    Page("replay-policy", lambda stock: "/replay?policy=finance.discounts@1.0.0", "No rule speaks of a discount"),
    Page("shadow", lambda stock: "/replay/shadow", "runs in the shadow"),
    Page("switches", lambda stock: "/switches", "Stop everything"),
    Page("switches-node", lambda stock: "/switches/finance", "Ask another version"),
    Page("papers", lambda stock: "/papers", "Leaderboard"),
    Page("paper", lambda stock: f"/papers/{stock.papers['wine'].paper.id}", "6 units of the last place off"),
    Page("paper-claim-shown", lambda stock: _of_iris(stock, "?claim={}"), "Shown on the page"),
    Page("paper-claim", lambda stock: _of_iris(stock, "/claims/{}"), "The page has to print these digits"),
    Page("paper-story", lambda stock: f"/papers/{stock.papers['wine'].paper.id}/story", "They match!"),
    Page("paper-run", lambda stock: f"/papers/runs/{stock.papers['wine'].run.id}", "run_complete"),
    Page("map", lambda stock: "/play/map", "Made up by a test", DRAWN, LARGEST_MAP),
    Page("map-filtered", lambda stock: "/play/map?about=crimes&only=Arson&from=2020-02", "Arson", DRAWN, LARGEST_MAP),
    Page("map-shapes", lambda stock: "/play/map?about=wards&on=wards&on=streets", "members only", DRAWN, LARGEST_MAP),
    Page("map-unbuilt", lambda stock: "/play/map?about=parks", "It was never built", DRAWN, LARGEST_MAP),
    Page("approvals", lambda stock: "/approvals", "policy/refunds"),
    Page("approvals-denied", lambda stock: "/approvals?state=denied", "site/imprint"),
    Page("approvals-none", lambda stock: "/approvals?state=withdrawn", "None withdrawn"),
    Page("approval", lambda stock: f"/approvals/{stock.approvals['waiting'].id}", "Refunds of up to 100"),
    Page("approval-own", lambda stock: f"/approvals/{stock.approvals['own'].id}", "may not decide it"),
    Page("approval-denied", lambda stock: f"/approvals/{stock.approvals['denied'].id}", "The address is missing."),
    Page("approval-approve", lambda stock: _step(stock, "approve"), "Approve this?"),
    Page("approval-deny", lambda stock: _step(stock, "deny"), "Deny this?"),
    Page("approval-withdraw", lambda stock: _step(stock, "withdraw"), "Withdraw this request?"),
    Page("historian", lambda stock: "/historian?limit=100", "run.failed"),
    Page("historian-filtered", lambda stock: "/historian?kind=run.&since=2026-01-01T00:00", "run/0d6c-failed"),
    Page("historian-nothing", lambda stock: "/historian?actor=nobody", "Nothing fits"),
    Page("receipts", lambda stock: "/receipts", "knowledge/embeddings"),
    Page("receipts-of-a-run", lambda stock: f"/receipts?run={stock.run_id}", "schedule:nightly"),
    Page("receipt", lambda stock: "/receipts/knowledge/search_index", "handbook.md"),
    Page("receipt-partition", lambda stock: "/receipts/knowledge/chunks?partition=inbox", "made/knowledge/chunks"),
    Page("ledger", lambda stock: "/ledger", "Verify now"),
    Page("ledger-chain", lambda stock: "/ledger/receipts", "asset.materialized"),
    Page("ledger-entry", lambda stock: "/ledger/receipts/2", "the signed root"),
    Page("keys", lambda stock: "/keys", "ingest:read"),
    Page("key-new", lambda stock: "/keys/new", "signed requests only"),
    Page("godmode", lambda stock: "/godmode", "What is kept of founders"),
    Page("key-rotate", lambda stock: f"/keys/{stock.key_id}/rotate", "refused at once"),
    Page("key-revoke", lambda stock: f"/keys/{stock.key_id}/revoke", "You will be signed out".lower()),
    Page("sign-in", lambda stock: "/sign-in", "API key"),
    Page("sign-in-link", lambda stock: "/sign-in/stl_none", "uses nothing up"),
)
"""Every family of the navigation, and every page with an address of its own."""


def _resolve(stock: Stock) -> str:
    return f"/decisions/{stock.governed['large'].id}/resolve?verdict=deny"


def _of_iris(stock: Stock, address: str) -> str:
    taken = stock.papers["iris"]
    return f"/papers/{taken.paper.id}" + address.format(taken.plan.document["targets"][1]["claim"])


def _step(stock: Stock, step: str) -> str:
    waiting = stock.approvals["waiting"]
    return f"/approvals/{waiting.id}/{step}?seen={waiting.etag}"


@dataclass(frozen=True)
class Console:
    """The console as served, with its content; a client that bears a key which may do everything, and the cookie of a
    session that it was traded for.
    """

    url: str
    stock: Stock
    client: httpx.Client
    settings: Settings
    database: Database
    issued: IssuedKey
    session: OpenedSession
    layers: dict[str, BuiltArchive]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "page" in metafunc.fixturenames:
        metafunc.parametrize("page", PAGES, ids=lambda page: page.name)


@pytest.fixture(scope="session")
def pages() -> tuple[Page, ...]:
    """All that is looked at."""
    return PAGES


@pytest.fixture(scope="session")
def console(
    tmp_path_factory: pytest.TempPathFactory,
    new_database: Callable[[], DatabaseUrls],
    drop_database: Callable[[DatabaseUrls], None],
    serve: Callable[..., AbstractContextManager[httpx.Client]],
    issue_key: Callable[..., IssuedKey],
    index_library: Callable[[Settings, Database], None],
    new_materialization: Callable[..., Any],
    execute_runs: Callable[..., Any],
    serve_dagster: Callable[..., AbstractContextManager[None]],
    build_layers: Callable[[Settings, Database], dict[str, BuiltArchive]],
    add_usage: Callable[..., None],
    reproduce: Callable[..., Any],
) -> Iterator[Console]:
    """A stocked studio, served once for all pages."""
    urls = new_database()
    settings = Settings(
        home=tmp_path_factory.mktemp("console"),
        api_requests_per_minute=1_000_000,
        api_requests_in_flight=1_000,
        api_failures_per_minute=1_000,
        ff_cost_telemetry=True,
        ff_map_pipeline=True,
        llm_providers="offline",
    )
    with Database(urls) as database, contextlib.ExitStack() as studio:
        with database.transaction() as connection:
            sources.ensure_builtin(connection, settings)
        index_library(settings, database)
        layers = build_layers(settings, database)
        issued = issue_key(settings, urls, role=Role.SUPER_ADMIN)
        issue_key(settings, urls, role=Role.VIEWER, scopes=["search:read", "ingest:read"])
        instance = studio.enter_context(open_instance(settings, urls))
        studio.enter_context(serve_dagster(instance, settings))
        runs = execute_runs(instance, database, settings)
        _spend(settings, database, add_usage)
        papers = {"wine": reproduce(settings, database, "s1_wine_loo")}
        papers["iris"] = reproduce(settings, database, "s2_fisher_iris")
        stock = _stock(settings, database, issued, new_materialization, runs, papers)
        with serve(create_app(settings, database=database), key=issued.key) as client:
            stock = replace(stock, call=_converse(client))
            with Ledger(urls, settings) as ledger:
                begun = sessions.begin(recognise(database, settings, issued.key), settings)
                session = ledger.commit(begun).result(20)
            yield Console(str(client.base_url).rstrip("/"), stock, client, settings, database, issued, session, layers)
    drop_database(urls)


def _spend(settings: Settings, database: Database, add_usage: Callable[..., None]) -> None:
    """Three weeks of calls to models, a budget that is nearly used up and one that is used up."""
    today = datetime.now(UTC).date()
    add_usage(database, today - timedelta(days=21), 22, 60)
    days = usage_days.Span(today - timedelta(days=21), today - timedelta(days=1))
    for module in (costs, latency, error_budget):
        module.sync_days(database, days)
    costs.sync_weeks(database, days)
    tokens = (30_000, 1)
    with Ledger(database.urls, settings) as ledger:
        for period, limit in zip(("day", "month"), tokens, strict=True):
            wanted = NewBudget("agent", period, "echo", limit_tokens=limit)
            change = database.read(lambda c, wanted=wanted: budgets.set_budget(c, local_principal(), wanted))
            ledger.commit(change).result(20)
    with database.transaction() as connection:
        connection.execute(
            "INSERT INTO service_health (instance, name, status, ts)"
            " VALUES ('studio-1', 'provider/openai', 'ok', now())"
        )


def _stock(
    settings: Settings,
    database: Database,
    issued: IssuedKey,
    new_materialization: Callable[..., Any],
    runs: Any,
    papers: dict[str, Any],
) -> Stock:
    now = datetime.now(UTC)
    made, run_id = [], "5b2f9c1e-demo-run"
    before: tuple[Input, ...] = ()
    read = (Artifact("inbox/handbook.md", "text/markdown", "6f" * 32, 18_240),)
    for number, (asset, partition) in enumerate(
        (
            ("knowledge/documents", "inbox"),
            ("knowledge/chunks", "inbox"),
            ("knowledge/embeddings", "inbox"),
            ("knowledge/search_index", None),
        )
    ):
        at = now - timedelta(minutes=9 - number)
        data_version = f"{number}f3c9a7e2b81d4c60"
        made.append(
            new_materialization(
                asset,
                run_id,
                number + 1,
                partition=partition,
                at=at,
                started_at=at,
                seconds=1.5 * number + 0.04,
                inputs=before,
                sources=read if asset == "knowledge/documents" else (),
                data_version=data_version,
            )
        )
        before = (Input(asset, partition, data_version, run_id),)
    with Ledger(database.urls, settings) as ledger:
        sync(database, ledger, made)
        reason = "The PDF ended in the middle of a table of cross references; the last good version stays in place."
        failed = run_failed(
            "0d6c-failed", job="knowledge_refresh", assets=["knowledge/documents"], partition="inbox", step=None,
            reason=reason,
        )  # fmt: skip
        ledger.append([failed]).result(20)
    with database.snapshot() as connection:
        (document_id,) = connection.execute("SELECT id FROM documents WHERE uri = 'hnsw.md'").fetchone() or (0,)
    return Stock(
        str(issued.api_key.id),
        document_id,
        run_id,
        str(made[-1].receipt),
        _ask_for_approvals(settings, database, recognise(database, settings, issued.key).principal),
        runs,
        _work(settings, database, runs),
        govern(settings, database, recognise(database, settings, issued.key).principal),
        papers,
    )


def _converse(client: httpx.Client) -> str:
    """Have an agent answer and remember something; returns the call's job."""
    asked = client.post("/api/v1/agents/nova", json={"input": "Which index does a filter need?"})
    given = {"tier": "semantic", "text": "Filters are written by hand."}
    assert asked.status_code == 200, asked.text
    assert client.post("/api/v1/agents/nova/memory", json=given).status_code == 201
    return str(asked.json()["job_id"])


def _work(settings: Settings, database: Database, runs: Any) -> dict[str, Job]:
    """A job that a real run is for, one that failed, and one that waits until tomorrow."""
    tomorrow = datetime.now(UTC) + timedelta(days=1)
    asked = {
        "done": JobRequest("search-index", priority=5),
        "failed": JobRequest("search-index"),
        "waiting": JobRequest("noop", {"message": "good morning"}, scheduled_at=tomorrow),
    }
    with Ledger(database.urls, settings) as ledger:

        def write(prepare: Callable[[Any], Change[Job]]) -> Job:
            return ledger.commit(database.read(prepare)).result(20)

        jobs = {
            name: write(lambda connection, wanted=wanted: submit(connection, local_principal(), wanted))
            for name, wanted in asked.items()
        }
        done, failed = jobs["done"].id, jobs["failed"].id
        running = write(lambda connection: lifecycle.claim(connection, done, runs.second))
        RunningJob(database, ledger, running, runs.second, threading.Event()).log("read the second chapter")
        write(lambda connection: lifecycle.finish(connection, done, runs.second))
        write(lambda connection: lifecycle.claim(connection, failed, runs.failed))
        reason = lifecycle.Failure("source_unreadable", "The source is gone.", passing=False)
        write(lambda connection: lifecycle.fail(connection, failed, runs.failed, reason))
    return jobs


def govern(settings: Settings, database: Database, owner: Principal) -> dict[str, Decision]:
    """The samples, a few decisions with what came of them, a better variant, and days that were summed up."""
    with Ledger(database.urls, settings) as ledger:

        def write(prepare: Callable[[Any], Change[Any]]) -> Any:
            return ledger.commit(database.read(prepare)).result(20)

        publish_samples(database, ledger, owner)
        _publish_stricter(write, owner)
        decisions = _decide(settings, database, ledger, owner, write)
        _learn(database, write, owner)
        write(lambda connection: flags.set_flag(connection, owner, "finance", flags.SHADOW, _NEWEST, "To compare."))
        with database.transaction() as connection:
            shadow.fill(connection)
        today = datetime.now(UTC).date()
        days = Span(today - timedelta(days=12), today)
        for sync in (sync_features, sync_scorecards, sync_drift):
            sync(database, days)
    return decisions


def _publish_stricter(write: Callable[..., Any], owner: Principal) -> None:
    sample = REPOSITORY / "samples" / "policies" / "finance" / "discounts.yaml"
    policy, tests = sample.read_text("utf-8"), sample.with_suffix(".tests.yaml").read_text("utf-8")
    stricter = policy.replace("version: 1.0.0", "version: 1.1.0").replace("highest: 0.3", "highest: 0.25")
    stricter = stricter.replace("First version.", "A discount above a quarter is never given.")
    write(lambda connection: policies.publish(connection, owner, stricter, tests))


def _decide(
    settings: Settings, database: Database, ledger: Ledger, owner: Principal, write: Callable[..., Any]
) -> dict[str, Decision]:
    decider = Decider(database, settings)
    begun = datetime.now(UTC) - timedelta(days=10)
    # Both variants approve it, whichever is drawn.
    usual = {"discount": 0.05, "amount": 400, "segment": "Consumer", "category": "Paper"}

    def decide(hours: int, **said: Any) -> Decision:
        event = NewEvent("DiscountRequested", usual | said, begun + timedelta(hours=hours), "CG-12520", "order-4711")
        return ledger.commit(decider.decide(owner, "finance", event)).result(20)

    def observe(decision: Decision, profit: float) -> None:
        told = [NewOutcome(decision.id, {"profit": profit}, decision.occurred_at + timedelta(hours=2))]
        write(lambda connection: record_outcomes(connection, owner, told))

    # What a person approved goes well four times, so that the next one has similar cases to rest on.
    for number in range(4):
        asked = decide(number)
        if asked.state is State.WAITING:
            reason = "As agreed with the customer."
            write(
                partial(review.resolve, principal=owner, decision_id=asked.id, verdict=Verdict.APPROVE, reason=reason)
            )
        observe(asked, 20.0 + number)
    # Then it acts alone, often enough that what was not given can be estimated.
    for number in range(_ENOUGH):
        alone = decide(48 + number)
        observe(alone, 31.5)
    return {
        "resolved": asked,
        "alone": alone,
        "denied": decide(90, discount=0.28),
        "waiting": decide(91, discount=0.25, amount=3000, category="Furniture"),
        "large": decide(92, amount=12_000, segment="Corporate"),
    }


def _learn(database: Database, write: Callable[..., Any], owner: Principal) -> None:
    """Counts by which the variant is better, and its promotion."""
    with database.transaction() as connection:
        for variant, successes, failures in (("baseline", 240, 160), ("cautious", 360, 60)):
            connection.execute(
                "INSERT INTO policy_variants_stats (node, policy, variant, draws, successes, failures, updated_at)"
                " VALUES ('finance', %s, %s, %s, %s, %s, now()) ON CONFLICT (node, policy, variant) DO UPDATE"
                " SET draws = excluded.draws, successes = excluded.successes, failures = excluded.failures",
                (_NEWEST, variant, successes + failures, successes, failures),
            )
    write(lambda connection: promotion.propose(connection, owner, nodes.load(connection, "finance")))


def _ask_for_approvals(settings: Settings, database: Database, owner: Principal) -> dict[str, Approval]:
    builder = Principal("key:5b0f8c1e-8d8c-4d1c-9a5b-0f2a6f2a7c11", Role.BUILDER, frozenset({"approvals:*"}))
    diff = "@@ limits @@\n currency: EUR\n-refund_without_call: 50\n+refund_without_call: 100"
    why = "Refunds of up to 100 need no call any more: in March 94 % of them were granted anyway."
    asked = {
        "waiting": (builder, Proposal("policy", "policy/refunds", b"limit: 100", why, "text/yaml", diff, Risk.HIGH)),
        "own": (owner, Proposal("publish", "site/press-kit", b"<h1>", "The kit is complete.", second_person=True)),
        "text": (builder, Proposal("publish", "handbook/text", b"A lamp", "The handbook is to be on the site.")),
        "denied": (builder, Proposal("publish", "site/imprint", b"<p>", "It is needed by law.", risk=Risk.LOW)),
    }
    approvals = {}
    with Ledger(database.urls, settings) as ledger:
        for name, (who, proposal) in asked.items():
            change = database.read(lambda connection, who=who, proposal=proposal: request(connection, who, proposal))
            approvals[name] = ledger.commit(change).result(20)
        denied = approvals["denied"]
        seen, reason = frozenset({denied.etag}), "The address is missing."
        change = database.read(
            lambda connection: decide(connection, owner, denied.id, Verdict.DENY, reason=reason, seen=seen)
        )
        approvals["denied"] = ledger.commit(change).result(20)
    return approvals


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """A real Chromium; tests that need it are skipped where there is none."""
    settings = Settings()
    try:
        find(settings)
    except Unavailable as missing:
        pytest.skip(missing.message)
    with launched(settings, webgl=True) as running:
        yield running
