"""Fixtures for every test: settings in a folder of their own, a fresh migrated database on one real server, models.

The server is the embedded one, started once per test session; `STEMMA_TEST_DATABASE_URL` names another (its role
needs CREATEDB). Each test gets a clone of a migrated template, which takes milliseconds. What is slow about a model
(loading its weights, exporting its query encoder) happens once per session, too. Tests that run side by side
(`make test`) have a server in each process.
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import gc
import gzip
import io
import itertools
import json
import os
import shutil
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from random import Random
from typing import Any
from urllib.parse import urlsplit, urlunsplit
from uuid import UUID

import httpx
import psycopg
import pytest
import structlog
import typer.main
import uvicorn
from fastapi import FastAPI
from hypothesis import settings as hypothesis_settings
from psycopg import sql
from reportlab.lib.pdfencrypt import StandardEncryption
from reportlab.pdfgen.canvas import Canvas
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling

from api.server import Server, listen
from stemma.access.keys import IssuedKey, NewKey, create_key
from stemma.access.permissions import SCOPES, Role
from stemma.access.principal import local_principal
from stemma.errors import CheckFailed
from stemma.governance import nodes, policies
from stemma.governance.decisions.deciding import Decider
from stemma.governance.events import types
from stemma.governance.events.model import NewEvent
from stemma.governance.outcomes import recording as outcomes
from stemma.governance.outcomes.model import NewOutcome
from stemma.knowledge import sources
from stemma.knowledge.chunking import Chunker
from stemma.knowledge.chunks import sync_chunks
from stemma.knowledge.documents import sync_documents
from stemma.knowledge.embedding import Embedder, load_model, sync_embeddings
from stemma.knowledge.generations import build_generation
from stemma.knowledge.models import Source
from stemma.knowledge.onnx_query import export_query_encoder, query_encoder_folder
from stemma.ledger.change import Change
from stemma.ledger.receipts import Materialization
from stemma.ledger.service import Ledger
from stemma.maps import cleaning, lifecycle, tiling
from stemma.maps.catalog import BuiltArchive, RegisteredLayer, Visibility
from stemma.maps.layers import Layer, parse_layer
from stemma.maps.part_memory import PartMemory
from stemma.maps.registration import register
from stemma.papers import catalog as papers
from stemma.papers import intake, planning
from stemma.papers import steps as paper_steps
from stemma.papers.claims.reading import read_claims
from stemma.papers.model import Paper, Plan
from stemma.papers.pages import read_pages, to_json
from stemma.papers.plan import parse_plan
from stemma.papers.reports import publishing
from stemma.papers.runs import lifecycle as paper_runs
from stemma.papers.runs.model import Artifact as RunArtifact
from stemma.papers.runs.model import Measured, Run, RunStatus
from stemma.papers.sandbox.levels import machine
from stemma.store import embedded, migrations, webserver
from stemma.store.database import Database, DatabaseUrls
from stemma.store.files import FileStore
from stemma.store.outputs import Artifact
from stemma.store.settings import REPOSITORY, Settings
from tests.loopback import Outside

# The first example of a test pays for imports, and a busy machine for others: time is measured in benchmarks/ alone.
hypothesis_settings.register_profile("untimed", deadline=None)
hypothesis_settings.load_profile("untimed")

# Rich typesets a traceback with every local in it, which takes seconds and is looked at by nobody.
structlog.get_config()["processors"][-1].exception_formatter = structlog.dev.plain_traceback

Serve = Callable[..., AbstractContextManager[httpx.Client]]

# Typer builds all commands anew whenever it is called, which a process otherwise does once.
typer.main.get_command = functools.cache(typer.main.get_command)

# No test finds the model server of whoever runs it, nor its keys.
os.environ.update(STEMMA_LOCAL_MODEL_URL="", OPENAI_API_KEY="")

LIBRARY = {
    "hnsw.md": (
        "# Vector search\n\n## Indexing\n\nAdd an HNSW index to a vector column with"
        " `CREATE INDEX ON items USING hnsw (embedding vector_cosine_ops)`.\n\n## Filtering\n\n"
        "A filter that keeps few rows needs an exact scan, because the graph is left too early.\n"
    ),
    "bread.md": "# Bread\n\nKnead flour, water, salt and yeast; let the dough rise before baking.\n",
    "übersicht.txt": "Die Übersicht nennt 😀 alle Kapitel und ihre Seiten in der Reihenfolge des Buches.\n",
}
# Of this process: several may share the server that STEMMA_TEST_DATABASE_URL names.
_TEMPLATE = f"stemma_test_template_{os.getpid()}"
_LONGEST = (
    "browser/test_pages.py",
    "browser/test_flows.py",
    "browser/test_map.py",
    "browser/test_agents.py",
    "api/test_authorization.py",
    "papers/runs/test_runs.py",
    "agents/tools/test_injection.py",
    "cli/test_up.py",
    "cli/test_resilience.py",
    "cli/test_model_swap.py",
    "cli/test_demo.py",
    "jobs/test_resilience.py",
    "api/test_conformance.py",
    "api/test_kill.py",
    "api/test_dagster_proxy.py",
    "resources/test_warm_launcher.py",
    "store/test_embedded.py",
    "knowledge/test_embedding.py",
    "knowledge/test_generations.py",
    "knowledge/test_chunking.py",
    "papers/sandbox/test_escapes.py",
)
_MEMORY = Path("/dev/shm")
_NEEDED = 2 << 30
_numbers = itertools.count(1)
_USAGE = """
    INSERT INTO provider_usage (ts, request_id, actor, agent, route, op, provider, model, status, error_code, tokens_in,
        tokens_cached, tokens_out, counted, cost_est, latency_ms, ttft_ms, meta)
    SELECT (%(first)s::date + day)::timestamp AT TIME ZONE 'UTC' + (call * 86399.0 / %(calls)s) * interval '1 second',
        format('r-%%s-%%s', day, call), 'key:test', (ARRAY['nova', 'lyra', NULL])[1 + call %% 3],
        (ARRAY['/api/v1/llm/run', '/api/v1/agents/{name}'])[1 + call %% 2], 'run',
        (ARRAY['openai', 'local'])[1 + call / 2 %% 2], (ARRAY['gpt-4.1-mini', 'gpt-4o-mini', 'llama'])[1 + call %% 3],
        CASE call %% 20 WHEN 7 THEN 'error' WHEN 13 THEN 'cancelled' ELSE 'ok' END,
        CASE call %% 20 WHEN 7 THEN 'provider_timeout' END, 10 + call %% 900, call %% 10, call %% 300,
        CASE call %% 5 WHEN 0 THEN 'estimated' ELSE 'provider' END,
        CASE call / 2 %% 2 WHEN 0 THEN 0.0000123456 * (1 + call %% 71) END, 5 + (call * 7919) %% 2000, call %% 400, '{}'
    FROM generate_series(0, %(days)s - 1) AS day, generate_series(0, %(calls)s - 1) AS call
