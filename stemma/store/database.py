"""How the domain reaches Postgres: the URLs of its roles, one pool per process, transactions and snapshots.

SQL belongs to the capability that owns the table; only connecting, waiting out a restart and closing live here.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Self, TypeVar
from urllib.parse import urlsplit, urlunsplit

import psycopg
from pgvector.psycopg import register_vector
from psycopg import IsolationLevel
from psycopg.conninfo import conninfo_to_dict
from psycopg_pool import ConnectionPool, PoolTimeout

from stemma.errors import InvalidInput, Unavailable
from stemma.store import embedded
from stemma.store.settings import Settings

T = TypeVar("T")
Connection = psycopg.Connection[Any]

HNSW_EF_SEARCH = 400
HNSW_EF_GLANCE = 40
_RECOVERY_PATIENCE = 20.0


def sqlalchemy_url(libpq_url: str, driver: str) -> str:
    """Name the driver in a libpq URI: without one, SQLAlchemy 2.1 picks psycopg 3, with which Dagster crashes."""
    _, _, rest = libpq_url.partition("://")
    return f"postgresql+{driver}://{rest}"


@dataclass(frozen=True, slots=True)
class DatabaseUrls:
    """libpq URIs: `app` reads and writes rows, `owner` migrates and builds indexes, `dagster` is Dagster's storage."""

    app: str
    owner: str
    dagster: str

    @property
    def dagster_sqlalchemy(self) -> str:
        """What Dagster's storage is configured with: its NOTIFY code needs psycopg2, so the driver is named."""
        return sqlalchemy_url(self.dagster, "psycopg2")


def resolve_urls(settings: Settings) -> DatabaseUrls:
    """The URLs in force: those of the settings, else of the embedded server, which is started when it is not up.

    Raises InvalidInput for a URL that libpq cannot read, Unavailable when the embedded server cannot start.
    """
    if settings.database_url is None:
        return DatabaseUrls(**embedded.ensure_running(settings))
    app = _checked(settings.database_url, "STEMMA_DATABASE_URL")
    owner = _checked(settings.database_owner_url or app, "STEMMA_DATABASE_OWNER_URL")
    dagster = _checked(settings.dagster_database_url or _sibling(app, "dagster"), "STEMMA_DAGSTER_DATABASE_URL")
    return DatabaseUrls(app=app, owner=owner, dagster=dagster)


def _checked(url: str, variable: str) -> str:
    try:
        if not url.startswith(("postgresql://", "postgres://")):
            raise psycopg.ProgrammingError("it does not start with postgresql://")
        conninfo_to_dict(url)
    except psycopg.ProgrammingError as error:
        raise InvalidInput(
            "database_url_invalid",
            f"Not a PostgreSQL URI: {str(error).strip()}.",
            field=variable,
            hint="Write postgresql://user:password@host:5432/stemma.",
        ) from error
    return url


def _sibling(url: str, database: str) -> str:
    return urlunsplit(urlsplit(url)._replace(path=f"/{database}"))


def connect(url: str, *, autocommit: bool = False) -> Connection:
    """One connection outside any pool; raises Unavailable with the server's own words when there is none."""
    try:
        return psycopg.connect(url, autocommit=autocommit, connect_timeout=10, application_name="stemma")
    except psycopg.OperationalError as error:
        raise _unreachable(error) from error


def _unreachable(error: Exception) -> Unavailable:
    return Unavailable(
        "database_unreachable",
        f"The database does not answer: {' '.join(str(error).split())}.",
        hint="Run `stemma doctor` to see what is wrong.",
    )


def _configure(connection: Connection) -> None:
    if connection.execute("SELECT to_regtype('vector')").fetchone() != (None,):
        register_vector(connection)
        connection.execute("SELECT '[1]'::vector")
        connection.execute(f"SET hnsw.ef_search = {HNSW_EF_SEARCH}")
        connection.execute("SET hnsw.iterative_scan = relaxed_order")
    connection.commit()


def _configure_glances(connection: Connection) -> None:
    # What is looked up here by vector takes the ten nearest or so, for which a short list of candidates is enough.
    if connection.execute("SELECT to_regtype('vector')").fetchone() != (None,):
        connection.execute("SELECT '[1]'::vector")
        connection.execute(f"SET hnsw.ef_search = {HNSW_EF_GLANCE}")
        connection.execute("SET hnsw.iterative_scan = relaxed_order")


@dataclass(frozen=True, slots=True)
class PoolUsage:
    """A pool's connections: at most, open, of these in use; and how many requests wait for one."""

    limit: int
    open: int
    in_use: int
    waiting: int


