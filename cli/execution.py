"""Running the asset graph inside this process: which runs a selection needs, in which order, with live progress.

Imported by commands only when they run the graph, since it imports Dagster and the definitions.
"""

from __future__ import annotations

import contextlib
import logging
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any, Final

import dagster as dg
from dagster._core.events import DagsterEventType
from dagster._core.execution.plan.objects import ErrorSource
from dagster._core.storage.tags import ASSET_PARTITION_RANGE_END_TAG, ASSET_PARTITION_RANGE_START_TAG
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

import definitions
from assets.costs import USAGE_DAYS, USAGE_WEEKS
from assets.failures import domain_error
from assets.governance import DAYS
from assets.knowledge import KNOWLEDGE_SOURCES
from assets.maps import MAP_LAYERS
from assets.papers import PAPERS
from cli.output import err, say
from resources.instance import open_instance, process_tag
from resources.materializations import issue_receipts
from resources.progress import ProgressLog, now_and_then
from stemma.access.principal import local_principal
from stemma.errors import CheckFailed, InvalidInput, NotFound, StemmaError
from stemma.governance.memory.inputs import whole_span
from stemma.knowledge import sources
from stemma.ledger.receipts import require_none_refused
from stemma.maps.catalog import list_layers
from stemma.papers.catalog import paper_ids
from stemma.progress import Progress as Step
from stemma.progress import ReportProgress
from stemma.runs.model import ACTOR_TAG
from stemma.store.database import Connection, Database
from stemma.store.settings import Settings
from stemma.telemetry.costs import whole_span as usage_span

_TO: Final = "..."
_TIMES: Final = {DAYS: "days", USAGE_DAYS: "days", USAGE_WEEKS: "weeks, by their Mondays,"}

_FirstAndLast = tuple[str, str]


@dataclass(frozen=True, slots=True)
class PlannedRun:
    """One Dagster run: assets that share their partitions, for one partition of theirs, for all from one to another, or
    for none.
    """

    assets: tuple[dg.AssetKey, ...]
    partition: str | None
    until: str | None = None

    @property
    def name(self) -> str | None:
        """Its partition, or `FIRST...LAST`."""
        return self.partition if self.until is None else f"{self.partition}{_TO}{self.until}"


@dataclass(frozen=True, slots=True)
class Built:
    """What one materialization made; `metadata` holds the numbers and texts that its asset reported."""

    asset: str
    partition: str | None
    seconds: float
    data_version: str | None
    changed: bool
    metadata: dict[str, Any]


@dataclass(frozen=True, slots=True)
class CheckOutcome:
    """The result of one asset check."""

    asset: str
    check: str
    passed: bool
    description: str | None


@dataclass(frozen=True, slots=True)
class Outcome:
    """All that a command materialized and checked; `receipts` counts those that were written with it."""

    built: tuple[Built, ...]
    checks: tuple[CheckOutcome, ...]
    receipts: int
    seconds: float


class DisplayedProgress(ProgressLog):
    """Shows steps on standard error instead of logging them: as bars on a terminal, else a line now and then."""

    def __init__(self, bars: Progress) -> None:
        self._bars = bars

    def reporter(self, context: dg.AssetExecutionContext) -> ReportProgress:
        """A callback that drives one bar."""
        return self.bar()

    def bar(self) -> ReportProgress:
        """The same for what is no asset."""
        if self._bars.disable:
            return now_and_then(lambda line: say(f"  {line}", console=err))
        bar = self._bars.add_task("", total=None, visible=False)

        def report(step: Step) -> None:
            note = f"    {step.stage}: {step.done:,} {step.unit}, {step.rate:,.0f}/s"
            if step.eta is not None and step.done != step.total:
                note += f", {step.eta:.0f} s to go"
            finished = step.done == step.total
            self._bars.update(bar, description=note, completed=step.done, total=step.total, visible=not finished)

        return report


