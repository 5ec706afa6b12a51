"""Named selections of assets that sensors and schedules start, and that a person can launch in the Dagster UI."""

import dagster as dg

knowledge_refresh = dg.define_asset_job(
    "knowledge_refresh",
    selection=dg.AssetSelection.groups("knowledge"),
    description="Read one source, then bring its chunks, its embeddings and the search index up to date",
)