def database_time(connection: Connection) -> datetime:
    """What the database's clock says; what several processes compare is kept by it alone."""
    (now,) = connection.execute("SELECT clock_timestamp()").fetchone() or (None,)
    assert isinstance(now, datetime)
    return now


class Database:
    """The process's way to the stemma database. Thread-safe; `close()` or use it as a context manager.

    `glances` is how many glances it takes at once.
    """

    def __init__(self, urls: DatabaseUrls, *, pool_size: int = 8) -> None:
        self.urls = urls
        self._pool: ConnectionPool[Connection] = ConnectionPool(
            urls.app,
            kwargs={"application_name": "stemma"},
            min_size=0,
            max_size=pool_size,
            max_idle=60.0,
            timeout=_RECOVERY_PATIENCE,
            configure=_configure,
            check=ConnectionPool.check_connection,
            open=False,
        )
        self._pool.open(wait=False)
        self.glances = max(1, pool_size // 2)
        self._glances: ConnectionPool[Connection] = ConnectionPool(
            urls.app,
            kwargs={"application_name": "stemma", "autocommit": True},
            min_size=0,
            max_size=self.glances,
            max_idle=60.0,
            timeout=_RECOVERY_PATIENCE,
            configure=_configure_glances,
            open=False,
        )
        self._glances.open(wait=False)

    @classmethod
    def open(cls, settings: Settings) -> Self:
        """Resolve the URLs and make a pool; no connection is made before the first use."""
        return cls(resolve_urls(settings), pool_size=settings.database_pool_size)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the pool; connections in use are closed when they are given back."""
        self._pool.close()
        self._glances.close()

    def pool_usage(self) -> PoolUsage:
        """How the pool stands now."""
        found = self._pool.get_stats()
        size, idle = found.get("pool_size", 0), found.get("pool_available", 0)
        return PoolUsage(self._pool.max_size, size, size - idle, found.get("requests_waiting", 0))

    @contextlib.contextmanager
    def transaction(self, *, timeout: float | None = None) -> Iterator[Connection]:
        """A read-write transaction that commits at the end of the block and rolls back on any error.

        Raises Unavailable where no connection is to be had within `timeout` seconds, by default 20.
        """
        try:
            with self._pool.connection(timeout=timeout) as connection:
                yield connection
        except PoolTimeout as error:
            raise _unreachable(error) from error

    @contextlib.contextmanager
    def snapshot(self) -> Iterator[Connection]:
        """A read-only REPEATABLE READ transaction: every statement in it sees the same rows."""
        with self.transaction() as connection:
            connection.isolation_level = IsolationLevel.REPEATABLE_READ
            connection.read_only = True
            try:
                yield connection
            finally:
                if not connection.closed:
                    connection.rollback()
                    connection.isolation_level = None
                    connection.read_only = None

    def read(self, query: Callable[[Connection], T]) -> T:
        """Run `query` in a snapshot, again when the server restarts under it; Unavailable after 20 s of trying."""
        deadline = time.monotonic() + _RECOVERY_PATIENCE
        while True:
            try:
                with self.snapshot() as connection:
                    return query(connection)
            except psycopg.OperationalError as error:
                if time.monotonic() > deadline:
                    raise _unreachable(error) from error
                time.sleep(0.1)

    def glance(self, query: Callable[[Connection], T]) -> T:
        """Run `query`, whose statements see each its own rows, with no round trip but theirs; else as `read`.

        For what is asked very often: `read` takes four round trips for one statement.
        """
        deadline = time.monotonic() + _RECOVERY_PATIENCE
        while True:
            try:
                with self._glances.connection() as connection:
                    return query(connection)
            except (psycopg.OperationalError, psycopg.InterfaceError, PoolTimeout) as error:
                if time.monotonic() > deadline:
                    raise _unreachable(error) from error
                time.sleep(0.1)

    def ping(self, *, timeout: float = 2.0) -> None:
        """Ask the server for a sign of life; raises Unavailable when none comes within `timeout` seconds."""
        try:
            with self._pool.connection(timeout=timeout) as connection:
                connection.execute("SELECT 1")
        except (PoolTimeout, psycopg.OperationalError) as error:
            raise _unreachable(error) from error

    @contextlib.contextmanager
    def owner(self, *, autocommit: bool = False) -> Iterator[Connection]:
        """A connection of the owning role, for migrations and index builds; closed at the end of the block."""
        with connect(self.urls.owner, autocommit=autocommit) as connection:
            _configure(connection)
            yield connection
