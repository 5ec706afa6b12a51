"""Bringing the stemma database to the newest schema, and saying how far it is.

The SQL itself stands in the top-level `migrations/` folder; this module only runs it.
"""

from __future__ import annotations

import logging

import sqlalchemy
from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory

from stemma.errors import Unavailable
from stemma.store.database import sqlalchemy_url
from stemma.store.settings import REPOSITORY

FOLDER = REPOSITORY / "migrations"

_ADVISORY_LOCK = 0x5374656D6D61

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


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(FOLDER))
    return config


def head() -> str:
    """The newest revision; raises alembic's CommandError where two heads exist."""
    revision = ScriptDirectory.from_config(_config()).get_current_head()
    assert revision is not None
    return revision


def _engine(owner_url: str) -> sqlalchemy.Engine:
    return sqlalchemy.create_engine(
        sqlalchemy_url(owner_url, "psycopg"), poolclass=sqlalchemy.NullPool, connect_args={"connect_timeout": 10}
    )


def current(owner_url: str) -> str | None:
    """The revision that the database has, or None for an empty one."""
    with _engine(owner_url).connect() as connection:
        return MigrationContext.configure(connection).get_current_revision()


def upgrade(owner_url: str) -> tuple[str | None, str]:
    """Apply what is missing, one process at a time; returns the revisions before and after.

    Raises Unavailable with code `pgvector_missing` where the server lacks the extension.
    """
    logging.getLogger("alembic").setLevel(logging.WARNING)
    config = _config()
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


def grant(owner_url: str) -> None:
    """Let the application's role use the tables, where the server has that role; `upgrade` does so as well."""
    with _engine(owner_url).begin() as connection:
        connection.execute(sqlalchemy.text(_GRANTS))


def _require_pgvector(connection: sqlalchemy.Connection) -> None:
    known = connection.execute(sqlalchemy.text("SELECT 1 FROM pg_available_extensions WHERE name = 'vector'")).first()
    connection.rollback()
    if known is None:
        raise Unavailable(
            "pgvector_missing",
            "The database server has no pgvector extension.",
            field="STEMMA_DATABASE_URL",
            hint="Install pgvector 0.8 or newer on that server, or unset STEMMA_DATABASE_URL to use the embedded one.",
        )
