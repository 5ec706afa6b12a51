"""What agents learned, every morning at 06:20 UTC: yesterday, and the days before it that were missed."""

from datetime import timedelta

import dagster as dg
from dagster._core.storage.tags import ASSET_PARTITION_RANGE_END_TAG, ASSET_PARTITION_RANGE_START_TAG

from assets.jobs import agents_distil

_DAYS = 14


@dg.schedule(
    name="distil_memory",
    description="Distil what agents learned in the last fortnight, daily at 06:20 UTC; what is distilled is left alone",
    job=agents_distil,
    cron_schedule="20 6 * * *",
    execution_timezone="UTC",
    default_status=dg.DefaultScheduleStatus.RUNNING,
)
def distil_memory(context: dg.ScheduleEvaluationContext) -> dg.RunRequest:
    """One run for all of these days."""
    last = context.scheduled_execution_time.date() - timedelta(days=1)
    tags = {
        ASSET_PARTITION_RANGE_START_TAG: (last - timedelta(days=_DAYS - 1)).isoformat(),
        ASSET_PARTITION_RANGE_END_TAG: last.isoformat(),
    }
    return dg.RunRequest(run_key=last.isoformat(), tags=tags)
