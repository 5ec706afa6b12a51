"""The application: settings in, a FastAPI application out.

What it serves is in `api.routers`; running it as a process is `api.server`'s business.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections.abc import AsyncIterator
from functools import partial
from importlib.metadata import version

from fastapi import FastAPI

from api import console, dagster_proxy, idempotency, openapi, problems
from api.access import SIGNED, Authentication
from api.bodies import JsonGuard
from api.launches import Launches
from api.limits import InFlight, Rates
from api.middleware import BodyLimit, LoopbackOnly, RequestLog, SecurityHeaders, TextGuard, is_loopback
from api.quick import Shared, Together, Workers
from api.routers import (
    API,
    agent_memory,
    agents,
    approvals,
    audit,
    budgets,
    costs,
    decisions,
    documents,
    events,
    files,
    flags,
    founder,
    health,
    historian,
    jobs,
    keys,
    learning,
    ledger,
    llm,
    maps,
    memory,
    nodes,
    notifications,
    outcomes,
    paper_reports,
    paper_runs,
    papers,
    policies,
    receipts,
    runs,
    search,
    sessions,
    sources,
    subjects,
    telemetry,
    usage,
    vault,
    webhooks,
)
from api.sessions import UPLOADS
from api.streams import Streams
from api.telemetry import Telemetry
from stemma.access.authentication import authenticate
from stemma.agents.logs import AgentLogs
from stemma.agents.memory.keeper import Keeper
from stemma.agents.relay import Outside, Relay
from stemma.agents.tools.model import Studio
from stemma.agents.tools.toolbox import Tools
from stemma.agents.vault.confidences import Confidences
from stemma.errors import InvalidInput
from stemma.governance.decisions.deciding import Decider
from stemma.jobs import model
from stemma.knowledge.search import Searcher
from stemma.ledger import feed
from stemma.ledger.service import Ledger
from stemma.llm.metering import Meter
from stemma.llm.providers.openai import NAME as OPENAI
from stemma.llm.router import Router
from stemma.llm.switches import SwitchBoard
from stemma.papers.runs import model as run_events
from stemma.store.database import Database
from stemma.store.settings import Settings, load_settings
from stemma.telemetry import collectors
from stemma.telemetry.appends import AppendObserver
from stemma.telemetry.checks import Check, check_all
from stemma.telemetry.dependencies import Dependencies
from stemma.telemetry.metrics import Metrics
from stemma.telemetry.providers import check_providers
from stemma.telemetry.public import PublicView
from stemma.telemetry.recorder import PERIOD, Recorder
from stemma.telemetry.reporting import open_reporter
from stemma.telemetry.tracing import open_tracing

logger = logging.getLogger(__name__)

_DESCRIPTION = """
Search in everything the studio has read, upload documents, and open what a citation points at.
Every request bears an API key (`Authorization: Bearer stm_…`), is signed by RFC 9421, or belongs to a session.
Errors are RFC 9457 problem details with a stable `code`. Lists come in pages `{data, next_cursor}`.
"""
_MULTIPART_OVERHEAD = 1 << 16
# A policy as its editor sends it, with every character escaped.
_LARGEST_FIELD = 1 << 18


def create_app(settings: Settings | None = None, *, database: Database | None = None) -> FastAPI:
    """Make the application; without `database` it opens one of its own when it starts and closes it at the
    end.

    Raises InvalidInput when the settings would serve it beyond loopback, where keys would be sent in the clear.
    """
    settings = settings or load_settings()
    require_loopback(settings)
    app = FastAPI(
        title="Stemma",
        version=version("stemma-studio"),
        description=_DESCRIPTION,
        lifespan=_lifespan,
        # The documentation pages load their scripts from a CDN.
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        responses=openapi.problems(*openapi.EVERYWHERE),
        # FastAPI's own spans and logs hold paths, queries and exceptions; ours are in `api.telemetry`.
        telemetry={"tracing": False, "metrics": False, "logs": False, "auto_configure": False},
        form_limits={"max_files": 1, "max_fields": 64, "max_part_size": _LARGEST_FIELD},
    )
    app.state.settings = settings
    app.state.given_database = database
    app.state.in_flight = InFlight()
    app.state.rates = Rates()
    app.state.metrics = Metrics()
    app.state.public_view = PublicView()
    app.state.tracing = None
    app.state.reporter = None
    problems.install(app)
    idempotency.install(app)
    openapi.install(app)
    # Routes are tried one after the other: first those that are asked most.
    app.include_router(decisions.asking)
    app.include_router(decisions.router)
    app.include_router(decisions.aliases)
    app.include_router(search.router)
    app.include_router(health.router)
    app.include_router(documents.router)
    app.include_router(documents.uploads)
    app.include_router(sources.router)
    app.include_router(approvals.router)
    app.include_router(historian.router)
    app.include_router(historian.streams)
    app.include_router(jobs.router)
    app.include_router(jobs.streams)
    app.include_router(jobs.aliases)
    app.include_router(agents.router)
    app.include_router(agents.aliases)
    app.include_router(runs.router)
    app.include_router(runs.streams)
    app.include_router(learning.router)
    app.include_router(ledger.router)
    app.include_router(llm.router)
    app.include_router(maps.router)
    app.include_router(memory.router)
    app.include_router(agent_memory.router)
    app.include_router(events.router)
    app.include_router(events.aliases)
    app.include_router(outcomes.router)
    app.include_router(outcomes.aliases)
    app.include_router(paper_reports.router)
    app.include_router(papers.router)
    app.include_router(paper_runs.router)
    app.include_router(paper_runs.streams)
    app.include_router(policies.router)
    app.include_router(nodes.router)
    app.include_router(flags.router)
    app.include_router(founder.router)
    app.include_router(receipts.router)
    app.include_router(keys.router)
    app.include_router(audit.router)
    app.include_router(files.router)
    app.include_router(sessions.router)
    app.include_router(sessions.pages)
    app.include_router(subjects.router)
    app.include_router(telemetry.router)
    app.include_router(telemetry.public)
    app.include_router(usage.router)
    app.include_router(costs.router)
    app.include_router(budgets.router)
    app.include_router(notifications.router)
    app.include_router(vault.router)
    app.include_router(webhooks.router)
    app.include_router(dagster_proxy.router)
    console.install(app)
    # The one added last sees a request first.
    larger = {
        f"{API}{documents.UPLOAD_PATH}": settings.max_document_bytes + _MULTIPART_OVERHEAD,
        **dict.fromkeys(UPLOADS, settings.max_document_bytes + _MULTIPART_OVERHEAD),
        f"{API}{papers.PATH}": settings.max_document_bytes + _MULTIPART_OVERHEAD,
        f"{API}{approvals.PATH}": approvals.MAX_BODY_BYTES,
        f"{API}{events.PATH}": events.MAX_BODY_BYTES,
        events.PATH: events.MAX_BODY_BYTES,
    }
    app.add_middleware(JsonGuard, unread=SIGNED)
    app.add_middleware(Authentication)
    app.add_middleware(BodyLimit, larger=larger)
    app.add_middleware(TextGuard)
    app.add_middleware(LoopbackOnly)
    # Dagster's pages keep its own policy.
    app.add_middleware(SecurityHeaders, apart=(dagster_proxy.PATH,))
    app.add_middleware(RequestLog)
    app.add_middleware(Telemetry, metrics=app.state.metrics)
    return app


def require_loopback(settings: Settings) -> None:
    """Raises InvalidInput unless the API is to be bound to a loopback address."""
    if not is_loopback(settings.api_host):
        raise InvalidInput(
            "api_host_not_loopback",
            f"The API speaks no TLS, so that keys would be sent in the clear: it is not bound to {settings.api_host}.",
            field="STEMMA_API_HOST",
            hint="Use 127.0.0.1, ::1 or localhost, and an SSH tunnel to reach it from elsewhere.",
        )


@contextlib.asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    settings: Settings = app.state.settings
    given: Database | None = app.state.given_database
    with contextlib.ExitStack() as opened:
        database = given or opened.enter_context(Database.open(settings))
        searcher = Searcher(database, settings)
        opened.callback(searcher.close)
        app.state.database = database
        app.state.searcher = searcher
        app.state.decider = Decider(database, settings)
        app.state.workers = workers = Workers(database.glances)
        opened.callback(workers.close)
        app.state.deciding = Together(workers, app.state.decider.decide_all, decisions.AT_ONCE)
        app.state.known = Shared(workers, partial(authenticate, database, settings))
        _open_telemetry(app, settings, opened)
        observer = AppendObserver(app.state.metrics, app.state.tracing)
        app.state.ledger = opened.enter_context(Ledger(database.urls, settings, observer=observer))
        app.state.keeper = Keeper(settings, database)
        meter = app.state.meter = opened.enter_context(Meter(database, settings))
        meter.prepare()
        switches = app.state.switches = opened.enter_context(SwitchBoard(database.urls.app))
        async with (
            Router(settings, searcher, meter, switches) as app.state.router,
            Launches(settings) as app.state.launches,
            Streams(database.urls.app, feed.CHANNEL, model.CHANNEL, run_events.CHANNEL) as app.state.streams,
            _relay(app, settings, database) as app.state.relay,
            dagster_proxy.opened(settings) as app.state.webservers,
            _looked_at(app.state.router),
        ):
            opened.enter_context(_look(app, settings, database))
            yield


@contextlib.asynccontextmanager
async def _looked_at(router: Router) -> AsyncIterator[None]:
    """Have the router look at a provider that charges every minute, by requests that cost nothing.

    The others need none: the studio's own server is looked at by `check_providers`, `offline` is always there.
    """

    async def look() -> None:
        while router.standings()[OPENAI].state != "disabled":
            try:
                await router.look()
            except Exception:
                logger.exception("the providers could not be looked at")
            await asyncio.sleep(PERIOD)

    task = asyncio.create_task(look())
    try:
        yield
    finally:
        task.cancel()


def _relay(app: FastAPI, settings: Settings, database: Database) -> Relay:
    """The relay of agents' calls, over what the process has opened."""
    state = app.state
    logs = state.agent_logs = AgentLogs(settings)
    tools = Tools(Studio(settings, database, state.searcher, lambda: state.decider, state.ledger))
    outside = Outside(tools, state.keeper, Confidences(settings, state.switches), state.switches)
    return Relay(database, state.ledger, state.router, outside, logs, observe=state.metrics.agent_called)