"""
_FOUNDER_USAGE = """
    INSERT INTO founder_usage SELECT %(first)s::date + day, 2, 1, 100, 50, 0.0000000007
    FROM generate_series(0, %(days)s - 1) AS day
"""
_SPENDING = """
    INSERT INTO spending SELECT 'studio', '', day, sum(calls), sum(unpriced), sum(tokens), sum(cost) FROM (
        SELECT (ts AT TIME ZONE 'UTC')::date AS day, 1 AS calls, (cost_est IS NULL)::int AS unpriced,
            tokens_in + tokens_out AS tokens, coalesce(cost_est, 0) AS cost FROM provider_usage
        UNION ALL SELECT day, calls, unpriced, tokens_in + tokens_out, cost_est FROM founder_usage
    ) AS used WHERE day BETWEEN %(first)s AND %(first)s::date + %(days)s - 1 GROUP BY day
"""


# A full collection looks at all that torch, Dagster and 4,000 tests hold: by Python's thresholds a fifth of the time.
gc.set_threshold(50_000, 20, 100)


def pytest_collection_finish() -> None:
    """Nothing that is there by now goes away before the end."""
    gc.freeze()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Side by side, begin with what takes longest, so that no process is left alone with it at the end."""
    if "PYTEST_XDIST_WORKER" in os.environ:
        ranks = {name: rank for rank, name in enumerate(_LONGEST)}
        tests = Path(__file__).parent
        items.sort(key=lambda item: ranks.get(item.path.relative_to(tests).as_posix(), len(ranks)))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> LoadScopeScheduling:
    """Give processes whole modules, whose tests share what is costly, and one of them all that a browser looks at."""
    return _Modules(config, log)


class _Modules(LoadScopeScheduling):
    def _split_scope(self, nodeid: str) -> str:
        return "browser" if nodeid.startswith("tests/browser/") else nodeid.partition("::")[0]


def _with_database(url: str, name: str) -> str:
    return urlunsplit(urlsplit(url)._replace(path=f"/{name}"))


def _recreate(connection: psycopg.Connection, name: str, template: str) -> None:
    target, source = sql.Identifier(name), sql.Identifier(template)
    connection.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(target))
    # In memory, copying files takes half of what it takes to log every page of them.
    connection.execute(sql.SQL("CREATE DATABASE {} TEMPLATE {} STRATEGY file_copy").format(target, source))


def pytest_report_header() -> str:
    """Which sandbox the suite's escapes are tried from; workers beside each other would each keep it to themselves."""
    levels = machine().levels
    return f"sandbox level in force: {levels[0]}; tried: {', '.join(levels)}" if levels else "no sandbox: refused"


