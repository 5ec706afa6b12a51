"""What the governance loop remembers, by days (UTC): features, snapshots, vectors of decisions, scorecards, drift.

A day is complete when it is over. Days are materialized in one run, however many; only those are worked out again of
which something changed. Blocking checks stand in `assets/governance_checks.py`.
"""

from collections.abc import Mapping, Sequence
from datetime import date
from typing import TYPE_CHECKING

import dagster as dg

from assets.product import Partition, Partitions, product
from resources.store import StoreResource
from stemma.governance.memory import versions
from stemma.store.outputs import Artifact, Listing

if TYPE_CHECKING:
    from stemma.governance.memory.days import Day, Report
    from stemma.governance.memory.inputs import Key, Span

# EDIT HERE: the first day that can be materialized; what happened before it is not remembered.
DAYS = dg.DailyPartitionsDefinition(start_date="2014-01-01", timezone="UTC")
_OPTIONS = {"partitions_def": DAYS, "backfill_policy": dg.BackfillPolicy.single_run()}


@product(
    key=["governance", "entity_features"],
    kinds={"python", "postgres", "parquet"},
    code_version=versions.FEATURES,
    description=(
        "What each day adds to the features of each entity, by SQL over many days at once. Windows are added up when "
        "they are read, so that a late event changes its own day alone. Also as Parquet, by month."
    ),
    **_OPTIONS,
)
def entity_features(context: dg.AssetExecutionContext, store: StoreResource) -> Partitions:
    """Sum up the days of the run."""
    from stemma.governance.memory import features, parquet
    from stemma.store.files import FileStore

    report = features.sync_features(store.database, span_of(context))
    files = parquet.export(store.database, FileStore.open_default(store.settings), report.made)
    return _result(context, report, noun="entity", files=files)


@product(
    key=["governance", "decision_embeddings"],
    kinds={"onnx", "postgres"},
    code_version="1",
    description="A vector of each decision's event by the model in force; only those that lack one are embedded.",
    **_OPTIONS,
)
def decision_embeddings(context: dg.AssetExecutionContext, store: StoreResource) -> Partitions:
    """Fill in the vectors of the run's days."""
    from stemma.governance.memory import embeddings
    from stemma.knowledge.embedding import load_model
    from stemma.knowledge.onnx_query import export_query_encoder

    export_query_encoder(store.settings, load_model(store.settings))
    return _result(context, embeddings.sync_embeddings(store.database, store.settings, span_of(context)), noun="vector")


@product(
    key=["governance", "knowledge_snapshots"],
    kinds={"onnx", "postgres"},
    code_version=versions.SNAPSHOTS,
    description="What each day taught each node: counted, put into words, redacted and embedded.",
    **_OPTIONS,
)
def knowledge_snapshots(context: dg.AssetExecutionContext, store: StoreResource) -> Partitions:
    """Distil the days of the run."""
    from stemma.governance.memory import snapshots
    from stemma.knowledge.embedding import load_model
    from stemma.knowledge.onnx_query import export_query_encoder

    export_query_encoder(store.settings, load_model(store.settings))
    report = snapshots.sync_snapshots(store.database, store.settings, span_of(context))
    return _result(context, report, noun="snapshot")


@product(
    key=["governance", "scorecards"],
    kinds={"python", "postgres"},
    code_version=versions.SCORECARDS,
    description="How the variants of each policy stand at the end of each day, by all that was observed until then.",
    **_OPTIONS,
)
def governance_scorecards(context: dg.AssetExecutionContext, store: StoreResource) -> Partitions:
    """Assess the variants at the end of the run's days."""
    from stemma.governance.memory import scorecards

    return _result(context, scorecards.sync_scorecards(store.database, span_of(context)), noun="scorecard")


@product(
    key=["governance", "drift"],
    deps=[entity_features],
    kinds={"python", "postgres"},
    code_version=versions.DRIFT,
    description=(
        "Verdicts, levels and features of the last days beside those before them: population stability index and "
        "Jensen–Shannon divergence. What begins to alarm is told to the Historian and to whoever subscribed."
    ),
    **_OPTIONS,
)
def governance_drift(context: dg.AssetExecutionContext, store: StoreResource) -> Partitions:
    """Compare the run's days, and tell of alarms that begin."""
    from stemma.governance.memory import alarms, drift

    report = drift.sync_drift(store.database, span_of(context))
    for change in store.database.read(lambda connection: alarms.beginning(connection, report.made)):
        store.commit(change)
    return _result(context, report, noun="report")


def span_of(context: dg.AssetExecutionContext) -> "Span":
    """The days of a run."""
    from stemma.governance.memory.inputs import Span

    keys = context.partition_key_range
    return Span(date.fromisoformat(keys.start), date.fromisoformat(keys.end))


def _result(
    context: dg.AssetExecutionContext, report: "Report", *, noun: str, files: "Mapping[Key, str] | None" = None
) -> Partitions:
    from stemma.governance.memory.days import Day

    nothing = Day("0" * 64, 0, 0)
    made = {day for _, day in report.made}
    by_key = {}
    for key in context.partition_keys:
        day = date.fromisoformat(key)
        found = report.days.get(day, nothing)
        by_key[key] = Partition(
            data_version=found.version,
            artifacts=(_listed(context, key, found),),
            metadata={"dagster/row_count": found.rows, "changed": day in made, **_files(day, files)},
        )
    days = f"{len(by_key):,} day{'' if len(by_key) == 1 else 's'}"
    return Partitions(
        by_key,
        {"summary": f"{days}, {len(made):,} made anew, {_counted(report.rows, noun)}", "made": len(report.made)},
    )


def _listed(context: dg.AssetExecutionContext, key: str, day: "Day") -> Artifact:
    listing = Listing()
    listing.add(day.version, day.rows)
    return listing.artifact(f"{context.asset_key.to_user_string()}/{key}")


def _files(day: date, files: "Mapping[Key, str] | None") -> dict[str, Sequence[str]]:
    found = [name for (_, of), name in (files or {}).items() if of == day]
    return {"files": found} if found else {}


def _counted(number: int, noun: str) -> str:
    plural = f"{noun.removesuffix('y')}ies" if noun.endswith("y") else f"{noun}s"
    return f"{number:,} {noun if number == 1 else plural}"