def _open_telemetry(app: FastAPI, settings: Settings, opened: contextlib.ExitStack) -> None:
    """Open what the settings ask for; what still waits to be sent at the end is."""
    if (reporter := open_reporter(settings)) is not None:
        app.state.reporter = opened.enter_context(reporter)
    if (tracing := open_tracing(settings, "stemma-api")) is not None:
        app.state.tracing = opened.enter_context(tracing)


def _look(app: FastAPI, settings: Settings, database: Database) -> Recorder:
    """Make scrapes look at the database and the ledger, and begin to write down how things stand."""
    metrics: Metrics = app.state.metrics
    ledger: Ledger = app.state.ledger
    router: Router = app.state.router
    looks: dict[str, collectors.Look] = {
        "pool": lambda: collectors.pool(database),
        "queue": lambda: collectors.queue(ledger.waiting),
        "jobs": lambda: collectors.jobs(database),
    }
    collectors.Guarded(metrics.registry, looks)
    dependencies = Dependencies(settings, database)

    def checks() -> dict[str, Check]:
        found = check_all(settings, database, ledger.status()) | dependencies.check()
        return found | check_providers(settings, database, router.standings())

    return Recorder(
        database,
        ledger,
        instance=socket.gethostname(),
        checks=checks,
        load=lambda: metrics.load(without=(*health.PROBES, telemetry.METRICS_PATH)),
    )