@pytest.fixture(scope="session")
def new_home() -> Iterator[Callable[[], Path]]:
    """Make empty private folders, in memory where there is room: a server syncs a thousand files."""
    roomy = _MEMORY.is_dir() and shutil.disk_usage(_MEMORY).free > _NEEDED
    made: list[Path] = []

    def make() -> Path:
        made.append(Path(tempfile.mkdtemp(prefix="stemma-test-", dir=_MEMORY if roomy else None)))
        return made[-1]

    yield make
    for folder in made:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def server(new_home: Callable[[], Path]) -> Iterator[DatabaseUrls]:
    """One server for the session, with a migrated template database."""
    given = os.environ.get("STEMMA_TEST_DATABASE_URL")
    settings = Settings(home=new_home(), postgres_shared_buffers="128MB")
    urls = (
        DatabaseUrls(app=given, owner=given, dagster=given)
        if given
        else DatabaseUrls(**embedded.ensure_running(settings))
    )
    with psycopg.connect(urls.owner, autocommit=True) as connection:
        _recreate(connection, _TEMPLATE, "template1" if given else "stemma")
    migrations.upgrade(_with_database(urls.owner, _TEMPLATE))
    yield urls
    if not given:
        embedded.stop(settings, force=True)
        return
    with psycopg.connect(urls.owner, autocommit=True) as connection:
        connection.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(_TEMPLATE)))


@pytest.fixture(scope="session")
def bare_server(new_home: Callable[[], Path]) -> Iterator[dict[str, str]]:
    """The URLs of a server whose installation lacks pgvector."""
    place = new_home()
    package = embedded.binaries().parents[1]
    installation = place / package.name / embedded.binaries().parent.name
    shutil.copytree(embedded.binaries().parent, installation, ignore=shutil.ignore_patterns("include", "*.a"))
    libraries = package.with_name(f"{package.name}.libs")
    if libraries.is_dir():
        shutil.copytree(libraries, place / libraries.name)
    for control in installation.rglob("vector.control"):
        control.unlink()
    settings = Settings(home=place / "home", postgres_shared_buffers="16MB")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(embedded, "binaries", lambda: installation / "bin")
        urls = embedded.ensure_running(settings)
    yield urls
    embedded.stop(settings, force=True)


@pytest.fixture(scope="session")
def new_database(server: DatabaseUrls) -> Callable[[], DatabaseUrls]:
    """Make databases: each call clones the migrated template, with an empty database for Dagster beside it."""

    def make() -> DatabaseUrls:
        name = f"stemma_test_{os.getpid()}_{next(_numbers)}"
        with psycopg.connect(server.owner, autocommit=True) as connection:
            _recreate(connection, name, _TEMPLATE)
            _recreate(connection, f"{name}_dagster", "template1")
        return DatabaseUrls(
            app=_with_database(server.app, name),
            owner=_with_database(server.owner, name),
            dagster=_with_database(server.owner, f"{name}_dagster"),
        )

    return make


@pytest.fixture(scope="session")
def drop_database(server: DatabaseUrls) -> Callable[[DatabaseUrls], None]:
    """Remove a database that `new_database` made, whoever still holds it."""

    def drop(urls: DatabaseUrls) -> None:
        with psycopg.connect(server.owner, autocommit=True) as connection:
            for url in (urls.owner, urls.dagster):
                name = sql.Identifier(urlsplit(url).path.lstrip("/"))
                connection.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(name))

    return drop


@pytest.fixture
def settings(
    tmp_path: Path,
    new_database: Callable[[], DatabaseUrls],
    drop_database: Callable[[DatabaseUrls], None],
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Settings]:
    """Settings with an empty home and a fresh migrated database, also in the environment for child processes."""
    urls = new_database()
    home = tmp_path / "home"
    home.mkdir()
    _put_into_environment(monkeypatch, home, urls)
    yield Settings()
    drop_database(urls)


def _put_into_environment(environment: pytest.MonkeyPatch, home: Path, urls: DatabaseUrls) -> None:
    values = {
        "STEMMA_HOME": str(home),
        "STEMMA_DATABASE_URL": urls.app,
        "STEMMA_DATABASE_OWNER_URL": urls.owner,
        "STEMMA_DAGSTER_DATABASE_URL": urls.dagster,
    }
    for name, value in values.items():
        environment.setenv(name, value)


@pytest.fixture(scope="module")
def studio(
    new_home: Callable[[], Path],
    new_database: Callable[[], DatabaseUrls],
    drop_database: Callable[[DatabaseUrls], None],
) -> Iterator[tuple[Settings, Database]]:
    """Settings (in the environment, too) and database that the tests of a module share: Dagster's tables take time."""
    urls, home = new_database(), new_home()
    with pytest.MonkeyPatch.context() as environment:
        _put_into_environment(environment, home, urls)
        settings = Settings()
        with Database.open(settings) as database:
            yield settings, database
    drop_database(urls)


@pytest.fixture
def database(settings: Settings) -> Iterator[Database]:
    """A pool on the test's own database."""
    with Database.open(settings) as opened:
        yield opened


@pytest.fixture
def commit(settings: Settings, database: Database) -> Callable[[Change[Any]], Any]:
    """Write a change with its entries into the test's own studio; returns its result."""

    def write(change: Change[Any]) -> Any:
        with Ledger(database.urls, settings) as ledger:
            return ledger.commit(change).result(20)

    return write