def prepare_partitions(instance: dg.DagsterInstance, database: Database) -> None:
    """Make the registered sources and map layers the partitions of the assets that are made of them."""
    with database.transaction() as connection:
        named = {
            str(KNOWLEDGE_SOURCES.name): [source.name for source in sources.list_sources(connection)],
            str(MAP_LAYERS.name): [layer.id for layer in list_layers(connection)],
            str(PAPERS.name): [str(paper) for paper in paper_ids(connection)],
        }
    for partitions, names in named.items():
        known = set(instance.get_dynamic_partitions(partitions))
        instance.add_dynamic_partitions(partitions, [name for name in names if name not in known])
        for name in known.difference(names):
            instance.delete_dynamic_partition(partitions, name)


def select(graph: dg.Definitions, selection: str) -> list[dg.AssetKey]:
    """The assets that a selection names, upstream first; raises InvalidInput or NotFound.

    Accepts Dagster's selection syntax and, for short, one key such as `knowledge/chunks` or `*` for all.
    """
    asset_graph = graph.resolve_asset_graph()
    try:
        everything = dg.AssetSelection.all()
        wanted = everything if selection == "*" else _parsed(selection)
        chosen = wanted.resolve(asset_graph)
    except Exception as error:
        raise InvalidInput(
            "selection_invalid",
            f"Not an asset selection: {str(error).splitlines()[0]}",
            field="SELECTION",
            hint="Examples: '*', 'knowledge/chunks', 'group:knowledge', 'key:\"knowledge/documents\"+'.",
        ) from error
    ordered = [key for key in asset_graph.toposorted_asset_keys if key in chosen]
    if not ordered:
        known = ", ".join(sorted(key.to_user_string() for key in asset_graph.materializable_asset_keys))
        raise NotFound(
            "asset_unknown", f"No asset matches {selection!r}.", field="SELECTION", hint=f"There are: {known}."
        )
    return ordered


def _parsed(selection: str) -> dg.AssetSelection:
    with warnings.catch_warnings():
        # The parser sets a beta parameter of its own accord.
        warnings.simplefilter("ignore", dg.BetaWarning)
        return dg.AssetSelection.from_string(selection)


def plan(
    graph: dg.Definitions,
    instance: dg.DagsterInstance,
    selection: str,
    partition: str | None,
    happened: Mapping[dg.PartitionsDefinition, _FirstAndLast | None],
) -> list[PlannedRun]:
    """The runs that materialize a selection: those with equal partitions share a run for each.

    Days and weeks are materialized in one run, by default from the first to the last on which anything `happened`.
    With a partition, what is made of partitions of another kind is left out. Raises InvalidInput, NotFound.
    """
    asset_graph = graph.resolve_asset_graph()
    runs: list[PlannedRun] = []
    known: list[str] = []
    for batch in _batches(asset_graph, select(graph, selection)):
        partitions = asset_graph.get(batch[0]).partitions_def
        if partitions is None:
            runs.append(PlannedRun(tuple(batch), None))
        elif isinstance(partitions, dg.TimeWindowPartitionsDefinition):
            first, last = _first_and_last(partitions)
            known.append(f"{_TIMES[partitions]} from {first} to {last}, several as {first}{_TO}{last}")
            if (span := _stretch(partitions, partition, happened[partitions])) is not None:
                runs.append(PlannedRun(tuple(batch), *span))
        else:
            names = sorted(partitions.get_partition_keys(dynamic_partitions_store=instance))
            known += names or ["none yet"]
            runs += [PlannedRun(tuple(batch), name) for name in names if partition in (None, name)]
    if partition is not None and not known:
        raise InvalidInput("partition_unused", f"{selection!r} has no partitions.", field="--partition")
    if partition is not None and all(run.partition is None for run in runs):
        hint = f"There are: {', '.join(known)}."
        raise NotFound("partition_unknown", f"There is no partition {partition!r}.", field="--partition", hint=hint)
    return runs


