"""Dagster's instance: its folder, its configuration and the environment that every Dagster process of ours gets."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path
from typing import Final

import dagster as dg
import psutil
import yaml
from dagster._core.instance.ref import InstanceRef

from stemma.store.database import DatabaseUrls
from stemma.store.settings import REPOSITORY, Settings

PROCESS_TAG: Final = "stemma/process"
_EVENTS_AT_ONCE: Final = 500
_NO_CAPTURE = {"module": "dagster._core.storage.noop_compute_log_manager", "class": "NoOpComputeLogManager"}


def prepare(settings: Settings, urls: DatabaseUrls) -> dict[str, str]:
    """Put `deploy/dagster.yaml` into the instance folder; returns the variables that Dagster's processes need."""
    settings.dagster_home.mkdir(parents=True, exist_ok=True)
    _replace(REPOSITORY / "deploy" / "dagster.yaml", settings.dagster_home / "dagster.yaml")
    return {
        "DAGSTER_HOME": str(settings.dagster_home),
        # A year of days is written by a few statements instead of one for each.
        "DAGSTER_EVENT_BATCH_SIZE": str(_EVENTS_AT_ONCE),
        "STEMMA_DAGSTER_POSTGRES_URL": urls.dagster_sqlalchemy,
        "STEMMA_HOME": str(settings.home),
    }


def _replace(source: Path, target: Path) -> None:
    with tempfile.NamedTemporaryFile(dir=target.parent, delete=False) as handle:
        temporary = Path(handle.name)
    shutil.copyfile(source, temporary)
    temporary.replace(target)


def open_instance(settings: Settings, urls: DatabaseUrls) -> dg.DagsterInstance:
    """The instance of this studio for use in this process; its tables are created on first use.

    What runs here writes to this process's own output: Dagster's capture would send it through two `tail` processes.
    """
    os.environ.update(prepare(settings, urls))
    reference = InstanceRef.from_dir(str(settings.dagster_home), overrides={"compute_logs": _NO_CAPTURE})
    return dg.DagsterInstance.from_ref(reference)


def worker_reference(folder: Path) -> InstanceRef:
    """What a run's process opens its instance by: the configuration in `folder`, without a look for missing tables.

    That look opens three connections and reads the catalogue; whoever launched the run has had it.
    """
    storage = yaml.safe_load((folder / "dagster.yaml").read_text())["storage"]
    storage["custom"]["config"]["should_autocreate_tables"] = False
    return InstanceRef.from_dir(str(folder), overrides={"storage": storage})


def process_tag() -> dict[str, str]:
    """The tag by which a run that executes in this process is found and known to be alive."""
    process = psutil.Process()
    return {PROCESS_TAG: f"{process.pid}:{process.create_time():.2f}"}


def fail_interrupted_runs(settings: Settings, urls: DatabaseUrls, *, before: float) -> int:
    """Report runs as failed whose process was killed with everything around it; returns how many.

    Only runs begun before that time count (seconds since the epoch), for which no process is left but one that
    tagged its run with itself. Dagster's default launcher cannot tell by itself that such a run is dead.
    """
    failed = 0
    unfinished = dg.RunsFilter(
        statuses=[dg.DagsterRunStatus.STARTED, dg.DagsterRunStatus.STARTING, dg.DagsterRunStatus.CANCELING]
    )
    with open_instance(settings, urls) as instance:
        for record in instance.get_run_records(unfinished):
            if record.create_timestamp.timestamp() < before and tagged_process(record.dagster_run) is None:
                instance.report_run_failed(record.dagster_run, "Its process was killed. Launch the run again.")
                failed += 1
    return failed


def tagged_process(run: dg.DagsterRun) -> psutil.Process | None:
    """The process on this machine that executes a run, by its tag; None when it is gone or was never told."""
    pid, _, created = run.tags.get(PROCESS_TAG, "").partition(":")
    if not pid.isdigit():
        return None
    try:
        process = psutil.Process(int(pid))
        is_it = f"{process.create_time():.2f}" == created and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return None
    return process if is_it else None
