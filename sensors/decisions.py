"""Settling decisions that nobody decided in time, or that were decided where approvals are, also while nobody looks."""

import dagster as dg


@dg.sensor(
    name="decisions",
    description="Carries out what a policy says of silence, and what was decided of a decision's approval",
    minimum_interval_seconds=30,
    default_status=dg.DefaultSensorStatus.RUNNING,
)
def decisions(context: dg.SensorEvaluationContext) -> dg.SkipReason:
    """Settle what is due; it never asks for a run."""
    from stemma.governance.decisions.review import due, settle_due
    from stemma.ledger.service import Ledger
    from stemma.store.database import Database
    from stemma.store.settings import load_settings

    settings = load_settings()
    with Database.open(settings) as database:
        if not database.read(due):
            return dg.SkipReason("No decision is past its deadline.")
        with Ledger(database.urls, settings) as ledger:
            return dg.SkipReason(f"Decisions that were settled: {settle_due(database, ledger)}.")
