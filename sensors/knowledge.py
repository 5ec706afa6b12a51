"""Starting the knowledge graph when a source is registered or a file appears in the inbox."""

import dagster as dg

from assets.jobs import knowledge_refresh
from assets.knowledge import KNOWLEDGE_SOURCES


@dg.sensor(
    name="inbox",
    description="Makes a file that appears in the inbox, or is uploaded, searchable without a command",
    job=knowledge_refresh,
    minimum_interval_seconds=5,
    default_status=dg.DefaultSensorStatus.RUNNING,
)
def inbox(context: dg.SensorEvaluationContext) -> dg.SensorResult | dg.SkipReason:
    """Request a run when the inbox's listing differs from the one that the cursor remembers."""
    from stemma.knowledge.inbox import fingerprint
    from stemma.knowledge.sources import INBOX_NAME
    from stemma.store.settings import load_settings

    listing = fingerprint(load_settings().inbox)
    number, _, known = (context.cursor or "0:").partition(":")
    if listing == known:
        return dg.SkipReason("Nothing changed in the inbox.")
    cursor = f"{int(number) + 1 if number.isdigit() else 1}:{listing}"
    return dg.SensorResult(
        cursor=cursor,
        dynamic_partitions_requests=[KNOWLEDGE_SOURCES.build_add_request([INBOX_NAME])],
        run_requests=[dg.RunRequest(run_key=f"inbox:{cursor}", partition_key=INBOX_NAME)],
    )
