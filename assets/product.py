"""How an asset of ours is made: `@product` is `dg.asset` with everything that each of them has to keep.

A product reports a data version and records what it writes (`stemma.store.outputs`), else its step fails; its event
then says all that its receipt needs. It is retried where that may help, and belongs to its capability's team.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final

import dagster as dg

from assets.failures import RETRY, domain_failures
from resources import materializations
from stemma import revision
from stemma.errors import CheckFailed
from stemma.store import outputs
from stemma.store.settings import load_settings

PRODUCT_TAG: Final = "stemma/product"

Body = Callable[..., dg.MaterializeResult[None]]


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


def _produce(body: Callable[[], dg.MaterializeResult[None]]) -> dg.MaterializeResult[None]:
    context = dg.AssetExecutionContext.get()
    inputs = materializations.found_inputs(context)
    started_at, wall, cpu = datetime.now(UTC), time.perf_counter(), time.process_time()
    with domain_failures(), outputs.collected() as told:
        result = body()
        _require_complete(context.asset_key.to_user_string(), result, told)
    facts = materializations.metadata(
        context,
        load_settings(),
        told,
        inputs,
        commit=revision.commit(),
        started_at=started_at,
        seconds=time.perf_counter() - wall,
        cpu_seconds=time.process_time() - cpu,
    )
    # Nothing that is built so far costs money; what does, says so.
    return result._replace(metadata={"cost_usd": 0.0, **(result.metadata or {}), **facts})


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
