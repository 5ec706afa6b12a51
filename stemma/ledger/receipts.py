"""Receipts of materializations: what was made, from what, by which code, for whom, when and at what cost.

A receipt is an entry of the chain `receipts` whose id follows from the run, the asset and the partition, so that the
same materialization has one receipt, whoever issues it and however often. It says everything itself: whatever it was
made from may be deleted. Reading receipts is `receipt_catalog`'s business, taking one elsewhere `attestation`'s.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any, Final
from uuid import UUID, uuid5

from stemma.errors import CheckFailed, Conflict, InvalidInput, StemmaError
from stemma.ledger.entries import Entry, NewEntry, format_time
from stemma.ledger.journal import transition
from stemma.ledger.service import Ledger
from stemma.ledger.writer import Statement
from stemma.store.database import Connection, Database
from stemma.store.outputs import Artifact

CHAIN: Final = "receipts"
KIND: Final = "asset.materialized"

_NAMESPACE = UUID("5b1f0c8e-6f5d-4d0a-9a53-6c1d4a0b7e21")
_MOST_AT_ONCE = 64


def subject(asset: str, partition: str | None) -> str:
    """How ledger entries name an asset, or one partition of it: `knowledge/chunks[handbook]`."""
    return asset if partition is None else f"{asset}[{partition}]"


def receipt_id(run_id: str, asset: str, partition: str | None) -> UUID:
    """The id of the receipt of what this run made; known before there is a receipt."""
    return uuid5(_NAMESPACE, f"{run_id}\n{asset}\n{'' if partition is None else f'[{partition}]'}")


@dataclass(frozen=True, slots=True)
class Input:
    """An asset, or one partition of it, that a step found when it began; without a run it was never materialized."""

    asset: str
    partition: str | None
    data_version: str | None
    run_id: str | None

    @property
    def receipt(self) -> UUID | None:
        """The id of its receipt, whether or not there is one."""
        return None if self.run_id is None else receipt_id(self.run_id, self.asset, self.partition)


@dataclass(frozen=True, slots=True)
class Materialization:
    """What one event of the asset graph says. Times are aware; seconds are those of the step."""

    event: int
    at: datetime
    asset: str
    partition: str | None
    run_id: str
    data_version: str | None
    code_version: str | None
    commit: str | None
    inputs: tuple[Input, ...]
    sources: tuple[Artifact, ...]
    artifacts: tuple[Artifact, ...]
    started_at: datetime | None
    seconds: float | None
    cpu_seconds: float | None
    cost_usd: float | None
    actor: str

    @property
    def subject(self) -> str:
        """What was materialized."""
        return subject(self.asset, self.partition)

    @property
    def receipt(self) -> UUID:
        """The id of its receipt, whether or not there is one."""
        return receipt_id(self.run_id, self.asset, self.partition)

    def require_complete(self) -> None:
        """Raises InvalidInput where no receipt can be made of it."""
        for code, missing, what in (
            ("data_version_missing", not self.data_version, "reports no data version"),
            ("output_hash_missing", not self.artifacts, "records no output with its SHA-256"),
        ):
            if missing:
                raise InvalidInput(code, f"{self.subject} {what}.", hint="Define the asset by `assets.product`.")


@dataclass(frozen=True, slots=True)
class ReceiptInput:
    """One input as a receipt names it; `receipt` and `entry_hash` are null where it had no receipt then."""

    asset: str
    partition: str | None
    data_version: str | None
    receipt: UUID | None
    entry_hash: str | None


@dataclass(frozen=True, slots=True)
class Receipt:
    """A receipt as stored. `sources` are what was read from outside the studio; the cost is in US dollars."""

    id: UUID
    seq: int
    entry_hash: str
    issued_at: datetime
    actor: str
    asset: str
    partition: str | None
    run_id: str
    event: int
    materialized_at: datetime
    data_version: str
    code_version: str | None
    commit: str | None
    inputs: tuple[ReceiptInput, ...]
    sources: tuple[Artifact, ...]
    artifacts: tuple[Artifact, ...]
    started_at: datetime | None
    seconds: float | None
    cpu_seconds: float | None
    cost_usd: float | None

    @property
    def subject(self) -> str:
        """What it is the receipt of."""
        return subject(self.asset, self.partition)

    @classmethod
    def of(cls, entry: Entry) -> Receipt:
        """The receipt that an entry of the chain `receipts` is."""
        data = entry.data
        return cls(
            id=entry.id,
            seq=entry.seq,
            entry_hash=entry.entry_hash.hex(),
            issued_at=entry.created_at,
            actor=entry.actor,
            asset=data["asset"],
            partition=data["partition"],
            run_id=data["run_id"],
            event=data["event"],
            materialized_at=datetime.fromisoformat(data["materialized_at"]),
            data_version=data["data_version"],
            code_version=data["code_version"],
            commit=data["commit"],
            inputs=tuple(
                ReceiptInput(
                    i["asset"],
                    i["partition"],
                    i["data_version"],
                    None if i["receipt"] is None else UUID(i["receipt"]),
                    i["entry_hash"],
                )
                for i in data["inputs"]
            ),
            sources=tuple(Artifact(**source) for source in data["sources"]),
            artifacts=tuple(Artifact(**artifact) for artifact in data["artifacts"]),
            started_at=None if data["started_at"] is None else datetime.fromisoformat(data["started_at"]),
            seconds=data["seconds"],
            cpu_seconds=data["cpu_seconds"],
            cost_usd=data["cost_usd"],
        )


@dataclass(frozen=True, slots=True)
class Refusal:
    """A materialization that got no receipt, and why."""

    subject: str
    run_id: str
    event: int
    code: str
    reason: str

    def __str__(self) -> str:
        return f"{self.subject}, run {self.run_id}, event {self.event}: {self.reason}"


@dataclass(frozen=True, slots=True)
class SyncReport:
    """What `sync` did: how many receipts it wrote, and what it could not make a receipt of."""

    written: int
    refused: tuple[Refusal, ...]

    def __add__(self, other: SyncReport) -> SyncReport:
        return SyncReport(self.written + other.written, self.refused + other.refused)


def require_none_refused(report: SyncReport) -> None:
    """Raises CheckFailed with code `receipt_refused` that names what could not have a receipt."""
    if report.refused:
        first, *others = map(str, report.refused)
        more = f" And {len(others):,} more." if others else ""
        raise CheckFailed("receipt_refused", f"No receipt could be written of {first}{more}")


def without_receipt(database: Database, materializations: Iterable[Materialization]) -> list[Materialization]:
    """Those that have none yet, in the order of their events."""
    by_id = {item.receipt: item for item in sorted(materializations, key=lambda item: item.event)}
    with database.snapshot() as connection:
        known = _entry_hashes(connection, by_id)
    return [item for item in by_id.values() if item.receipt not in known]


def sync(database: Database, ledger: Ledger, materializations: Iterable[Materialization]) -> SyncReport:
    """Write a receipt for every materialization that has none, each with its Historian entry where the data changed.

    Receipts are written in the order of events, so that each can name the receipts of its inputs. What cannot have one
    is refused by name, after all others were written. Raises Unavailable where the ledger does not answer; what was
    written until then stays, and the same call made again goes on.
    """
    report = SyncReport(0, ())
    batch: list[Materialization] = []
    for item in without_receipt(database, materializations):
        in_batch = {other.receipt for other in batch}
        follows = any(made_from.receipt in in_batch for made_from in item.inputs)
        if follows or len(batch) == _MOST_AT_ONCE or any(other.subject == item.subject for other in batch):
            report += _write(database, ledger, batch)
            batch = []
        batch.append(item)
    return report + _write(database, ledger, batch)


def _write(database: Database, ledger: Ledger, batch: Sequence[Materialization]) -> SyncReport:
    """Append receipts of which none is an input of another."""
    if not batch:
        return SyncReport(0, ())
    with database.snapshot() as connection:
        wanted = {made_from.receipt for item in batch for made_from in item.inputs if made_from.receipt is not None}
        hashes = _entry_hashes(connection, wanted)
        before = _data_versions(connection, {item.subject for item in batch})
    refused: list[Refusal] = []
    appending: list[tuple[Materialization, Future[tuple[Entry, ...]]]] = []
    for item in batch:
        try:
            item.require_complete()
            entries = _entries(item, hashes, before.get(item.subject))
            appending.append((item, ledger.append(entries, [_row(item)])))
        except InvalidInput as error:
            refused.append(_refusal(item, error))
    written = 0
    for item, appended in appending:
        try:
            appended.result()
            written += 1
        except Conflict as error:
            # Somebody else issued it meanwhile, and saw other receipts before it.
            if without_receipt(database, [item]):
                refused.append(_refusal(item, error))
    return SyncReport(written, tuple(refused))


def _refusal(item: Materialization, error: StemmaError) -> Refusal:
    return Refusal(item.subject, item.run_id, item.event, error.code, str(error))


def _entries(item: Materialization, hashes: Mapping[UUID, bytes], before: str | None) -> list[NewEntry]:
    entries = [NewEntry(CHAIN, KIND, item.actor, item.subject, _data(item, hashes), id=item.receipt)]
    if item.data_version != before:
        data = {"data_version": item.data_version, "previous": before, "receipt": str(item.receipt)}
        journal = transition(KIND, subject=item.subject, actor=item.actor, data=data)
        entries.append(dataclasses.replace(journal, id=uuid5(item.receipt, journal.chain)))
    return entries


def _data(item: Materialization, hashes: Mapping[UUID, bytes]) -> dict[str, Any]:
    return {
        "asset": item.asset,
        "partition": item.partition,
        "run_id": item.run_id,
        "event": item.event,
        "materialized_at": format_time(item.at),
        "data_version": item.data_version,
        "code_version": item.code_version,
        "commit": item.commit,
        "inputs": [_input(made_from, hashes) for made_from in item.inputs],
        "sources": [asdict(source) for source in item.sources],
        "artifacts": [asdict(artifact) for artifact in item.artifacts],
        "started_at": None if item.started_at is None else format_time(item.started_at),
        "seconds": item.seconds,
        "cpu_seconds": item.cpu_seconds,
        "cost_usd": item.cost_usd,
    }


def _input(made_from: Input, hashes: Mapping[UUID, bytes]) -> dict[str, Any]:
    receipt = made_from.receipt
    issued = receipt is not None and receipt in hashes
    return {
        "asset": made_from.asset,
        "partition": made_from.partition,
        "data_version": made_from.data_version,
        "receipt": str(receipt) if issued else None,
        "entry_hash": hashes[receipt].hex() if receipt is not None and issued else None,
    }


def _row(item: Materialization) -> Statement:
    return Statement(
        "INSERT INTO receipts (id, seq, asset, partition, run_id) VALUES (%s, %s, %s, %s, %s)",
        lambda entries: (item.receipt, entries[0].seq, item.asset, item.partition, item.run_id),
        rows=1,
    )


def _entry_hashes(connection: Connection, ids: Iterable[UUID]) -> dict[UUID, bytes]:
    rows = connection.execute("SELECT id, entry_hash FROM ledger WHERE id = ANY(%s)", (list(ids),)).fetchall()
    return {entry_id: bytes(entry_hash) for entry_id, entry_hash in rows}


def _data_versions(connection: Connection, subjects: set[str]) -> dict[str, str]:
    """The data version in the newest receipt of each."""
    rows = connection.execute(
        """
        SELECT name, body FROM unnest(%s::text[]) AS name CROSS JOIN LATERAL
            (SELECT body FROM ledger WHERE chain = %s AND subject = name ORDER BY seq DESC LIMIT 1) AS newest
        """,
        (sorted(subjects), CHAIN),
    ).fetchall()
    versions = {}
    for name, body in rows:
        # One that was tampered with is verification's business and keeps nobody from getting a receipt.
        with contextlib.suppress(ValueError, KeyError, TypeError):
            versions[name] = json.loads(body)["data"]["data_version"]
    return versions
