"""What learning does while nobody looks: stops, proposes and publishes variants, fills in what runs in the shadow."""

import dagster as dg


@dg.sensor(
    name="learning",
    description="Stops variants that do harm, proposes better ones, publishes what a person approved, fills in shadows",
    minimum_interval_seconds=30,
    default_status=dg.DefaultSensorStatus.RUNNING,
)
def learning(context: dg.SensorEvaluationContext) -> dg.SkipReason:
    """Do what is due; it never asks for a run."""
    from stemma.governance.learning import shadow, tending
    from stemma.ledger.service import Ledger
    from stemma.store.database import Database
    from stemma.store.settings import load_settings

    settings = load_settings()
    with Database.open(settings) as database:
        written = 0
        if database.read(tending.due):
            with Ledger(database.urls, settings) as ledger:
                written = tending.tend(database, ledger)
        with database.transaction() as connection:
            filled = shadow.fill(connection)
    return dg.SkipReason(f"Variants stopped, proposed or published: {written}; shadows filled in: {filled}.")