@pytest.fixture
def add_source(database: Database, commit: Callable[[Change[Any]], Any]) -> Callable[[Source], Source]:
    """Register a source."""

    def add(source: Source) -> Source:
        with database.transaction() as connection:
            change = sources.register(connection, local_principal(), source)
        commit(change)
        return source

    return add


@pytest.fixture
def add_layer(database: Database, commit: Callable[[Change[Any]], Any]) -> Callable[..., RegisteredLayer]:
    """Register a map layer; options are those of `register`."""

    def add(layer: Layer, **options: Any) -> RegisteredLayer:
        change = database.read(lambda connection: register(connection, local_principal(), layer, **options))
        added: RegisteredLayer = commit(change)
        return added

    return add


@pytest.fixture(scope="session")
def issue_key() -> Callable[..., IssuedKey]:
    """Make an API key in a studio; one that may do everything, unless told otherwise."""

    def issue(
        settings: Settings,
        urls: DatabaseUrls,
        *,
        role: Role = Role.OWNER,
        scopes: Sequence[str] = tuple(f"{scope}:*" for scope in SCOPES),
        **more: Any,
    ) -> IssuedKey:
        wanted = NewKey("test", role, scopes, **more)
        with psycopg.connect(urls.app) as connection, Ledger(urls, settings) as ledger:
            change = create_key(connection, local_principal(), wanted, settings)
            return ledger.commit(change).result(20)

    return issue


@pytest.fixture(scope="session")
def add_usage() -> Callable[..., None]:
    """Let models have been called on the days of a database, so many times each, in ways that differ; the founder
    called twice a day.
    """

    def add(database: Database, first: date, days: int, calls: int) -> None:
        with database.transaction() as connection:
            connection.execute(_USAGE, {"first": first, "days": days, "calls": calls})
            connection.execute(_FOUNDER_USAGE, {"first": first, "days": days})
            connection.execute(_SPENDING, {"first": first, "days": days})

    return add


@pytest.fixture
def pass_deadline(database: Database) -> Callable[[UUID | str], None]:
    """Make an approval as if it had been asked for long ago, which nobody but the table's owner can."""

    def passed(approval_id: UUID | str) -> None:
        with database.owner() as connection:
            connection.execute("ALTER TABLE approvals DISABLE TRIGGER frozen")
            connection.execute(
                "UPDATE approvals SET requested_at = now() - interval '2 days', expires_at = now() - interval '1 day'"
                " WHERE id = %s",
                (approval_id,),
            )
            connection.execute("ALTER TABLE approvals ENABLE TRIGGER frozen")

    return passed


@pytest.fixture(scope="session")
def minilm() -> Embedder:
    """The bundled model, whose weights are loaded once."""
    return load_model(Settings(embedding_model="minilm"))


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], Path]:
    """Make a small random BERT in the sentence-transformers format; one folder for each number of dimensions."""
    made: dict[int, Path] = {}

    def make(dimensions: int) -> Path:
        if dimensions not in made:
            made[dimensions] = _write_tiny_model(tmp_path_factory.mktemp("model"), dimensions)
        return made[dimensions]

    return make


