"""Carrying out a run: its notebook executed with the first seed twice, then once with each other seed.

What a notebook is and how one execution goes is the business of `notebooks`; how a run moves on, that of `lifecycle`.
"""

from __future__ import annotations

import contextlib
import contextvars
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, TypeVar
from uuid import UUID

from stemma.errors import Conflict, NotFound, StemmaError
from stemma.ledger.change import Change
from stemma.papers.catalog import get_plan
from stemma.papers.notebooks import canonical
from stemma.papers.plan import CAP_EXCEEDED, PlanDocument, parse_plan
from stemma.papers.runs import artifacts, environment, lifecycle, lost, slots
from stemma.papers.runs.catalog import get_run, spent_seconds
from stemma.papers.runs.lifecycle import Ended
from stemma.papers.runs.model import Measured, Run, RunStatus
from stemma.papers.runs.recorder import Recorder
from stemma.papers.sandbox import levels
from stemma.papers.sandbox.limits import Limits
from stemma.store.database import Connection, Database
from stemma.store.files import FileStore
from stemma.store.settings import Settings
from stemma.telemetry.tracing import open_tracing

if TYPE_CHECKING:
    from stemma.papers.notebooks.execution import Executed
    from stemma.papers.notebooks.telling import Told
    from stemma.telemetry.tracing import Tracing

T = TypeVar("T")
Commit = Callable[[Callable[[Connection], Change[Any]]], Any]

_MB: Final = 1_000_000
_LOOK_SECONDS: Final = 0.5
_ATTEMPTS: Final = 5
_SERVICE: Final = "stemma-run"


@dataclass(frozen=True, slots=True)
class Studio:
    """What a run needs of the studio; `commit` writes a change that it makes of what the database shows."""

    settings: Settings
    database: Database
    files: FileStore
    commit: Commit


def carry_out(studio: Studio, run_id: UUID, *, dagster_run_id: str | None = None) -> Run:
    """Carry out a pending run, and return it as it ended.

    A notebook that fails is a run that failed, and no error. An interrupt cancels the run, and is raised again when
    nothing of it is left. Raises NotFound, Conflict where the run is not pending or somebody else's, and Unavailable
    where there is no sandbox.
    """
    stop = threading.Event()
    done: Future[Run] = Future()
    # Signals are handled by this thread; whatever they interrupt must not be the clearing up.
    context = contextvars.copy_context()
    work = threading.Thread(
        target=context.run,
        args=(_fulfil, done, lambda: _Carrying(studio, run_id, dagster_run_id, stop).run()),
        name="run",
    )
    work.start()
    interrupt: BaseException | None = None
    while work.is_alive():
        try:
            work.join(_LOOK_SECONDS)
        except KeyboardInterrupt as error:
            interrupt = error
            stop.set()
    if interrupt is not None:
        raise interrupt
    return done.result()


def _fulfil(done: Future[T], work: Callable[[], T]) -> None:
    try:
        done.set_result(work())
    except BaseException as error:
        done.set_exception(error)


