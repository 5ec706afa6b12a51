"""Reading a paper by itself once it was taken in: its pages, its claims, and a plan. A run stays a person's wish."""

import dagster as dg

from assets.jobs import paper_materialize
from assets.papers import PAPERS

_MOST = 50


@dg.sensor(
    name="papers_taken_in",
    description="Reads a paper that was taken in, finds what it claims, and plans how to reproduce that",
    job=paper_materialize,
    minimum_interval_seconds=5,
    default_status=dg.DefaultSensorStatus.RUNNING,
)
def papers_taken_in(context: dg.SensorEvaluationContext) -> dg.SensorResult | dg.SkipReason:
    """Request a run for each paper that was not read, the newest first; its key lets each be requested once.

    One whose run died is no longer asked for by itself, and holds up no other.
    """
    from stemma.papers import catalog
    from stemma.store.database import Database
    from stemma.store.settings import load_settings

    with Database.open(load_settings()) as database:
        waiting = [str(paper) for paper in database.read(lambda connection: catalog.unread(connection, limit=_MOST))]
    if not waiting:
        return dg.SkipReason("Every paper was read, or says why it cannot be.")
    return dg.SensorResult(
        dynamic_partitions_requests=[PAPERS.build_add_request(waiting)],
        run_requests=[dg.RunRequest(run_key=f"paper:{paper}", partition_key=paper) for paper in waiting],
    )
