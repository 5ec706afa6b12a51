"""Runs from the template: they end, are terminated, crash and get fresh code as with Dagster's own launcher."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import dagster as dg
import psutil
import pytest
import yaml
from dagster._core.launcher import WorkerStatus
from dagster._core.storage.dagster_run import FINISHED_STATUSES
from dagster._core.test_utils import create_run_for_test
from dagster._core.workspace.context import WorkspaceProcessContext
from dagster._core.workspace.load_target import GrpcServerTarget

from resources.instance import PROCESS_TAG, prepare, tagged_process
from resources.launcher.request import NotStarted, listens, start_run
from stemma.store.database import Database
from stemma.store.settings import REPOSITORY, Settings

CODE = """
import os
import sys
import time
from pathlib import Path
import dagster as dg

VERSION = "one"
HERE = Path(__file__).parent

@dg.op
def tell():
    print("said on standard output")
    print("said on standard error", file=sys.stderr)
    seen = f"{VERSION} {os.getcwd()} {os.environ['STEMMA_HOME']}"
    (HERE / "told").write_text(seen)

@dg.op
def wait():
    while not (HERE / "release").exists():
        time.sleep(0.05)

@dg.op
def vanish():
    os._exit(0)

@dg.job(executor_def=dg.in_process_executor)
def telling():
    tell()

@dg.job(executor_def=dg.in_process_executor)
def waiting():
    wait()

@dg.job(executor_def=dg.in_process_executor)
def vanishing():
    vanish()

