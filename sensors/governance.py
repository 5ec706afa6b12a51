"""Starting days of the governance loop's memory anew when something about them became known late."""

from collections import defaultdict
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING

import dagster as dg
from dagster._core.storage.tags import ASSET_PARTITION_RANGE_END_TAG, ASSET_PARTITION_RANGE_START_TAG

from assets import governance
from assets.jobs import governance_days

if TYPE_CHECKING:
    from stemma.governance.memory.days import Product
    from stemma.governance.memory.inputs import Span

_MOST_RUNS = 20


@dg.sensor(
    name="late_days",
    description="Makes the days anew of which something became known after they were made, and those that were missed",
    job=governance_days,
    minimum_interval_seconds=60,
    default_status=dg.DefaultSensorStatus.RUNNING,
)
def late_days(context: dg.SensorEvaluationContext) -> dg.SensorResult | dg.SkipReason:
    """Request a run for each stretch of stale days, of the assets that are stale there and of no other."""
    from stemma.governance.memory.inputs import Span
    from stemma.governance.memory.staleness import active_days, changes_so_far, stale_days
    from stemma.store.database import Database
    from stemma.store.settings import load_settings

    last = datetime.now(UTC).date() - timedelta(days=2)
    with Database.open(load_settings()) as database, database.snapshot() as connection:
        cursor = f"{changes_so_far(connection)}:{last}"
        if cursor == context.cursor:
            return dg.SkipReason("Nothing was written since the last look.")
        within = Span(governance.DAYS.start.date(), last)
        stale, active = stale_days(connection, within), active_days(connection, within)
    requests = list(_requests(stale, active, cursor))
    # What is left over is requested at the next look, after these have run.
    return dg.SensorResult(requests[:_MOST_RUNS], cursor=cursor if len(requests) <= _MOST_RUNS else None)


def _requests(stale: "dict[Product, list[date]]", active: set[date], cursor: str) -> Iterator[dg.RunRequest]:
    from stemma.governance.memory.days import Product
    from stemma.governance.memory.staleness import stretches

    assets = {
        Product.FEATURES: governance.entity_features,
        Product.EMBEDDINGS: governance.decision_embeddings,
        Product.SNAPSHOTS: governance.knowledge_snapshots,
        Product.SCORECARDS: governance.governance_scorecards,
        Product.DRIFT: governance.governance_drift,
    }
    together: dict[Span, list[Product]] = defaultdict(list)
    for product, days in stale.items():
        for span in stretches(days, active):
            together[span].append(product)
    for span, products in together.items():
        yield dg.RunRequest(
            run_key=f"{cursor}:{span.first}:{span.last}:{'+'.join(products)}",
            asset_selection=[assets[product].key for product in products],
            tags={
                ASSET_PARTITION_RANGE_START_TAG: span.first.isoformat(),
                ASSET_PARTITION_RANGE_END_TAG: span.last.isoformat(),
            },
        )
