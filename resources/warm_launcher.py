"""The run launcher of this instance: runs start from a preloaded process, and as Dagster starts them where that fails.

How a preloaded process starts a run is the business of `resources.launcher`.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import dagster as dg
from dagster._config.config_schema import UserConfigSchema
from dagster._core.code_pointer import CodePointer, ModuleCodePointer, PackageCodePointer
from dagster._core.launcher import CheckRunHealthResult, LaunchRunContext, WorkerStatus
from dagster._serdes import ConfigurableClassData

from resources.instance import PROCESS_TAG, tagged_process
from resources.launcher.request import NotStarted, start_run


class WarmRunLauncher(dg.DefaultRunLauncher):
    """Asks the template for each run of `module`; it listens in `folder`, which is Dagster's own."""

    def __init__(self, folder: str, module: str, inst_data: ConfigurableClassData | None = None) -> None:
        super().__init__(inst_data)
        self._folder = Path(folder)
        self._module = module
        self._interrupted: set[str] = set()

    @classmethod
    def config_type(cls) -> UserConfigSchema:
        """What dagster.yaml says under `config`."""
        return {"folder": dg.StringSource, "module": dg.StringSource}

    @classmethod
    def from_config_value(cls, inst_data: ConfigurableClassData, config_value: Mapping[str, Any]) -> WarmRunLauncher:
        """What Dagster calls with the configuration in dagster.yaml."""
        return cls(config_value["folder"], config_value["module"], inst_data)

    def launch_run(self, context: LaunchRunContext) -> None:
        """Start the run from the template; where that does not begin it, the code server starts it."""
        run = context.dagster_run
        try:
            self._require_its_code(run)
            start_run(self._folder, run.run_id)
        except NotStarted as reason:
            self._instance.report_engine_event(f"Started by the code server: {reason}.", run, cls=type(self))
            if PROCESS_TAG in run.tags:
                # A retry has it from the run before.
                self._instance.add_run_tags(run.run_id, {PROCESS_TAG: ""})
            super().launch_run(context)
        self._run_ids.add(run.run_id)

    def _require_its_code(self, run: dg.DagsterRun) -> None:
        origin = run.job_code_origin.repository_origin if run.job_code_origin else None
        if origin is None or _module(origin.code_pointer) != self._module or origin.executable_path != sys.executable:
            raise NotStarted(f"the run is not of module {self._module}")

    def terminate(self, run_id: str) -> bool:
        """Interrupt the run's process, once; False where there is none any more."""
        run = self._instance.get_run_by_id(run_id) if self.has_instance else None
        if run is None or run.is_finished or not _is_of_template(run):
            return super().terminate(run_id)
        self._instance.report_run_canceling(run)
        worker = tagged_process(run)
        if worker is None:
            return False
        if run_id not in self._interrupted:
            self._interrupted.add(run_id)
            worker.send_signal(signal.SIGINT)
        return True

    @property
    def supports_check_run_worker_health(self) -> bool:
        """Yes: run monitoring finds a worker that died with everything around it."""
        return True

    def check_run_worker_health(self, run: dg.DagsterRun) -> CheckRunHealthResult:
        """Whether the worker lives; the code server knows that of those it started."""
        if not _is_of_template(run):
            return CheckRunHealthResult(WorkerStatus.RUNNING, "not started from the template")
        if tagged_process(run) is None:
            return CheckRunHealthResult(WorkerStatus.NOT_FOUND, "its process is gone")
        return CheckRunHealthResult(WorkerStatus.RUNNING)


def _module(pointer: CodePointer) -> str | None:
    return pointer.module if isinstance(pointer, ModuleCodePointer | PackageCodePointer) else None


def _is_of_template(run: dg.DagsterRun) -> bool:
    """A run that executes where it was asked for has a process, too, maybe of another machine, and no origin."""
    return bool(run.tags.get(PROCESS_TAG)) and run.remote_job_origin is not None
