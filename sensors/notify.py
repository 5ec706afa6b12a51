"""Delivering notifications, which a process does whether or not anybody looks."""

import dagster as dg

_SECONDS_PER_TICK = 20.0
_PER_CHANNEL = 50


@dg.sensor(
    name="notify",
    description="Delivers what the outbox holds to Slack, by mail and to webhooks; an unusable notify.yaml fails it",
    minimum_interval_seconds=5,
    default_status=dg.DefaultSensorStatus.RUNNING,
)
def notify(context: dg.SensorEvaluationContext) -> dg.SkipReason:
    """Deliver what is due; it never asks for a run."""
    from stemma.ledger.service import Ledger
    from stemma.notify.delivery import deliver
    from stemma.notify.outbox import has_work
    from stemma.store.database import Database
    from stemma.store.settings import load_settings

    settings = load_settings()
    with Database.open(settings) as database:
        if not database.read(has_work):
            return dg.SkipReason("Nothing is to be delivered.")
        with Ledger(database.urls, settings) as ledger:
            report = deliver(database, ledger, settings, seconds=_SECONDS_PER_TICK, at_most=_PER_CHANNEL)
    return dg.SkipReason(f"Delivered {report.delivered}, postponed {report.postponed}, failed {report.failed}.")
