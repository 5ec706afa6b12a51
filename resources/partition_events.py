"""What a step tells of each of the partitions that it materialized at once: their data versions and metadata.

Dagster gives all partitions of a step one data version, so that a day of which nothing changed would look changed as
soon as it was materialized together with another. Here each gets its own, when the step's events are made.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

import dagster as dg
from dagster._core.definitions.data_version import DATA_VERSION_TAG
from dagster._core.execution.plan import execute_step


@dataclass(frozen=True, slots=True)
class Told:
    """The data version of one partition, and metadata beside those of the step."""

    data_version: str
    metadata: Mapping[str, Any]


_told: Final[dict[tuple[str, dg.AssetKey], Mapping[str, Told]]] = {}
_events = execute_step._get_output_asset_events


def tell(run_id: str, asset: dg.AssetKey, partitions: Mapping[str, Told]) -> None:
    """Have the events that follow tell this of the partitions of an asset."""
    _told[run_id, asset] = partitions


def _told_apart(asset_key: dg.AssetKey, *arguments: Any, **more: Any) -> Iterator[Any]:
    step_context = more["step_context"] if "step_context" in more else arguments[4]
    partitions = _told.pop((step_context.run_id, asset_key), {})
    for event in _events(asset_key, *arguments, **more):
        told = partitions.get(event.partition or "")
        if told is None:
            yield event
        else:
            yield dg.AssetMaterialization(
                asset_key=asset_key,
                partition=event.partition,
                metadata={**event.metadata, **told.metadata},
                tags={**event.tags, DATA_VERSION_TAG: told.data_version},
            )


execute_step._get_output_asset_events = _told_apart