class _Carrying:
    def __init__(self, studio: Studio, run_id: UUID, dagster_run_id: str | None, stop: threading.Event) -> None:
        self._studio = studio
        self._run_id = run_id
        self._dagster_run_id = dagster_run_id
        self._stop = stop
        self._tracing: Tracing | None = None

    def run(self) -> Run:
        try:
            return self._run()
        except (Conflict, NotFound):
            raise
        except StemmaError as error:
            # Whatever keeps it from beginning is why it failed.
            refused = Ended(RunStatus.FAILED, error.code, error.message)
            with contextlib.suppress(Conflict):
                return self._commit(lambda connection: lifecycle.abandon(connection, self._run_id, refused))
            raise

    def _run(self) -> Run:
        database, settings = self._studio.database, self._studio.settings
        level = levels.in_force(settings)
        run = database.read(lambda connection: get_run(connection, self._run_id))
        plan = parse_plan(database.read(lambda connection: get_plan(connection, run.plan_id)).document)
        with contextlib.ExitStack() as stack:
            tracing = open_tracing(settings, _SERVICE)
            self._tracing = stack.enter_context(tracing) if tracing else None
            place = stack.enter_context(slots.held(database.urls.app, run.id, stopped=self._stop))
            if place is None:
                return self._cancelled_while_waiting()
            stack.enter_context(lost.guarded(run.id))
            with self._span("p2n.run.start", level=level):
                self._commit(
                    lambda connection: lifecycle.begin(
                        connection,
                        run.id,
                        sandbox=level.value,
                        env_hash=environment.env_hash(),
                        dagster_run_id=self._dagster_run_id,
                    )
                )
            return self._begun(run, plan, level, place)

    def _begun(self, run: Run, plan: PlanDocument, level: levels.Level, place: slots.Held) -> Run:
        looking = threading.Event()
        watcher = threading.Thread(target=self._watch, args=(place, looking), name="run-watch", daemon=True)
        watcher.start()
        notebooks: list[Executed] = []
        try:
            try:
                with Recorder(self._studio.database, run.id) as recorder:
                    ended = self._execute_all(run, plan, level, recorder, notebooks)
                if recorder.failure is not None:
                    ended = Ended(RunStatus.FAILED, "E_RUN_EVENTS_LOST", "Its events could not be written.")
            except StemmaError as error:
                ended = Ended(RunStatus.FAILED, error.code, error.message)
            except Exception as error:
                ended = Ended(RunStatus.FAILED, "E_RUN_FAILED", f"{type(error).__name__}: {error}")
        finally:
            looking.set()
            watcher.join()
        with self._span("p2n.run.persist"):
            self._persist(run, ended, notebooks)
        with self._span("p2n.run.finish", status=ended.status):
            return self._commit(lambda connection: lifecycle.finish(connection, run.id, ended))

    def _execute_all(
        self, run: Run, plan: PlanDocument, level: levels.Level, recorder: Recorder, done: list[Executed]
    ) -> Ended:
        from stemma.papers.notebooks import building
        from stemma.papers.notebooks.execution import Conditions, execute

        seeds = (plan.seeds[0], *plan.seeds)
        spent = self._studio.database.read(lambda connection: spent_seconds(connection, run))
        total = plan.timeouts.total_minutes * 60 - spent
        for number, seed in enumerate(seeds):
            started = time.monotonic()
            conditions = Conditions(level, self._limits(plan), min(plan.timeouts.wall_minutes * 60, total))
            tell = _told_of_first(recorder) if number == 0 else _unheard
            if number:
                again = "again, to compare" if number == 1 else "too"
                recorder.tell("log_line", f"— executed with seed {seed} {again} ({number + 1} of {len(seeds)})")
            with self._span("p2n.run.nbclient", seed=seed) as span:
                executed = execute(building.build(plan, run.alternative, seed), conditions, tell=tell, stop=self._stop)
                if span is not None and executed.ending == "timeout":
                    span.set_attribute(CAP_EXCEEDED, "timeouts.wall_minutes")
            done.append(executed)
            total -= time.monotonic() - started
            if executed.ending != "done":
                status = RunStatus.CANCELLED if executed.ending == "stopped" else RunStatus.FAILED
                return Ended(status, executed.code, executed.message, _measured(seeds, done))
        return _compared(seeds, done)

    def _persist(self, run: Run, ended: Ended, notebooks: list[Executed]) -> None:
        from nbformat import writes

        files = self._studio.files
        if notebooks:
            artifacts.write_made(files, run.id, writes(notebooks[0].notebook), environment.lock())
        last = lifecycle.last_stage(run, ended)
        # Files are told of to whoever collects what this thread writes.
        with self._studio.database.snapshot() as connection:
            artifacts.write_told(files, connection, run.id, ended.metrics, last)

    def _watch(self, place: slots.Held, done: threading.Event) -> None:
        while not done.wait(_LOOK_SECONDS):
            if place.is_cancelled():
                self._stop.set()
                return

    def _cancelled_while_waiting(self) -> Run:
        try:
            return self._commit(lambda connection: lifecycle.abandon(connection, self._run_id))
        except Conflict:
            return self._studio.database.read(lambda connection: get_run(connection, self._run_id))

    def _commit(self, prepare: Callable[[Connection], Change[Run]]) -> Run:
        """Write a step; again where somebody asked to cancel the run meanwhile."""
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                written: Run = self._studio.commit(prepare)
                return written
            except Conflict as error:
                if error.code != "paper_run_changed" or attempt == _ATTEMPTS:
                    raise
        raise AssertionError("unreachable")

    def _limits(self, plan: PlanDocument) -> Limits:
        settings = self._studio.settings
        return Limits(
            memory_bytes=min(plan.environment.memory_mb * _MB, settings.papers_memory_bytes),
            tasks=settings.papers_tasks,
            disk_bytes=settings.papers_disk_bytes,
            scratch_bytes=settings.papers_scratch_bytes,
        )

    def _span(self, name: str, **facts: Any) -> contextlib.AbstractContextManager[Any]:
        if self._tracing is None:
            return contextlib.nullcontext()
        attributes = {f"p2n.{key}": value if isinstance(value, int) else str(value) for key, value in facts.items()}
        return self._tracing.span(name, {"p2n.run_id": f"{str(self._run_id)[:8]}***", **attributes})


def _told_of_first(recorder: Recorder) -> Callable[[Told], None]:
    return lambda told: recorder.tell(told.type, told.payload)


def _unheard(told: Told) -> None:
    """The curves and lines of a run are those of its first execution."""


def _measured(seeds: tuple[int, ...], done: list[Executed]) -> tuple[Measured, ...]:
    """The last value of each metric, by seed; the second execution repeats the first seed."""
    found: dict[tuple[str, str], dict[int, float]] = {}
    for number, (seed, executed) in enumerate(zip(seeds, done, strict=False)):
        if number != 1:
            for told in executed.told:
                if told.type == "metric_update":
                    key = (told.payload["metric"], told.payload["split"])
                    found.setdefault(key, {})[seed] = told.payload["value"]
    return tuple(Measured(metric, split, tuple(values.items())) for (metric, split), values in found.items())


def _compared(seeds: tuple[int, ...], done: list[Executed]) -> Ended:
    first, again = done[0], done[1]
    same = first.output_sha256 == again.output_sha256
    message = None if same else _difference(first, again)
    code = None if same else "E_NOT_DETERMINISTIC"
    return Ended(RunStatus.SUCCEEDED, code, message, _measured(seeds, done), first.output_sha256, same)


def _difference(first: Executed, again: Executed) -> str:
    cell = canonical.first_difference(list(first.cells), list(again.cells))
    where = "what it told" if cell is None else f"the output of cell {cell}"
    return f"Executed twice with the same seed, {where} differs."
