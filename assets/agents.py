"""What agents learned of their calls, by days (UTC): facts that stand in the day's episodes, which they name.

A day is complete when it is over. A day of which something was forgotten is not distilled again.
"""

from typing import TYPE_CHECKING

import dagster as dg

from assets.costs import USAGE_DAYS, span_of
from assets.product import Partition, Partitions, product
from resources.store import StoreResource
from stemma.agents.memory.versions import DISTILLING
from stemma.store.outputs import Listing

if TYPE_CHECKING:
    from stemma.agents.memory.distilling import Report


@product(
    key=["agents", "semantic_memory"],
    kinds={"onnx", "postgres"},
    code_version=DISTILLING,
    description=(
        "Facts distilled from the summaries of each day's calls, for each agent and caller apart: sentences that stand"
        " in them, with the calls that say the same. Also removes memories that expired."
    ),
    partitions_def=USAGE_DAYS,
    backfill_policy=dg.BackfillPolicy.single_run(),
)
def semantic_memory(context: dg.AssetExecutionContext, store: StoreResource) -> Partitions:
    """Distil the days of the run of which the episodes changed."""
    from stemma.agents.memory.distilling import sync_facts
    from stemma.agents.memory.vectors import Encoder
    from stemma.knowledge.embedding import load_model
    from stemma.knowledge.onnx_query import export_query_encoder

    export_query_encoder(store.settings, load_model(store.settings))
    span = span_of(context)
    return _result(context, sync_facts(store.database, Encoder(store.settings), span.first, span.last))


def _result(context: dg.AssetExecutionContext, report: "Report") -> Partitions:
    from stemma.agents.memory.distilling import Day

    nothing = Day("0" * 64, 0, 0)
    days = {day.isoformat(): made for day, made in report.days.items()}
    by_key = {}
    for key in context.partition_keys:
        day = days.get(key, nothing)
        listing = Listing()
        listing.add(day.version, day.facts)
        artifact = listing.artifact(f"{context.asset_key.to_user_string()}/{key}")
        metadata = {"dagster/row_count": day.facts, "changed": day.made > 0}
        by_key[key] = Partition(data_version=day.version, artifacts=(artifact,), metadata=metadata)
    told = {"facts": report.facts, "expired": report.expired, "embedded": report.embedded}
    return Partitions(by_key, told)
