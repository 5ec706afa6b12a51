"""Bringing the stemma database to the newest schema, and saying how far it is.

The SQL itself stands in the top-level `migrations/` folder; this module only runs it. Alembic, which takes longer to
import than most commands do, is needed only where something is missing.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import psycopg

from stemma.errors import Unavailable
from stemma.store.database import Connection, sqlalchemy_url
from stemma.store.settings import REPOSITORY

if TYPE_CHECKING:
    import sqlalchemy

FOLDER = REPOSITORY / "migrations"

_ADVISORY_LOCK = 0x5374656D6D61
_PATIENCE = 10

_GRANTS = """
DO $$ BEGIN
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'stemma_app' AND rolname <> current_user) THEN
        GRANT USAGE ON SCHEMA public TO stemma_app;
        GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO stemma_app;
        GRANT USAGE, SELECT ON ALL SEQUENCES IN SCHEMA public TO stemma_app;
        ALTER DEFAULT PRIVILEGES IN SCHEMA public GRANT SELECT, INSERT, UPDATE, DELETE ON TABLES TO stemma_app;
        ALTER DEFAULT PRIVILEGES IN SCHEMA public GRANT USAGE, SELECT ON SEQUENCES TO stemma_app;
        IF to_regnamespace('p2n') IS NOT NULL THEN
            GRANT USAGE ON SCHEMA p2n TO stemma_app;
            GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA p2n TO stemma_app;
        END IF;
        IF to_regclass('public.ledger') IS NOT NULL THEN
            REVOKE UPDATE, DELETE, TRUNCATE ON ledger FROM stemma_app;
        END IF;
    END IF;
END $$
"""


def head() -> str:
    """The newest revision; files are named `REVISION_what_it_does.py`."""
    return max(path.stem.partition("_")[0] for path in (FOLDER / "versions").glob("[0-9]*.py"))


def current(owner_url: str) -> str | None:
    """The revision that the database has, or None for an empty one."""
    with _connect(owner_url) as connection:
        return _current(connection)


def upgrade(owner_url: str) -> tuple[str | None, str]:
    """Apply what is missing, one process at a time; returns the revisions before and after.

    Raises Unavailable with code `pgvector_missing` where the server lacks the extension.
    """
    with _connect(owner_url) as connection:
        # Waits for whoever migrates, and for nobody else.
        connection.execute("SELECT pg_advisory_lock_shared(%s)", (_ADVISORY_LOCK,))
        before = _current(connection)
    return (before, before) if before == head() else _apply(owner_url)


def _connect(owner_url: str) -> Connection:
    return psycopg.connect(owner_url, connect_timeout=_PATIENCE)


def _current(connection: Connection) -> str | None:
    if connection.execute("SELECT to_regclass('alembic_version')").fetchone() == (None,):
        return None
    (revision,) = connection.execute("SELECT version_num FROM alembic_version").fetchone() or (None,)
    return revision


def _apply(owner_url: str) -> tuple[str | None, str]:
    import sqlalchemy
    from alembic import command
    from alembic.config import Config
    from alembic.runtime.migration import MigrationContext

    logging.getLogger("alembic").setLevel(logging.WARNING)
    config = Config()
    config.set_main_option("script_location", str(FOLDER))
    with _engine(owner_url).connect() as connection:
        connection.execute(sqlalchemy.text("SELECT pg_advisory_lock(:key)"), {"key": _ADVISORY_LOCK})
        connection.commit()
        before = MigrationContext.configure(connection).get_current_revision()
        connection.rollback()
        if before != head():
            _require_pgvector(connection)
            config.attributes["connection"] = connection
            command.upgrade(config, "head")
            connection.execute(sqlalchemy.text(_GRANTS))
            connection.commit()
        return before, head()


def _engine(owner_url: str) -> sqlalchemy.Engine:
    import sqlalchemy

    return sqlalchemy.create_engine(
        sqlalchemy_url(owner_url, "psycopg"), poolclass=sqlalchemy.NullPool, connect_args={"connect_timeout": _PATIENCE}
    )


def grant(owner_url: str) -> None:
    """Let the application's role use the tables, where the server has that role; `upgrade` does so as well."""
    with _connect(owner_url) as connection:
        connection.execute(_GRANTS)


def _require_pgvector(connection: sqlalchemy.Connection) -> None:
    import sqlalchemy

    known = connection.execute(sqlalchemy.text("SELECT 1 FROM pg_available_extensions WHERE name = 'vector'")).first()
    connection.rollback()
    if known is None:
        raise Unavailable(
            "pgvector_missing",
            "The database server has no pgvector extension.",
            field="STEMMA_DATABASE_URL",
            hint="Install pgvector 0.8 or newer on that server, or unset STEMMA_DATABASE_URL to use the embedded one.",
        )