def _batches(asset_graph: Any, keys: Sequence[dg.AssetKey]) -> list[list[dg.AssetKey]]:
    """The keys, upstream first, those that can share a run side by side."""
    left = list(keys)
    batches: list[list[dg.AssetKey]] = []
    while left:
        ready = [key for key in left if not (asset_graph.get(key).parent_keys - {key}).intersection(left)]
        fitting = asset_graph.get(batches[-1][0]).partitions_def if batches else None
        same = [key for key in ready if batches and asset_graph.get(key).partitions_def == fitting]
        if same:
            batches[-1].append(same[0])
        else:
            batches.append([ready[0]])
        left.remove((same or ready)[0])
    return batches


def _happened(connection: Connection) -> dict[dg.PartitionsDefinition, _FirstAndLast | None]:
    """The first and the last day, or week, on which anything happened."""
    days, usage = whole_span(connection), usage_span(connection)
    spans = {DAYS: days, USAGE_DAYS: usage, USAGE_WEEKS: usage and usage.weeks}
    return {partitions: span and (str(span.first), str(span.last)) for partitions, span in spans.items()}


def _stretch(
    partitions: dg.TimeWindowPartitionsDefinition, wanted: str | None, happened: _FirstAndLast | None
) -> _FirstAndLast | None:
    """The first and the last of what is wanted, by default of those on which anything happened; None for none."""
    first, last = _first_and_last(partitions)
    if wanted is None:
        if happened is None or happened[1] < first or happened[0] > last:
            return None
        return max(first, happened[0]), min(last, happened[1])
    begin, _, end = wanted.partition(_TO)
    end = end or begin
    right = all(_is_day(key) and partitions.has_partition_key(key) for key in (begin, end))
    return (begin, end) if right and begin <= end else None


def _first_and_last(partitions: dg.TimeWindowPartitionsDefinition) -> _FirstAndLast:
    first, last = partitions.get_first_partition_key(), partitions.get_last_partition_key()
    assert first is not None and last is not None
    return first, last


def _is_day(text: str) -> bool:
    try:
        return str(date.fromisoformat(text)) == text
    except ValueError:
        return False


@contextlib.contextmanager
def _bars() -> Iterator[Progress]:
    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(bar_width=24), TimeElapsedColumn())
    with Progress(*columns, console=err, transient=True, disable=not err.is_terminal) as bars:
        yield bars


@contextlib.contextmanager
def shown_progress() -> Iterator[ReportProgress]:
    """A callback that drives a bar of its own, for work outside of the graph."""
    with _bars() as bars:
        yield DisplayedProgress(bars).bar()


def materialize(settings: Settings, database: Database, selection: str, partition: str | None = None) -> Outcome:
    """Materialize a selection with its checks and write the receipts.

    Raises the step's own error when a run fails, and CheckFailed; what was materialized until then has its receipts.
    """
    logging.getLogger("dagster").setLevel(logging.ERROR)
    started = time.monotonic()
    with open_instance(settings, database.urls) as instance, _bars() as bars:
        prepare_partitions(instance, database)
        graph = definitions.build_defs({"progress": DisplayedProgress(bars)})
        try:
            runs = plan(graph, instance, selection, partition, database.read(_happened))
            built, checks = _execute_all(graph, instance, runs, bars)
        except StemmaError:
            # The error counts; receipts that cannot be written now are written by whatever runs next.
            with contextlib.suppress(StemmaError):
                issue_receipts(instance, database, settings)
            raise
        issued = issue_receipts(instance, database, settings)
    require_none_refused(issued)
    failed = [check for check in checks if not check.passed]
    if failed:
        raise CheckFailed("check_failed", f"{failed[0].asset}: {failed[0].check}: {failed[0].description}")
    return Outcome(tuple(built), tuple(checks), issued.written, time.monotonic() - started)