defs = dg.Definitions(jobs=[telling, waiting, vanishing])
"""
PATIENCE = 60.0
SECONDS_TO_NOTICE = 10.0


def until(condition: Callable[[], object], *, seconds: float = PATIENCE) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.05)


@dataclass
class Location:
    """A code location of its own with its code server, a template, and an instance that launches from it."""

    folder: Path
    environment: dict[str, str]
    instance: dg.DagsterInstance
    context: WorkspaceProcessContext
    template: subprocess.Popen[bytes] | None = None
    started: list[str] = field(default_factory=list)

    @property
    def home(self) -> Path:
        return Path(self.environment["DAGSTER_HOME"])

    def start_template(self, module: str = "plain_code", cwd: Path | None = None) -> None:
        self.template = subprocess.Popen(
            [sys.executable, "-m", "resources.launcher.template", module, str(self.home)],
            env=self.environment,
            cwd=cwd or self.folder,
        )
        until(lambda: listens(self.home))

    def stop_template(self) -> None:
        if self.template is not None:
            self.template.kill()
            self.template.wait()
            self.template = None

    def create(self, job: str) -> str:
        workspace = self.context.create_request_context()
        remote = workspace.get_code_location("plain").get_repository("__repository__").get_full_job(job)
        run = create_run_for_test(
            self.instance,
            job_name=job,
            remote_job_origin=remote.get_remote_origin(),
            job_code_origin=remote.get_python_origin(),
        )
        self.started.append(run.run_id)
        return run.run_id

    def launch(self, job: str) -> str:
        run_id = self.create(job)
        self.instance.launch_run(run_id, self.context.create_request_context())
        return run_id

    def status(self, run_id: str) -> dg.DagsterRunStatus:
        run = self.instance.get_run_by_id(run_id)
        assert run is not None
        return run.status

    def worker(self, run_id: str) -> psutil.Process:
        """The process that executes a run, as soon as its step runs."""
        until(lambda: "STEP_START" in self.told(run_id))
        run = self.instance.get_run_by_id(run_id)
        assert run is not None
        process = tagged_process(run)
        assert process is not None
        return process

    def told(self, run_id: str) -> str:
        events = self.instance.all_logs(run_id)
        return "\n".join(f"{event.dagster_event_type} {event.user_message} {event.message}" for event in events)

    def ends(self, run_id: str, status: dg.DagsterRunStatus, *, seconds: float = PATIENCE) -> None:
        until(lambda: self.status(run_id) in FINISHED_STATUSES, seconds=seconds)
        assert self.status(run_id) == status, self.told(run_id)

    def was_warm(self, run_id: str) -> bool:
        return "Started by the code server" not in self.told(run_id)


@pytest.fixture(scope="module")
def served(studio: tuple[Settings, Database], new_home: Callable[[], Path]) -> Iterator[Location]:
    """The code server of the location, once for the module; no template yet."""
    settings, database = studio
    folder = new_home()
    (folder / "plain_code.py").write_text(CODE)
    variables = prepare(settings, database.urls)
    path = settings.dagster_home / "dagster.yaml"
    configuration = yaml.safe_load(path.read_text())
    configuration["run_launcher"]["config"]["module"] = "plain_code"
    path.write_text(yaml.safe_dump(configuration))
    environment = {**os.environ, **variables, "PYTHONPATH": str(REPOSITORY), "PYTHONDONTWRITEBYTECODE": "1"}
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = [sys.executable, "-m", "dagster", "api", "grpc", "-m", "plain_code", "-h", "127.0.0.1", "-p", str(port)]
    with pytest.MonkeyPatch.context() as patch, contextlib.ExitStack() as stack:
        for name, value in variables.items():
            patch.setenv(name, value)
        process = subprocess.Popen(server, env=environment, cwd=folder)
        stack.callback(process.wait)
        stack.callback(process.kill)
        until(lambda: _accepts(port))
        instance = stack.enter_context(dg.DagsterInstance.get())
        target = GrpcServerTarget(host="127.0.0.1", port=port, socket=None, location_name="plain")
        context = stack.enter_context(WorkspaceProcessContext(instance, target))
        yield Location(folder, environment, instance, context)


def _accepts(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=2):
        return True
    return False


@pytest.fixture
def location(served: Location) -> Iterator[Location]:
    """The location with a running template; what a test leaves is ended."""
    if (served.folder / "plain_code.py").read_text() != CODE:
        (served.folder / "plain_code.py").write_text(CODE)
    for left in ("release", "told"):
        (served.folder / left).unlink(missing_ok=True)
    if served.template is None:
        served.start_template()
    yield served
    for run_id in served.started:
        run = served.instance.get_run_by_id(run_id)
        process = tagged_process(run) if run is not None else None
        if process is not None:
            process.kill()
    served.started.clear()
    if served.template is not None and served.template.poll() is not None:
        served.template = None


@pytest.fixture(scope="module", autouse=True)
def _no_template_is_left(served: Location) -> Iterator[None]:
    yield
    served.stop_template()


def test_a_run_ends_well_where_it_would_otherwise_run_and_its_output_is_kept(location: Location) -> None:
    run_id = location.launch("telling")
    location.ends(run_id, dg.DagsterRunStatus.SUCCESS)
    assert location.was_warm(run_id)
    assert (location.folder / "told").read_text() == f"one {location.folder} {os.environ['STEMMA_HOME']}"
    events = [event.dagster_event for event in location.instance.all_logs(run_id) if event.dagster_event]
    (captured,) = [event.logs_captured_data for event in events if event.event_type_value == "LOGS_CAPTURED"]
    logs = location.instance.compute_log_manager.get_log_data([run_id, "compute_logs", captured.file_key])
    assert b"said on standard output" in logs.stdout and b"said on standard error" in logs.stderr
    assert "Process for run exited" in location.told(run_id)


def test_each_run_has_a_process_of_its_own(location: Location) -> None:
    first, second = location.launch("waiting"), location.launch("waiting")
    pids = {location.worker(first).pid, location.worker(second).pid}
    assert len(pids) == 2 and location.template.pid not in pids
    (location.folder / "release").touch()
    for run_id in (first, second):
        location.ends(run_id, dg.DagsterRunStatus.SUCCESS)


def test_a_terminated_run_is_canceled(location: Location) -> None:
    run_id = location.launch("waiting")
    worker = location.worker(run_id)
    assert location.instance.run_launcher.terminate(run_id)
    assert location.instance.run_launcher.terminate(run_id)
    location.ends(run_id, dg.DagsterRunStatus.CANCELED)
    until(lambda: not worker.is_running() or worker.status() == psutil.STATUS_ZOMBIE)
    assert not location.instance.run_launcher.terminate(run_id)


def test_a_run_terminated_before_it_has_a_process_is_canceled(location: Location) -> None:
    run_id = location.create("waiting")
    run = location.instance.get_run_by_id(run_id)
    location.instance.report_run_canceling(run)
    start_run(location.home, run_id)
    location.ends(run_id, dg.DagsterRunStatus.CANCELED)


def test_a_killed_worker_is_reported(location: Location) -> None:
    run_id = location.launch("waiting")
    location.worker(run_id).kill()
    location.ends(run_id, dg.DagsterRunStatus.FAILURE, seconds=SECONDS_TO_NOTICE)
    assert "terminated by signal 9 (SIGKILL)" in location.told(run_id)


def test_a_worker_that_leaves_in_the_middle_is_reported(location: Location) -> None:
    run_id = location.launch("vanishing")
    location.ends(run_id, dg.DagsterRunStatus.FAILURE)
    assert "unexpectedly exited with code 0" in location.told(run_id)


def test_a_killed_template_ends_no_run_and_the_code_server_starts_the_next(location: Location) -> None:
    going_on = location.launch("waiting")
    location.worker(going_on)
    location.stop_template()
    fallen_back = location.launch("telling")
    location.ends(fallen_back, dg.DagsterRunStatus.SUCCESS)
    assert "Started by the code server: the template does not answer (Connection refused)" in location.told(fallen_back)
    location.start_template()
    again = location.launch("telling")
    location.ends(again, dg.DagsterRunStatus.SUCCESS)
    assert location.was_warm(again)
    (location.folder / "release").touch()
    location.ends(going_on, dg.DagsterRunStatus.SUCCESS)


def test_a_worker_that_died_with_its_supervisor_is_found_by_monitoring(location: Location) -> None:
    launcher = location.instance.run_launcher
    run_id = location.launch("waiting")
    worker = location.worker(run_id)
    run = location.instance.get_run_by_id(run_id)
    assert launcher.supports_check_run_worker_health
    assert launcher.check_run_worker_health(run).status == WorkerStatus.RUNNING
    worker.parent().kill()
    worker.kill()
    until(lambda: launcher.check_run_worker_health(run).status == WorkerStatus.NOT_FOUND)
    unknown = run.with_tags({**run.tags, PROCESS_TAG: ""})
    assert launcher.check_run_worker_health(unknown).status == WorkerStatus.RUNNING


def test_changed_code_is_loaded_before_the_next_run_and_no_run_is_disturbed(location: Location) -> None:
    before = location.launch("waiting")
    location.worker(before)
    (location.folder / "plain_code.py").write_text(CODE.replace('"one"', '"two"'))
    after = location.launch("telling")
    location.ends(after, dg.DagsterRunStatus.SUCCESS)
    assert location.was_warm(after)
    assert (location.folder / "told").read_text().startswith("two ")
    (location.folder / "release").touch()
    location.ends(before, dg.DagsterRunStatus.SUCCESS)


def test_code_that_cannot_be_loaded_is_named_and_tried_again(location: Location) -> None:
    run_id = location.create("telling")
    (location.folder / "plain_code.py").write_text("import a_module_that_is_missing")
    with pytest.raises(NotStarted, match=r"cannot load plain_code .*a_module_that_is_missing"):
        start_run(location.home, run_id)
    (location.folder / "plain_code.py").write_text(CODE)
    start_run(location.home, run_id)
    location.ends(run_id, dg.DagsterRunStatus.SUCCESS)


def test_an_asker_that_gave_up_is_not_served_late(location: Location) -> None:
    run_id = location.create("telling")
    location.template.send_signal(signal.SIGSTOP)
    with pytest.raises(NotStarted, match="took too long"):
        start_run(location.home, run_id, patience=0.05)
    location.template.send_signal(signal.SIGCONT)
    later = location.launch("telling")
    location.ends(later, dg.DagsterRunStatus.SUCCESS)
    until(lambda: not psutil.Process(location.template.pid).children())
    assert location.status(run_id) == dg.DagsterRunStatus.NOT_STARTED
    assert location.told(run_id) == ""


def test_a_run_that_is_unknown_or_of_other_code_is_not_the_templates(location: Location) -> None:
    with pytest.raises(NotStarted, match="unknown"):
        start_run(location.home, "11111111-2222-3333-4444-555555555555")
    run_id = location.create("telling")
    location.instance.run_launcher._module = "another"
    try:
        location.instance.launch_run(run_id, location.context.create_request_context())
    finally:
        location.instance.run_launcher._module = "plain_code"
    location.ends(run_id, dg.DagsterRunStatus.SUCCESS)
    assert "Started by the code server: the run is not of module another" in location.told(run_id)


def test_what_the_studio_imports_can_be_forked_and_the_template_ends_with_its_owner(location: Location) -> None:
    """A library that starts threads when it is imported would put every run back to the slow way."""
    location.stop_template()
    program = f"{sys.executable} -m resources.launcher.template definitions {location.home} & echo $!; wait"
    owner = subprocess.Popen(
        ["/bin/sh", "-c", program], env=location.environment, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True
    )
    template = psutil.Process(int(owner.stdout.readline()))
    until(lambda: listens(location.home))
    with pytest.raises(NotStarted, match="run 0 is unknown"):
        start_run(location.home, "0", patience=PATIENCE)
    owner.kill()
    owner.communicate()
    until(lambda: not template.is_running() or template.status() == psutil.STATUS_ZOMBIE)
