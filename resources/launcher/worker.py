"""One run in a process of its own, and the process beside it that notices how it ends.

Both are forked from the template: the supervisor from it, the worker from the supervisor. The supervisor says to
whoever asked that the run begins, waits for the worker, and reports the run as failed when the worker dies. It holds
no connection to the database until then, and it outlives the template.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import time
import traceback
from typing import Final

import dagster as dg
from dagster._core.definitions.reconstruct import ReconstructableJob
from dagster._core.events import EngineEventData
from dagster._core.instance.ref import InstanceRef
from dagster._grpc.impl import core_execute_run
from dagster._utils import get_run_crash_explanation
from dagster._utils.hosted_user_process import recon_job_from_origin
from dagster._utils.interrupts import capture_interrupts

from resources.instance import process_tag
from resources.launcher.request import LONGEST_MESSAGE, STARTED

_READY: Final = b"ready"
_BEGIN: Final = b"begin"
# Not 0: a library that ends the process early says that.
_COMPLETED: Final = 86
_LONGEST_BACKOFF = 30.0
_GIVE_UP_AFTER = 600.0


def supervise(reference: InstanceRef, connection: socket.socket, run_id: str) -> None:
    """Run `run_id` in a child, answer `connection` when it begins or why it does not, and see to its end."""
    for number in (signal.SIGINT, signal.SIGTERM):
        # Whoever stops the studio stops the worker too; this process ends after it.
        signal.signal(number, signal.SIG_IGN)
    ours, theirs = socket.socketpair()
    worker = os.fork()
    if worker == 0:
        ours.close()
        connection.close()
        os._exit(_work(reference, theirs, run_id))
    theirs.close()
    with connection:
        begins = _begins(ours, connection)
    if not begins:
        os.kill(worker, signal.SIGKILL)
    _, status = os.waitpid(worker, 0)
    code = os.waitstatus_to_exitcode(status)
    if begins and code != _COMPLETED:
        _report_crash(reference, run_id, get_run_crash_explanation(f"Run execution process for {run_id}", code))


def _begins(worker: socket.socket, connection: socket.socket) -> bool:
    """Bring together a worker that is ready and an asker that still waits; only then the run begins."""
    said = worker.recv(LONGEST_MESSAGE)
    try:
        connection.sendall(STARTED if said == _READY else said)
    except OSError:
        return False
    if said == _READY:
        with contextlib.suppress(OSError):
            worker.sendall(_BEGIN)
    return said == _READY


def _report_crash(reference: InstanceRef, run_id: str, why: str) -> None:
    """Report an unfinished run as failed, however long the database is away within ten minutes."""
    deadline, pause = time.monotonic() + _GIVE_UP_AFTER, 1.0
    while True:
        try:
            with dg.DagsterInstance.from_ref(reference) as instance:
                run = instance.get_run_by_id(run_id)
                if run is not None and not run.is_finished:
                    instance.report_engine_event(why, run)
                    instance.report_run_failed(run)
            return
        except Exception:
            traceback.print_exc()
            if time.monotonic() > deadline:
                return
        time.sleep(pause)
        pause = min(_LONGEST_BACKOFF, pause * 2)


def _work(reference: InstanceRef, supervisor: socket.socket, run_id: str) -> int:
    """Execute the run; returns the exit status that tells the supervisor that nothing is left to report."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    try:
        with capture_interrupts(), dg.DagsterInstance.from_ref(reference) as instance:
            try:
                run = instance.get_run_by_id(run_id)
                if run is None or run.job_code_origin is None:
                    raise dg.DagsterInvariantViolationError(f"run {run_id} is unknown or has no code")
                job = recon_job_from_origin(run.job_code_origin)
            except Exception as error:
                supervisor.sendall(f"{type(error).__name__}: {error}".encode()[:LONGEST_MESSAGE])
                return 1
            supervisor.sendall(_READY)
            with supervisor:
                if supervisor.recv(LONGEST_MESSAGE) != _BEGIN:
                    return 1
            instance.add_run_tags(run_id, process_tag())
            _execute(instance, job, run)
    except BaseException:
        traceback.print_exc()
        return 1
    return _COMPLETED


def _execute(instance: dg.DagsterInstance, job: ReconstructableJob, run: dg.DagsterRun) -> None:
    """The run as Dagster's own workers execute it; what goes wrong in it is in its log."""
    pid = os.getpid()
    instance.report_engine_event(f"Started process for run (pid: {pid}).", run, EngineEventData.in_process(pid))
    current = instance.get_run_by_id(run.run_id)
    if current is not None and current.status == dg.DagsterRunStatus.CANCELING:
        # Whoever terminated it found no process to interrupt yet.
        instance.report_run_canceled(current)
        return
    try:
        for _ in core_execute_run(job, run, instance, inject_env_vars=False):
            pass
    except (Exception, KeyboardInterrupt, dg.DagsterExecutionInterruptedError):
        traceback.print_exc()
    instance.report_engine_event(f"Process for run exited (pid: {pid}).", run)