def _write_tiny_model(folder: Path, dimensions: int) -> Path:
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    import torch
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, Transformer
    from transformers import AutoTokenizer, BertConfig, BertModel

    bundled = load_model(Settings(embedding_model="minilm")).spec.folder
    plain, finished = folder / "plain", folder / f"tiny-{dimensions}"
    torch.manual_seed(dimensions)
    config = BertConfig(
        vocab_size=30522, hidden_size=dimensions, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64
    )
    BertModel(config).save_pretrained(plain)
    AutoTokenizer.from_pretrained(str(bundled)).save_pretrained(plain)
    modules = [Transformer(str(plain), max_seq_length=256), Pooling(dimensions), Normalize()]
    SentenceTransformer(modules=modules, device="cpu").save(str(finished))
    return finished


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Embedder], Path]:
    """The folder of a model's query encoder, exported once, by whichever process of the test run comes first."""
    own = tmp_path_factory.getbasetemp()
    home = (own.parent if "PYTEST_XDIST_WORKER" in os.environ else own) / "exported"
    home.mkdir(exist_ok=True)
    settings = Settings(home=home)

    def export(embedder: Embedder) -> Path:
        with (home / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            return export_query_encoder(settings, embedder)

    return export


@pytest.fixture(scope="session")
def equip(minilm: Embedder, exported: Callable[[Embedder], Path]) -> Callable[[Settings], Embedder]:
    """Give a home the query encoder of the model that its settings name; returns that model."""

    def give(settings: Settings) -> Embedder:
        named = load_model(settings)
        embedder = minilm if named.key == minilm.key else named
        folder = query_encoder_folder(settings, embedder.key)
        shutil.copytree(exported(embedder), folder, dirs_exist_ok=True)
        return embedder

    return give


@dataclass
class Receiver:
    """Where a receiver listens, and what came in as path and body."""

    url: str
    came: list[tuple[str, bytes]] = field(default_factory=list)


@pytest.fixture
def receiver(monkeypatch: pytest.MonkeyPatch) -> Iterator[Receiver]:
    """A server on a free loopback port that takes every POST, reached without a proxy."""

    class Keep(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            packed = self.headers.get("content-encoding") == "gzip"
            kept.came.append((self.path, gzip.decompress(body) if packed else body))
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with ThreadingHTTPServer(("127.0.0.1", 0), Keep) as server:
        kept = Receiver(f"http://127.0.0.1:{server.server_port}")
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield kept
        server.shutdown()
        thread.join()


@pytest.fixture(scope="session")
def new_materialization() -> Callable[..., Materialization]:
    """Make the materialization of an asset by a run; fields by name replace those it makes up."""

    def make(asset: str, run: str, event: int = 1, **fields: Any) -> Materialization:
        known: dict[str, Any] = {
            "event": event,
            "at": datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC),
            "asset": asset,
            "partition": None,
            "run_id": run,
            "data_version": "v1",
            "code_version": "1",
            "commit": "c0ffee",
            "inputs": (),
            "sources": (),
            "artifacts": (Artifact(f"made/{asset}", "text/plain", sha256(asset.encode()).hexdigest(), 7),),
            "started_at": datetime(2026, 1, 2, 3, 4, 4, tzinfo=UTC),
            "seconds": 0.75,
            "cpu_seconds": 0.5,
            "cost_usd": 0.0,
            "actor": "schedule:nightly",
        }
        return Materialization(**known | fields)

    return make


@contextlib.contextmanager
def _serving(app: FastAPI, *, key: str | None) -> Iterator[httpx.Client]:
    settings: Settings = app.state.settings
    with listen(settings.model_copy(update={"api_port": 0})) as listener:
        config = uvicorn.Config(
            app,
            log_config=None,
            access_log=False,
            lifespan="on",
            ws="websockets-sansio",
            timeout_graceful_shutdown=5,
        )
        server = Server(app, config)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            _wait_until(lambda: server.started or not thread.is_alive())
            assert server.started
            port = listener.getsockname()[1]
            with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=120, trust_env=False) as client:
                if key is not None:
                    client.headers["Authorization"] = f"Bearer {key}"
                yield client
        finally:
            server.should_exit = True
            thread.join()


def _wait_until(condition: Callable[[], bool], *, seconds: float = 30) -> None:
    """Poll until the condition holds; fails the test after `seconds`."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.01)


@pytest.fixture(scope="session")
def outside() -> Outside:
    """What refuses connections to other machines, once it is told to; an audit hook stays until its process ends."""
    made = Outside()
    sys.addaudithook(made.hear)
    return made


@pytest.fixture(scope="module")
def loopback_only(outside: Outside) -> Iterator[None]:
    """Nothing but this machine is reached by the tests of a module, nor tried to be."""
    outside.refused = True
    yield
    outside.refused = False
    tried, outside.tried = outside.tried, []
    assert tried == []


@pytest.fixture(scope="session")
def wait_until() -> Callable[..., None]:
    """Poll a condition until it holds, up to a deadline."""
    return _wait_until


@pytest.fixture(scope="session")
def serve(issue_key: Callable[..., IssuedKey]) -> Serve:
    """Serve an application on a free loopback port for the length of a block.

    Its client has `key`; by default one that is made in the application's studio and may do everything.
    """

    @contextlib.contextmanager
    def serving(app: FastAPI, *, key: str | None = "") -> Iterator[httpx.Client]:
        if key == "":
            key = issue_key(app.state.settings, app.state.given_database.urls).key
        with _serving(app, key=key) as client:
            yield client

    return serving


@pytest.fixture(scope="session")
def serve_dagster(wait_until: Callable[..., None]) -> Callable[[Any, Settings], AbstractContextManager[None]]:
    """Serve Dagster's own GraphQL over an instance, on the socket of a studio, for the length of a block."""

    @contextlib.contextmanager
    def serving(instance: Any, settings: Settings) -> Iterator[None]:
        from dagster._core.workspace.context import WorkspaceProcessContext
        from dagster._core.workspace.load_target import EmptyWorkspaceTarget
        from dagster_webserver.webserver import DagsterWebserver

        with (
            WorkspaceProcessContext(instance, EmptyWorkspaceTarget()) as context,
            socket.socket(socket.AF_UNIX) as listener,
        ):
            path = webserver.socket_path(settings, webserver.Webserver.FULL)
            listener.bind(str(path))
            app = DagsterWebserver(context, app_path_prefix=webserver.PATH).create_asgi_app()
            server = uvicorn.Server(uvicorn.Config(app, log_config=None, access_log=False, lifespan="off"))
            thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
            thread.start()
            try:
                wait_until(lambda: server.started or not thread.is_alive())
                yield
            finally:
                server.should_exit = True
                thread.join()
                path.unlink(missing_ok=True)

    return serving


@dataclass(frozen=True)
class SomeRuns:
    """Runs of two small assets: one that made them, one that changed them by another text, one that failed."""

    first: str
    second: str
    failed: str


