"""Dagster's Postgres storage with connections that are kept; everything else about it is Dagster's own.

Dagster opens a connection for every query. An idle daemon does so more than ten times a second, and making one costs
server and client several times what the query does. Before each look at a run it also asks the catalogue for columns
that every database has which this version made: that doubles what the look costs.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

from dagster._core.events import DagsterEventType
from dagster._core.storage.config import PostgresStorageConfig
from dagster._core.storage.event_log import SqlEventLogStorageTable
from dagster._serdes import ConfigurableClassData
from dagster_postgres import DagsterPostgresStorage, PostgresEventLogStorage
from dagster_postgres.utils import create_pg_engine, get_token_provider_from_config, pg_url_from_config

if TYPE_CHECKING:
    from dagster import EventLogEntry
    from dagster_postgres.auth import PgTokenProvider

_PLANNED = DagsterEventType.ASSET_MATERIALIZATION_PLANNED
_KEPT_CONNECTIONS = 2
_MOST_CONNECTIONS = 20
_LONGEST_USE = 3600


class PooledPostgresStorage(DagsterPostgresStorage):
    """Runs, events and schedules share one pool per process.

    A connection is tried before each use: one that a restarted server closed is replaced unseen.
    """

    def __init__(
        self,
        postgres_url: str,
        should_autocreate_tables: bool = True,
        inst_data: ConfigurableClassData | None = None,
        token_provider: PgTokenProvider | None = None,
    ) -> None:
        super().__init__(postgres_url, should_autocreate_tables, inst_data, token_provider)
        engine = create_pg_engine(
            postgres_url,
            token_provider,
            isolation_level="AUTOCOMMIT",
            pool_size=_KEPT_CONNECTIONS,
            max_overflow=_MOST_CONNECTIONS - _KEPT_CONNECTIONS,
            pool_recycle=_LONGEST_USE,
            pool_pre_ping=True,
        )
        for part in (self._run_storage, self._event_log_storage, self._schedule_storage):
            part._engine = engine
        self._event_log_storage.store_event_batch = partial(_store, self._event_log_storage)  # type: ignore[method-assign]
        self._run_storage.has_run_stats_index_cols = lambda: True  # type: ignore[method-assign]

    @classmethod
    def from_config_value(
        cls, inst_data: ConfigurableClassData | None, config_value: PostgresStorageConfig
    ) -> PooledPostgresStorage:
        """What Dagster calls with the configuration in dagster.yaml."""
        return cls(
            postgres_url=pg_url_from_config(config_value),
            should_autocreate_tables=config_value.get("should_autocreate_tables", True),
            inst_data=inst_data,
            token_provider=get_token_provider_from_config(config_value),
        )


def _store(storage: PostgresEventLogStorage, events: Sequence[EventLogEntry]) -> None:
    """Store a batch of events; Dagster itself writes plans one by one, of which a run over a year has hundreds."""
    planned = [event for event in events if event.dagster_event_type is _PLANNED]
    others = [event for event in events if event.dagster_event_type is not _PLANNED]
    if others:
        PostgresEventLogStorage.store_event_batch(storage, others)
    if planned:
        insert = storage.prepare_insert_event_batch(planned).returning(SqlEventLogStorageTable.c.id)
        with storage._connect() as connection:
            ids = [row[0] for row in connection.execute(insert)]
        newest = {event.get_dagster_event().asset_key: (event, at) for event, at in zip(planned, ids, strict=True)}
        for event, at in newest.values():
            storage.store_asset_event(event, at)
