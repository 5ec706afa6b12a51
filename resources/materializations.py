"""Materializations as receipts need them: what a step adds to its event, and how events are read back in order.

What a receipt says and how it is written is `stemma.ledger.receipts`' business.
"""

from __future__ import annotations

import shlex
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

import dagster as dg
from dagster._core.definitions.data_version import (
    CODE_VERSION_TAG,
    DATA_VERSION_IS_USER_PROVIDED_TAG,
    DATA_VERSION_TAG,
)

from resources.event_log import SETTLING, run_name
from stemma.ledger import receipts
from stemma.ledger.receipts import Input, Materialization, SyncReport, receipt_id
from stemma.ledger.service import Ledger
from stemma.runs.model import actor_of
from stemma.store.database import Database
from stemma.store.outputs import Artifact, Outputs
from stemma.store.settings import Settings

_CURSOR = "stemma/receipts"
_PAGE = 200
_MATERIALIZED = dg.DagsterEventType.ASSET_MATERIALIZATION


# What a step tells


def found_inputs(context: dg.AssetExecutionContext) -> tuple[Input, ...]:
    """The newest materialization of each asset, or partition of it, that this step is made from, as of now.

    Dagster's own provenance has one data version per asset, for partitions a hash over theirs.
    """
    step = context.get_step_execution_context()
    layer = step.job_def.asset_layer
    inputs: list[Input] = []
    for key in sorted(layer.get(context.asset_key).parent_keys):
        name = layer.get_node_input_name(step.node_handle, key)
        if name is not None and step.has_asset_partitions_for_input(name):
            subset = step.asset_partitions_subset_for_input(name, require_valid_partitions=False)
            inputs += _newest_partitions(context.instance, key, set(subset.get_partition_keys()))
        else:
            inputs += map(_input, context.instance.fetch_materializations(key, limit=1).records)
        if not any(known.asset == key.to_user_string() for known in inputs):
            inputs.append(Input(key.to_user_string(), None, None, None))
    return tuple(inputs)


def _newest_partitions(instance: dg.DagsterInstance, key: dg.AssetKey, partitions: set[str]) -> list[Input]:
    if not partitions:
        return []
    newest = instance.get_latest_storage_id_by_partition(key, _MATERIALIZED, partitions)
    if not newest:
        return []
    wanted = dg.EventRecordsFilter(_MATERIALIZED, asset_key=key, storage_ids=sorted(newest.values()))
    records = instance.event_log_storage.get_event_records(wanted)
    return sorted(map(_input, records), key=lambda item: item.partition or "")


def _input(record: dg.EventLogRecord) -> Input:
    event = record.asset_materialization
    assert event is not None
    version = (event.tags or {}).get(DATA_VERSION_TAG)
    return Input(event.asset_key.to_user_string(), event.partition, version, run_name(record.run_id, record.storage_id))


def metadata(
    context: dg.AssetExecutionContext,
    settings: Settings,
    outputs: Outputs,
    inputs: Sequence[Input],
    *,
    partition: str | None,
    commit: str | None,
    started_at: datetime,
    seconds: float,
    cpu_seconds: float,
) -> dict[str, Any]:
    """What a step adds to its materialization, or to that of one partition, so that a receipt can be made of the event
    alone.
    """
    facts: dict[str, Any] = {
        "artifacts": dg.MetadataValue.json([asdict(artifact) for artifact in outputs.written.values()]),
        "sources": dg.MetadataValue.json([asdict(artifact) for artifact in outputs.read.values()]),
        "inputs": dg.MetadataValue.json([asdict(made_from) for made_from in inputs]),
        "started_at": started_at.isoformat(),
        "wall_seconds": round(seconds, 6),
        "cpu_seconds": round(cpu_seconds, 6),
    }
    if commit is not None:
        facts["commit"] = commit
    if partition is not None or not context.has_partition_key_range:
        key = context.asset_key.to_user_string()
        receipt = receipt_id(context.run.run_id, key, partition)
        facts["receipt"] = dg.MetadataValue.url(f"http://127.0.0.1:{settings.api_port}/api/v1/receipts/{receipt}")
        of_partition = f" --partition {shlex.quote(partition)}" if partition is not None else ""
        facts["receipt_command"] = f"stemma receipt show {key}{of_partition}"
    return facts