@pytest.fixture(scope="session")
def execute_runs() -> Callable[[Any, Database, Settings], SomeRuns]:
    """Execute them for real, with their checks and log lines, and write their receipts."""

    def execute(instance: Any, database: Database, settings: Settings) -> SomeRuns:
        import dagster as dg

        from assets.product import product
        from resources.materializations import issue_receipts
        from stemma.runs.model import ACTOR_TAG
        from stemma.store.files import FileStore

        text = "A lamp takes a bulb.\n"

        @product(key=["handbook", "text"], code_version="3", kinds={"python"}, description="A text")
        def handbook():  # type: ignore[no-untyped-def]  # Dagster cannot see annotations that stand in a function
            dg.AssetExecutionContext.get().log.info("read the handbook of ada@example.org")
            FileStore(settings.home / "files").write("handbook/text.txt", text.encode())
            facts = {"lines": text.count("\n"), "share": 0.25, "pages": 7}
            return dg.MaterializeResult(data_version=dg.DataVersion(f"v{len(text)}"), metadata=facts)

        @product(
            key=["handbook", "words"],
            code_version="1",
            kinds={"python"},
            description="Its words",
            deps=[handbook],
            check_specs=[dg.AssetCheckSpec("words_are_there", asset=["handbook", "words"])],
        )
        def words():  # type: ignore[no-untyped-def]
            if "broken" in text:
                raise CheckFailed("words_missing", "The text of ada@example.org has no words.")
            dg.AssetExecutionContext.get().log.warning("a word is long")
            FileStore(settings.home / "files").write("handbook/words.txt", b"words")
            checked = dg.AssetCheckResult(passed=True, description="All of them.")
            return dg.MaterializeResult(
                data_version=dg.DataVersion("same"), metadata={"words": 5}, check_results=[checked]
            )

        def run() -> str:
            tags = {ACTOR_TAG: "schedule:nightly"}
            made = dg.materialize([handbook, words], instance=instance, tags=tags, raise_on_error=False)
            issue_receipts(instance, database, settings)
            return made.run_id

        first = run()
        text += "And a second line.\n"
        second = run()
        text = "broken"
        return SomeRuns(first, second, run())

    return execute


@pytest.fixture(scope="session")
def index_library(equip: Callable[[Settings], Embedder]) -> Callable[[Settings, Database], None]:
    """Put a few documents, and one that cannot be read, into the inbox of a studio, and index them."""

    def index(settings: Settings, database: Database) -> None:
        inbox = sources.inbox_source(settings)
        for name, text in LIBRARY.items():
            Path(settings.inbox, name).write_text(text)
        Path(settings.inbox, "broken.pdf").write_bytes(b"%PDF-1.7 and then nothing")
        sync_documents(database, inbox, settings)
        sync_chunks(database, inbox, Chunker.from_settings(settings))
        embedder = equip(settings)
        sync_embeddings(database, inbox.name, embedder)
        build_generation(database, settings, embedder)

    return index


DESK = {
    "event": (
        "{name: Asked, version: 1.0.0, changelog: First., description: A discount., schema: {type: object, required:"
        " [amount, discount], properties: {amount: {type: number}, discount: {type: number}, kind: {type: string}}}}"
    ),
    "policy": """\
name: desk.asked
version: 1.0.0
changelog: First version.
description: Which discounts are given.
node: desk
events: [Asked]
inputs:
  amount: {type: number, from: /event/data/amount}
  discount: {type: number, from: /event/data/discount}
  kind: {type: text, from: /event/data/kind, default: paper}
parameters: {usual: 0.1}
variants:
  generous: {parameters: {usual: 0.2}}
bundles:
  - id: size
    rules:
      - {id: beyond, when: discount > 0.4, then: deny, reason: It is too much.}
      - {id: usual, when: discount <= usual, then: approve, reason: It is usual.}
default: {then: escalate, reason: It is unusual.}
autonomy: [{level: AL3, when: amount < 900.0}, {level: AL2, when: amount >= 900.0}]
escalation: {to: sales, within_hours: 24, then: deny}
""",
    "tests": """\
cases:
  - name: usual
    event: {type: Asked, data: {amount: 10, discount: 0.1}}
    expect: {verdict: approve, level: AL3, rules: [size/usual]}
  - name: unusual
    event: {type: Asked, data: {amount: 10, discount: 0.2}}
    expect: {verdict: escalate, level: AL0, rules: [default]}
  - name: unusual, for the generous
    event: {type: Asked, data: {amount: 10, discount: 0.2}}
    variant: generous
    expect: {verdict: approve, level: AL3, rules: [size/usual]}
""",
    "node": """\
name: desk
version: 1.0.0
changelog: First version.
description: Discounts.
policy: desk.asked@1
entity: Nobody
events: {Asked: {text: []}}
reward: {metrics: {profit: number}, success: profit > 0.0, failure: profit <= 0.0}
learning: {minimum_samples: 20}
""",
}


