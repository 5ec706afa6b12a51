"""What the benchmarks share: a scratch studio of their own, bars, and how results are shown and kept."""

from __future__ import annotations

import contextlib
import json
import os
import platform
import shutil
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import psycopg
from psycopg import sql
from rich.console import Console
from rich.table import Table

from stemma.access.principal import local_principal
from stemma.knowledge import chunks, documents, sources
from stemma.knowledge.chunking import Chunker
from stemma.knowledge.models import Source
from stemma.ledger.service import Ledger
from stemma.store import embedded, migrations
from stemma.store.database import Database, DatabaseUrls, resolve_urls
from stemma.store.settings import REPOSITORY, Settings, load_settings

RESULTS = REPOSITORY / "benchmarks" / "results"
console = Console()


@dataclass(frozen=True, slots=True)
class Studio:
    """A migrated database and a home of its own on the configured server."""

    settings: Settings
    database: Database


@dataclass(frozen=True, slots=True)
class Measure:
    """One figure; `bar` is the limit it is held to, from below ("≥") or above ("≤"); None: for information."""

    name: str
    value: float
    unit: str = ""
    bar: float | None = None
    at_least: bool = True

    @property
    def passed(self) -> bool:
        """Whether the bar, if any, is met."""
        if self.bar is None:
            return True
        return self.value >= self.bar if self.at_least else self.value <= self.bar


@contextlib.contextmanager
def scratch_studio(name: str) -> Iterator[Studio]:
    """An empty studio on the server of the settings; its databases and files are removed at the end."""
    base = load_settings()
    home = base.home / "bench" / name
    shutil.rmtree(home, ignore_errors=True)
    home.mkdir(parents=True)
    database_name = f"stemma_bench_{name}_{os.getpid()}"
    owner = resolve_urls(base).owner
    _drop_or_create(owner, database_name, create=True)
    if base.database_url is None:
        _add_pgvector(embedded.superuser_uri(base, database_name))
    _drop_or_create(owner, f"{database_name}_dagster", create=True)
    url, dagster_url = (
        urlunsplit(urlsplit(owner)._replace(path=f"/{path}")) for path in (database_name, f"{database_name}_dagster")
    )
    named = {"database_url": url, "database_owner_url": url, "dagster_database_url": dagster_url}
    try:
        migrations.upgrade(url)
        with Database(DatabaseUrls(app=url, owner=url, dagster=dagster_url)) as database:
            yield Studio(base.model_copy(update={"home": home, **named}), database)
    finally:
        _drop_or_create(owner, database_name, create=False)
        _drop_or_create(owner, f"{database_name}_dagster", create=False)
        shutil.rmtree(home, ignore_errors=True)


def _add_pgvector(superuser: str) -> None:
    """The owner may not add it, except on a server where it is in the template."""
    with psycopg.connect(superuser, autocommit=True) as connection:
        connection.execute("CREATE EXTENSION vector")


def _drop_or_create(owner: str, name: str, *, create: bool) -> None:
    with psycopg.connect(owner, autocommit=True) as connection:
        connection.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name)))
        if create:
            connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))


def ingest(studio: Studio, source: Source) -> None:
    """Read and chunk one source."""
    with studio.database.transaction() as connection, Ledger(studio.database.urls, studio.settings) as ledger:
        if source == sources.INSTALLED:
            sources.ensure_builtin(connection, studio.settings)
        else:
            ledger.commit(sources.register(connection, local_principal(), source)).result()
    documents.sync_documents(studio.database, source, studio.settings)
    chunks.sync_chunks(studio.database, source, Chunker.from_settings(studio.settings))


def percentile(values: Sequence[float], share: float) -> float:
    """The value below which `share` (0–1) of the values lie."""
    return statistics.quantiles(values, n=100, method="inclusive")[round(share * 100) - 1]


def publish(benchmark: str, measures: Sequence[Measure], **details: Any) -> bool:
    """Print a table, write `results/<benchmark>.json`; returns whether every bar is met."""
    table = Table(title=benchmark, title_justify="left")
    for heading in ("measure", "value", "bar", ""):
        table.add_column(heading, justify="right" if heading in {"value", "bar"} else "left")
    for measure in measures:
        sign = "≥" if measure.at_least else "≤"
        bar = "" if measure.bar is None else f"{sign} {measure.bar:g}"
        verdict = "" if measure.bar is None else "[green]met[/]" if measure.passed else "[red]missed[/]"
        table.add_row(measure.name, f"{measure.value:,.4g} {measure.unit}".rstrip(), bar, verdict)
    console.print(table)
    RESULTS.mkdir(parents=True, exist_ok=True)
    result = {
        "benchmark": benchmark,
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": {"cpus": os.cpu_count(), "processor": platform.processor() or platform.machine()},
        "measures": [asdict(measure) | {"passed": measure.passed} for measure in measures],
        **details,
    }
    Path(RESULTS / f"{benchmark}.json").write_text(json.dumps(result, indent=2, ensure_ascii=False), "utf-8")
    return all(measure.passed for measure in measures)
