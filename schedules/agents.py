"""What agents learned yesterday, every morning at 06:20 UTC."""

import dagster as dg

from assets.jobs import agents_distil
from schedules.governance import yesterday


@dg.schedule(
    name="distil_memory",
    description="Distil what agents learned yesterday, daily at 06:20 UTC",
    job=agents_distil,
    cron_schedule="20 6 * * *",
    execution_timezone="UTC",
    default_status=dg.DefaultScheduleStatus.RUNNING,
)
def distil_memory(context: dg.ScheduleEvaluationContext) -> dg.RunRequest:
    """One run, for yesterday."""
    return yesterday(context)