@pytest.fixture(scope="session")
def open_desk() -> Callable[[Settings, Database, int], None]:
    """Publish a small node that learns, have it decide about some requests, and tell it what came of those it gave: the
    amount times what the discount leaves of a margin of 0.3.
    """

    def open_it(settings: Settings, database: Database, count: int) -> None:
        me = local_principal()
        decider = Decider(database, settings)
        with Ledger(database.urls, settings) as ledger:
            for make in (
                lambda c: types.publish(c, me, DESK["event"]),
                lambda c: policies.publish(c, me, DESK["policy"], DESK["tests"]),
                lambda c: nodes.publish(c, me, DESK["node"]),
            ):
                ledger.commit(database.read(make)).result(20)
            changes = [decider.decide(me, "desk", _request(place)) for place in range(count)]
            made = [future.result(20) for future in [ledger.commit(change) for change in changes]]
            ended = [
                NewOutcome(one.id, {"profit": one.event["data"]["amount"] * (0.3 - one.event["data"]["discount"])})
                for one in made
                if one.effect == "approve"
            ]
            for at in range(0, len(ended), 500):
                part = ended[at : at + 500]
                ledger.commit(database.read(lambda c, part=part: outcomes.record(c, me, part))).result(20)

    return open_it


def _request(place: int) -> NewEvent:
    data = {"amount": 100.0 + 37 * place % 1000, "discount": (0.0, 0.1, 0.2, 0.5)[place % 4], "kind": f"k{place % 3}"}
    return NewEvent("Asked", data, id=UUID(int=place + 1))


# What scikit-learn 1.9 gives for what the sheets restate, by the names of their targets.
MEASURED = {
    "s1_wine_loo": {
        "lda.accuracy": 98.87640449438202,
        "qda.accuracy": 99.43820224719101,
        "1nn.accuracy": 95.50561797752809,
    },
    "s2_fisher_iris": {
        "coef.sepal-width": 5.90380475,
        "coef.petal-length": -7.12998132,
        "coef.petal-width": -10.1036641,
    },
}


@dataclass
class ReproducedPaper:
    """A paper with its claims, its plan, and the run that measured what the plan says first."""

    paper: Paper
    plan: Plan
    run: Run


@pytest.fixture(scope="session")
def measure() -> Callable[..., Run]:
    """A run of a plan, or of one of its alternatives, that measured what is given; nothing is executed."""

    def run(
        settings: Settings, database: Database, plan: Plan, given: dict[str, float], alternative: str | None = None
    ) -> Run:
        targets = parse_plan(plan.document).measured_by(alternative)
        values = tuple(
            Measured(one.metric, one.split, ((0, given[one.metric]),)) for one in targets if one.metric in given
        )
        output = sha256(repr(values).encode()).hexdigest()
        ended = paper_runs.Ended(RunStatus.SUCCEEDED, metrics=values, output_sha256=output, deterministic=True)
        with Ledger(database.urls, settings) as ledger:

            def commit(prepare: Callable[[psycopg.Connection], Change[Run]]) -> Run:
                return ledger.commit(database.read(prepare)).result(20)

            asked = commit(lambda c: paper_runs.create(c, local_principal(), plan.id, alternative=alternative))
            begun = {"sandbox": "bubblewrap", "env_hash": "e" * 64, "dagster_run_id": None}
            commit(lambda c: paper_runs.begin(c, asked.id, **begun))
            return commit(lambda c: paper_runs.finish(c, asked.id, ended))

    return run


@pytest.fixture(scope="session")
def reproduce(measure: Callable[..., Run]) -> Callable[..., ReproducedPaper]:
    """Take a claim sheet of the samples through every step to a report; what its run measured is `MEASURED`."""

    def take(settings: Settings, database: Database, sheet: str, *, reported: bool = True) -> ReproducedPaper:
        files, principal = FileStore.open_default(settings), local_principal()
        with Ledger(database.urls, settings) as ledger:

            def commit(prepare: Callable[[psycopg.Connection], Change[Any]]) -> Any:
                return ledger.commit(database.read(prepare)).result(20)

            path = REPOSITORY / "samples" / "papers" / f"{sheet}.pdf"
            received = intake.receive_file(path, settings, licence="CC0-1.0")
            stored = intake.store(received, settings)
            paper = commit(lambda c: intake.record(c, principal, received, stored)).paper
            pages = read_pages(received.data, settings)
            written = files.write(f"papers/{paper.id}/pages.json", to_json(pages))
            commit(lambda c: paper_steps.pages_read(c, paper, written.key, len(pages)))
            commit(lambda c: paper_steps.claims_found(c, paper, read_claims(pages), actor="test"))
            document = planning.propose(paper, database.read(lambda c: papers.list_claims(c, paper.id)))
            plan = commit(lambda c: planning.plan_made(c, paper, document, actor="test"))
            run = measure(settings, database, plan, MEASURED[sheet])
            if reported:
                left = [RunArtifact("metrics.json", f"runs/{run.id}/metrics.json", 2, truncated=False)]
                files.write(left[0].key, b"[]")
                commit(lambda c: publishing.publish(c, publishing.make_report(c, run, left), actor="test"))
            return ReproducedPaper(database.read(lambda c: papers.get_paper(c, paper.id)), plan, run)

    return take


