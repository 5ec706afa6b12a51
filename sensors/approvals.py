"""Settling what nobody decided in time, also while nobody looks."""

import dagster as dg


@dg.sensor(
    name="approvals",
    description="Writes approvals past their deadline into the ledger as expired, which counts as denied",
    minimum_interval_seconds=60,
    default_status=dg.DefaultSensorStatus.RUNNING,
)
def approvals(context: dg.SensorEvaluationContext) -> dg.SkipReason:
    """Settle what is due; it never asks for a run."""
    from stemma.approvals.expiry import expire_due, settle_due
    from stemma.ledger.service import Ledger
    from stemma.store.database import Database
    from stemma.store.settings import load_settings

    settings = load_settings()
    with Database.open(settings) as database:
        if not database.read(expire_due):
            return dg.SkipReason("No approval is past its deadline.")
        with Ledger(database.urls, settings) as ledger:
            return dg.SkipReason(f"Approvals that expired: {settle_due(database, ledger)}.")
