"""Re-reading every knowledge source once a day."""

from collections.abc import Iterator

import dagster as dg

from assets.jobs import knowledge_refresh
from assets.knowledge import KNOWLEDGE_SOURCES


@dg.schedule(
    name="reread_sources",
    description="Re-read every knowledge source daily at 05:30 UTC; what did not change is not rebuilt",
    job=knowledge_refresh,
    cron_schedule="30 5 * * *",
    execution_timezone="UTC",
    default_status=dg.DefaultScheduleStatus.RUNNING,
)
def reread_sources(context: dg.ScheduleEvaluationContext) -> Iterator[dg.RunRequest | dg.SkipReason]:
    """One run per source."""
    names = sorted(context.instance.get_dynamic_partitions(str(KNOWLEDGE_SOURCES.name)))
    if not names:
        yield dg.SkipReason("No source is registered. Add one with `stemma sources add`.")
    day = context.scheduled_execution_time.date().isoformat()
    for name in names:
        yield dg.RunRequest(run_key=f"{day}:{name}", partition_key=name)