def _execute_all(
    graph: dg.Definitions,
    instance: dg.DagsterInstance,
    runs: Sequence[PlannedRun],
    bars: Progress,
) -> tuple[list[Built], list[CheckOutcome]]:
    built: list[Built] = []
    checks: list[CheckOutcome] = []
    for run in runs:
        title = run.assets[0].to_user_string() if len(run.assets) == 1 else run.assets[0].path[0]
        label = f"{title} {run.name}" if run.name else title
        bar = bars.add_task(label, total=None)
        result = _execute(graph, instance, run)
        bars.remove_task(bar)
        built += _built(result, run)
        checks += _checks(result)
        for item in built[-len(run.assets) :]:
            err.print(f"[green]✓[/] {item.asset} {item.partition or ''} [dim]{item.seconds:.1f} s[/]")
    return built, checks


def _execute(graph: dg.Definitions, instance: dg.DagsterInstance, run: PlannedRun) -> dg.ExecuteInProcessResult:
    job = graph.resolve_implicit_global_asset_job_def()
    try:
        result = job.execute_in_process(
            instance=instance,
            asset_selection=list(run.assets),
            partition_key=run.partition if run.until is None else None,
            tags={**process_tag(), ACTOR_TAG: local_principal().actor, **_range(run)},
            raise_on_error=False,
            run_config={"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}},
        )
    except dg.DagsterExecutionInterruptedError as interrupt:
        raise KeyboardInterrupt from interrupt
    if not result.success:
        raise _failure(result)
    return result


def _range(run: PlannedRun) -> dict[str, str]:
    if run.partition is None or run.until is None:
        return {}
    return {ASSET_PARTITION_RANGE_START_TAG: run.partition, ASSET_PARTITION_RANGE_END_TAG: run.until}


def _failure(result: dg.ExecuteInProcessResult) -> StemmaError | KeyboardInterrupt:
    for event in result.all_events:
        if event.event_type == DagsterEventType.ASSET_CHECK_EVALUATION:
            evaluation = event.asset_check_evaluation_data
            if not evaluation.passed:
                name = f"{evaluation.asset_key.to_user_string()}: {evaluation.check_name}"
                return CheckFailed("check_failed", f"{name}: {evaluation.description or 'failed'}.")
    for event in result.all_events:
        if event.is_step_failure:
            data = event.step_failure_data
            if data.error_source == ErrorSource.INTERRUPT:
                return KeyboardInterrupt()
            if data.user_failure_data is not None:
                known = domain_error(data.user_failure_data.metadata, step=event.step_key)
                return known or StemmaError("step_failed", f"{event.step_key}: {data.user_failure_data.description}")
            cause = data.error.cause if data.error and data.error.cause else data.error
            message = cause.message.strip() if cause else "no reason given"
            return StemmaError("step_failed", f"{event.step_key}: {message}")
    return StemmaError("run_failed", f"Run {result.run_id} failed.", hint="`make up` shows it in the Dagster UI.")


def _built(result: dg.ExecuteInProcessResult, run: PlannedRun) -> list[Built]:
    seconds = {
        event.step_key: event.step_success_data.duration_ms / 1000
        for event in result.all_events
        if event.event_type == DagsterEventType.STEP_SUCCESS
    }
    rows = []
    # Of a run over many days, the last event of an asset stands for all of them.
    events = {event.asset_key: event for event in result.get_asset_materialization_events()}
    for event in events.values():
        materialization = event.materialization
        tags = materialization.tags or {}
        version = tags.get("dagster/data_version")
        metadata = {
            name: value.value
            for name, value in materialization.metadata.items()
            if isinstance(
                value, (dg.IntMetadataValue, dg.FloatMetadataValue, dg.TextMetadataValue, dg.BoolMetadataValue)
            )
        }
        rows.append(
            Built(
                asset=materialization.asset_key.to_user_string(),
                partition=run.name,
                seconds=seconds.get(event.step_key, 0.0),
                data_version=version,
                changed=bool(metadata.get("made", metadata.get("changed", True))),
                metadata=metadata,
            )
        )
    return rows


def _checks(result: dg.ExecuteInProcessResult) -> list[CheckOutcome]:
    return [
        CheckOutcome(
            asset=evaluation.asset_key.to_user_string(),
            check=evaluation.check_name,
            passed=evaluation.passed,
            description=evaluation.description,
        )
        for evaluation in result.get_asset_check_evaluations()
    ]
