"""The sensor that writes receipts of what was materialized, whoever materialized it."""

import dagster as dg

_SECONDS_PER_TICK = 20.0


@dg.sensor(
    name="receipts",
    description="Writes a ledger receipt for every materialization; one that cannot have a receipt fails the tick",
    minimum_interval_seconds=10,
    default_status=dg.DefaultSensorStatus.RUNNING,
)
def receipts(context: dg.SensorEvaluationContext) -> dg.SkipReason:
    """Issue what is missing; what takes longer than a tick may is continued by the next one."""
    from resources.materializations import has_news, issue_receipts
    from stemma.ledger.receipts import require_none_refused
    from stemma.store.database import Database
    from stemma.store.settings import load_settings

    if not has_news(context.instance):
        return dg.SkipReason("Nothing was materialized.")
    settings = load_settings()
    with Database.open(settings) as database:
        report = issue_receipts(context.instance, database, settings, seconds=_SECONDS_PER_TICK)
    require_none_refused(report)
    return dg.SkipReason(f"{report.written:,} receipts written.")