@pytest.fixture(scope="session")
def build_layers() -> Callable[[Settings, Database], dict[str, BuiltArchive]]:
    """Register map layers in a studio and build them for real, from files in its home.

    `crimes` has 3,000 points in two months and rows that are not on the map, in tiles so small that low zooms count;
    `streets` has lines, `wards` polygons that only members see. `parks` is registered and was never built.
    """

    def build(settings: Settings, database: Database) -> dict[str, BuiltArchive]:
        folder = settings.home / "layers"
        folder.mkdir()
        _write_crimes(folder)
        _write_shapes(folder)
        files = FileStore.open_default(settings)
        built = {}
        with Ledger(database.urls, settings) as ledger:

            def commit(prepare: Callable[[psycopg.Connection], Change[Any]]) -> Any:
                return ledger.commit(database.read(prepare)).result(20)

            for said in _LAYERS:
                visibility: Visibility = "members" if said["id"] == "wards" else "everyone"
                layer = parse_layer({**_SAID_OF_ALL, **said})
                registered = commit(
                    lambda connection, layer=layer, visibility=visibility: register(
                        connection, local_principal(), layer, folder=folder, visibility=visibility
                    )
                )
                if layer.id == "parks":
                    continue
                cleaned, _ = cleaning.clean_layer(files, registered, settings)
                tiled = tiling.build_archive(files, layer, cleaned, None, f"run-{layer.id}", PartMemory())
                built[layer.id] = commit(lambda _, archive=tiled.archive: lifecycle.activated(archive))
        return built

    return build


_SAID_OF_ALL = {"licence": "CC0-1.0", "attribution": "Made up by a test", "incidents": False}
_LAYERS: tuple[dict[str, Any], ...] = (
    {
        "id": "crimes",
        "title": "Crimes",
        "kind": "points",
        "source": {"path": "crimes", "monthly": True},
        "columns": {"longitude": "lon", "latitude": "lat", "id": "id"},
        "category": "type",
        "time": "month",
        "attributes": {"type": {}, "month": {}},
        "max_zoom": 12,
        "tile_bytes": 20_000,
    },
    {
        "id": "streets",
        "title": "Streets",
        "kind": "lines",
        "source": {"path": "streets.geojson"},
        "attributes": {"name": {}},
        "max_zoom": 12,
    },
    {
        "id": "wards",
        "title": "Wards",
        "kind": "polygons",
        "source": {"path": "wards.geojson"},
        "category": "party",
        "attributes": {"name": {}, "party": {}},
        "max_zoom": 10,
    },
    {"id": "parks", "title": "Parks", "kind": "polygons", "source": {"path": "parks.geojson"}},
)


def _write_crimes(folder: Path) -> None:
    random = Random(1)
    (folder / "crimes").mkdir()
    for month, count in (("2020-01", 2000), ("2020-02", 1000)):
        lines = ["id,lon,lat,type,month"]
        for number in range(count):
            kind = random.choices(("Arson", "Burglary", "Theft"), (1, 3, 6))[0]
            lines.append(
                f"{month}-{number},{random.gauss(-0.1, 0.05):.6f},{random.gauss(51.5, 0.03):.6f},{kind},{month}"
            )
        lines += [lines[1], f"{month}-x,,,Theft,{month}", f"{month}-y,0,0,Theft,{month}"]
        (folder / "crimes" / f"{month}-city.csv").write_text("\n".join(lines))


def _write_shapes(folder: Path) -> None:
    edges = [round(-0.2 + 0.05 * step, 3) for step in range(5)]
    streets = [([[x, 51.45], [x, 51.55]], {"name": f"Street {number}"}) for number, x in enumerate(edges)]
    wards = [
        ([[[x, y], [x + 0.05, y], [x + 0.05, y + 0.05], [x, y + 0.05], [x, y]]], {"name": f"{x}/{y}", "party": party})
        for x, party in zip(edges, ("Red", "Green", "Blue", "Red", "Green"), strict=True)
        for y in (51.45, 51.5)
    ]
    layers = (("streets", "LineString", streets), ("wards", "Polygon", wards), ("parks", "Polygon", wards[:1]))
    for name, kind, shapes in layers:
        features = [
            {"type": "Feature", "properties": said, "geometry": {"type": kind, "coordinates": places}}
            for places, said in shapes
        ]
        collection = {"type": "FeatureCollection", "features": features}
        (folder / f"{name}.geojson").write_text(json.dumps(collection))


def _pdf(*pages: list[str], password: str | None = None, rotate: int = 0, top: int = 780) -> bytes:
    buffer = io.BytesIO()
    canvas = Canvas(buffer, encrypt=StandardEncryption(password) if password is not None else None)
    for lines in pages:
        canvas.setPageRotation(rotate)
        for index, line in enumerate(lines):
            for column, text in enumerate(line.split("\t")):
                canvas.drawString(72 + 110 * column, top - 20 * index, text)
        canvas.showPage()
    canvas.save()
    return buffer.getvalue()


@pytest.fixture(scope="session")
def make_pdf() -> Callable[..., bytes]:
    """A PDF of pages of lines; a tab begins the next column of a table."""
    return _pdf
