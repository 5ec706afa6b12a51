"""How an asset of ours is made: `@product` is `dg.asset` with everything that each of them has to keep.

A product reports a data version and records what it writes (`stemma.store.outputs`), else its step fails; its event
then says all that its receipt needs. One that makes several partitions at once says so of each (`Partitions`). It is
retried where that may help, and belongs to its capability's team.
"""

from __future__ import annotations

import functools
import hashlib
import inspect
import time
import warnings
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

import dagster as dg

from assets.failures import RETRY, domain_failures
from resources.partition_events import Told, tell
from stemma.errors import CheckFailed
from stemma.store import outputs

if TYPE_CHECKING:
    from stemma.ledger.receipts import Input

PRODUCT_TAG: Final = "stemma/product"


@dataclass(frozen=True, slots=True)
class Partition:
    """What one partition became: its data version, the artifacts that it consists of, and metadata.

    `made_from` names the partitions of what it is made from, by default those that are called as it is.
    """

    data_version: str
    artifacts: tuple[outputs.Artifact, ...]
    metadata: Mapping[str, Any]
    made_from: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True)
class Partitions:
    """What every partition of a run became, and metadata that they share."""

    by_key: Mapping[str, Partition]
    metadata: Mapping[str, Any]


Body = Callable[..., dg.MaterializeResult[None] | Partitions]


def product(
    *,
    key: Sequence[str],
    code_version: str,
    kinds: set[str],
    description: str,
    tags: Mapping[str, str] | None = None,
    **options: Any,
) -> Callable[[Body], dg.AssetsDefinition]:
    """Define an asset `[capability, thing]`; further options are those of `dg.asset`.

    The step fails, without another try, where the body returns no data version or recorded no output.
    """
    capability = key[0]

    def define(body: Body) -> dg.AssetsDefinition:
        # Dagster reads parameters and annotations through the wrapper.
        @functools.wraps(body)
        def step(*arguments: Any, **resources: Any) -> dg.MaterializeResult[None]:
            return _produce(functools.partial(body, *arguments, **resources))

        read = inspect.signature(body)
        if read.return_annotation is not inspect.Signature.empty:
            read = read.replace(return_annotation=dg.MaterializeResult[None])
        step.__signature__ = read  # type: ignore[attr-defined]
        with warnings.catch_warnings():
            # A run for many partitions (`backfill_policy`) is what Dagster may still change; a test completes one.
            warnings.simplefilter("ignore", dg.BetaWarning)
            return dg.asset(
                key=list(key),
                code_version=code_version,
                kinds=kinds,
                description=description,
                tags={**(tags or {}), PRODUCT_TAG: capability},
                group_name=capability,
                owners=[f"team:{capability}"],
                retry_policy=RETRY,
                **options,
            )(step)

    return define


def _produce(body: Callable[[], dg.MaterializeResult[None] | Partitions]) -> dg.MaterializeResult[None]:
    from resources import materializations
    from stemma import revision
    from stemma.store.settings import load_settings

    context = dg.AssetExecutionContext.get()
    inputs = materializations.found_inputs(context)
    started_at, wall, cpu = datetime.now(UTC), time.perf_counter(), time.process_time()
    with domain_failures(), outputs.collected() as told:
        result = body()
        if isinstance(result, dg.MaterializeResult):
            _require_complete(context.asset_key.to_user_string(), result, told)
    facts = functools.partial(
        materializations.metadata, context, load_settings(), commit=revision.commit(), started_at=started_at
    )
    seconds, cpu_seconds = time.perf_counter() - wall, time.process_time() - cpu
    if isinstance(result, Partitions):
        return _each(context, result, inputs, told, facts, seconds, cpu_seconds)
    partition = context.partition_key if context.has_partition_key else None
    of_step = facts(told, inputs, partition=partition, seconds=seconds, cpu_seconds=cpu_seconds)
    # Nothing that is built so far costs money; what does, says so.
    return result._replace(metadata={"cost_usd": 0.0, **(result.metadata or {}), **of_step})


def _each(
    context: dg.AssetExecutionContext,
    result: Partitions,
    inputs: Sequence[Input],
    told: outputs.Outputs,
    facts: Callable[..., dict[str, Any]],
    seconds: float,
    cpu_seconds: float,
) -> dg.MaterializeResult[None]:
    """Tell of each partition what went into it and came of it; of the time of the step, each has its part."""
    wide = [made_from for made_from in inputs if made_from.partition is None]
    narrow: dict[str | None, list[Input]] = defaultdict(list)
    for made_from in inputs:
        if made_from.partition is not None:
            narrow[made_from.partition].append(made_from)
    share = 1 / max(len(result.by_key), 1)
    versions = hashlib.sha256()
    partitions = {}
    for key, partition in result.by_key.items():
        written = outputs.Outputs({artifact.name: artifact for artifact in partition.artifacts}, told.read)
        of_partition = facts(
            written,
            [*(known for name in partition.made_from or (key,) for known in narrow[name]), *wide],
            partition=key,
            seconds=seconds * share,
            cpu_seconds=cpu_seconds * share,
        )
        partitions[key] = Told(partition.data_version, {**partition.metadata, **of_partition})
        versions.update(f"{key} {partition.data_version}\n".encode())
    tell(context.run.run_id, context.asset_key, partitions)
    return dg.MaterializeResult(
        data_version=dg.DataVersion(versions.hexdigest()), metadata={"cost_usd": 0.0, **result.metadata}
    )


def _require_complete(key: str, result: dg.MaterializeResult[None], told: outputs.Outputs) -> None:
    """Raises CheckFailed where no receipt could be written of the result."""
    if not isinstance(result, dg.MaterializeResult) or result.data_version is None:
        raise CheckFailed(
            "data_version_missing",
            f"{key} reports no data version.",
            hint="Return dg.MaterializeResult(data_version=…) with a version of the content.",
        )
    if not told.written:
        raise CheckFailed(
            "output_hash_missing",
            f"{key} recorded no output.",
            hint="Write through a FileStore, or call stemma.store.outputs.record with what was written.",
        )
