"""What calls to models used and how the services did, every morning and every Monday, where `FF_COST_TELEMETRY` is on.

Days that were missed while the studio was off, and those to which calls were added late, are made with the last one.
"""

from collections.abc import Iterator
from datetime import date, timedelta

import dagster as dg
from dagster._core.storage.tags import ASSET_PARTITION_RANGE_END_TAG, ASSET_PARTITION_RANGE_START_TAG

from assets.costs import USAGE_DAYS
from assets.jobs import usage_days, usage_weeks

_OFF = dg.SkipReason("FF_COST_TELEMETRY is off.")


@dg.schedule(
    name="usage_day",
    description="Sum up yesterday's calls to models and health, and days that were missed, daily at 06:20 UTC",
    job=usage_days,
    cron_schedule="20 6 * * *",
    execution_timezone="UTC",
    default_status=dg.DefaultScheduleStatus.RUNNING,
)
def usage_day(context: dg.ScheduleEvaluationContext) -> Iterator[dg.RunRequest | dg.SkipReason]:
    """One run for each stretch of days."""
    from stemma.store.database import Database
    from stemma.store.settings import load_settings
    from stemma.telemetry.costs import stale_days
    from stemma.telemetry.days import Span, stretches

    settings = load_settings()
    if not settings.ff_cost_telemetry:
        yield _OFF
        return
    yesterday = context.scheduled_execution_time.date() - timedelta(days=1)
    with Database.open(settings) as database:
        within = Span(USAGE_DAYS.start.date(), yesterday)
        days = {*database.read(lambda connection: stale_days(connection, within)), yesterday}
    for span in stretches(days):
        yield _run(span.first, span.last, at=context.scheduled_execution_time.date())


@dg.schedule(
    name="usage_week",
    description="Add up the week that is over, Mondays at 06:40 UTC",
    job=usage_weeks,
    cron_schedule="40 6 * * 1",
    execution_timezone="UTC",
    default_status=dg.DefaultScheduleStatus.RUNNING,
)
def usage_week(context: dg.ScheduleEvaluationContext) -> dg.RunRequest | dg.SkipReason:
    """One run, for the last four weeks: calls may have been added late to any of them."""
    from stemma.store.settings import load_settings

    if not load_settings().ff_cost_telemetry:
        return _OFF
    today = context.scheduled_execution_time.date()
    return _run(today - timedelta(weeks=4), today - timedelta(weeks=1), at=today)


def _run(first: date, last: date, *, at: date) -> dg.RunRequest:
    tags = {ASSET_PARTITION_RANGE_START_TAG: str(first), ASSET_PARTITION_RANGE_END_TAG: str(last)}
    return dg.RunRequest(run_key=f"{at}:{first}:{last}", tags=tags)
