"""The day that is over, every morning: summed up at 06:00 UTC, distilled at 06:10."""

from datetime import timedelta

import dagster as dg

from assets.jobs import governance_aggregate, governance_distil


def _yesterday(context: dg.ScheduleEvaluationContext) -> dg.RunRequest:
    day = (context.scheduled_execution_time.date() - timedelta(days=1)).isoformat()
    return dg.RunRequest(run_key=day, partition_key=day)


@dg.schedule(
    name="aggregate_day",
    description="Sum up yesterday's features and fill in vectors of decisions, daily at 06:00 UTC",
    job=governance_aggregate,
    cron_schedule="0 6 * * *",
    execution_timezone="UTC",
    default_status=dg.DefaultScheduleStatus.RUNNING,
)
def aggregate_day(context: dg.ScheduleEvaluationContext) -> dg.RunRequest:
    """One run, for yesterday."""
    return _yesterday(context)


@dg.schedule(
    name="distil_day",
    description="Distil yesterday into a snapshot, scorecards and a drift report, daily at 06:10 UTC",
    job=governance_distil,
    cron_schedule="10 6 * * *",
    execution_timezone="UTC",
    default_status=dg.DefaultScheduleStatus.RUNNING,
)
def distil_day(context: dg.ScheduleEvaluationContext) -> dg.RunRequest:
    """One run, for yesterday."""
    return _yesterday(context)
