"""Starting the knowledge graph when a source is registered or a file appears in the inbox."""

from __future__ import annotations

import dagster as dg

from assets.knowledge import KNOWLEDGE_SOURCES
from stemma.knowledge import sources
from stemma.store.database import Database
from stemma.store.settings import load_settings

knowledge_refresh = dg.define_asset_job(
    "knowledge_refresh",
    selection=dg.AssetSelection.groups("knowledge"),
    partitions_def=KNOWLEDGE_SOURCES,
    description="Read one source, then bring its chunks, its embeddings and the search index up to date",
)


@dg.sensor(
    name="inbox",
    description="Makes a file that appears in the inbox, or is uploaded, searchable without a command",
    job=knowledge_refresh,
    minimum_interval_seconds=5,
    default_status=dg.DefaultSensorStatus.RUNNING,
)
def inbox(context: dg.SensorEvaluationContext) -> dg.SensorResult | dg.SkipReason:
    """Request a run when the inbox's listing differs from the one that the cursor remembers."""
    listing = sources.fingerprint(load_settings().inbox)
    if listing == context.cursor:
        return dg.SkipReason("Nothing changed in the inbox.")
    if listing is None:
        return dg.SkipReason("The inbox is being written to; looking again at the next tick.")
    return dg.SensorResult(
        cursor=listing,
        dynamic_partitions_requests=[KNOWLEDGE_SOURCES.build_add_request([sources.INBOX])],
        run_requests=[dg.RunRequest(run_key=f"inbox:{listing}", partition_key=sources.INBOX)],
    )