# What events say


def issue_receipts(
    instance: dg.DagsterInstance, database: Database, settings: Settings, *, seconds: float | None = None
) -> SyncReport:
    """Write the receipts that are missing, oldest first, within `seconds` or until there are none.

    Where reading goes on is kept beside the events, in Dagster's storage: a cursor that is lost costs time, one that
    outlived its events cannot be. Raises Unavailable where the ledger does not answer.
    """
    deadline = None if seconds is None else time.monotonic() + seconds
    report = SyncReport(0, ())
    position = start = read_cursor(instance)
    while records := _records_after(instance, position, _PAGE):
        waiting = receipts.without_receipt(database, _materializations(instance, records))
        if waiting:
            # The ledger's threads are started only where there is something to write.
            with Ledger(database.urls, settings) as ledger:
                report += receipts.sync(database, ledger, waiting)
        position = records[-1].storage_id
        start = _keep_cursor(instance, start, records)
        if len(records) < _PAGE or (deadline is not None and time.monotonic() > deadline):
            break
    return report


def has_news(instance: dg.DagsterInstance) -> bool:
    """Whether there is an event behind the cursor."""
    return bool(_records_after(instance, read_cursor(instance), limit=1))


def read_cursor(instance: dg.DagsterInstance) -> int:
    """The storage id up to which every event was seen; 0 where nothing usable is kept."""
    kept = instance.daemon_cursor_storage.get_cursor_values({_CURSOR}).get(_CURSOR, "")
    return int(kept) if kept.isascii() and kept.isdigit() else 0


def _keep_cursor(instance: dg.DagsterInstance, start: int, records: Sequence[dg.EventLogRecord]) -> int:
    """Move the cursor behind the events that are old enough: a lower id may still become visible after a higher one."""
    settled_at = (datetime.now(UTC) - SETTLING).timestamp()
    settled = max((r.storage_id for r in records if r.timestamp < settled_at), default=start)
    if settled > start:
        instance.daemon_cursor_storage.set_cursor_values({_CURSOR: str(settled)})
    return settled


def _records_after(instance: dg.DagsterInstance, position: int, limit: int) -> Sequence[dg.EventLogRecord]:
    wanted = dg.EventRecordsFilter(_MATERIALIZED, after_cursor=position)
    return instance.event_log_storage.get_event_records(wanted, limit=limit, ascending=True)


def _materializations(instance: dg.DagsterInstance, records: Iterable[dg.EventLogRecord]) -> list[Materialization]:
    records = list(records)
    runs = instance.get_runs(dg.RunsFilter(run_ids=sorted({record.run_id for record in records if record.run_id})))
    tags = {run.run_id: run.tags for run in runs}
    return [_materialization(record, tags.get(record.run_id, {})) for record in records]


def _materialization(record: dg.EventLogRecord, run_tags: Mapping[str, str]) -> Materialization:
    event = record.asset_materialization
    assert event is not None
    facts = {name: value.value for name, value in event.metadata.items()}
    tags = event.tags or {}
    started_at = facts.get("started_at")
    return Materialization(
        event=record.storage_id,
        at=datetime.fromtimestamp(record.timestamp, UTC),
        asset=event.asset_key.to_user_string(),
        partition=event.partition,
        run_id=run_name(record.run_id, record.storage_id),
        # Dagster makes one up for an asset that reports none.
        data_version=tags.get(DATA_VERSION_TAG) if DATA_VERSION_IS_USER_PROVIDED_TAG in tags else None,
        code_version=tags.get(CODE_VERSION_TAG),
        commit=facts.get("commit"),
        inputs=tuple(Input(**made_from) for made_from in facts.get("inputs", ())),
        sources=tuple(Artifact(**source) for source in facts.get("sources", ())),
        artifacts=tuple(Artifact(**artifact) for artifact in facts.get("artifacts", ())),
        started_at=datetime.fromisoformat(started_at) if started_at else None,
        seconds=facts.get("wall_seconds"),
        cpu_seconds=facts.get("cpu_seconds"),
        cost_usd=facts.get("cost_usd"),
        actor=actor_of(run_tags),
    )
