"""Notebooks that mean no good, executed at the level in force: each ends as what it is, and leaves nothing."""

from __future__ import annotations

import tempfile
import threading
import uuid
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from stemma.papers.notebooks.building import assemble
from stemma.papers.notebooks.execution import Conditions, Executed, execute
from stemma.papers.notebooks.telling import Told
from stemma.papers.plan import Cell
from stemma.papers.sandbox import levels
from stemma.papers.sandbox.limits import Limits
from stemma.store.settings import Settings

LIMITS = Limits(memory_bytes=400 << 20, tasks=60, disk_bytes=30 << 20, scratch_bytes=8 << 20)
_SECONDS = 120


@pytest.fixture
def scratch(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The folder of temporary files of this test alone; its path is short, as those of sockets have to be."""
    # That of all tests must not come to lie in it.
    tmp_path_factory.getbasetemp()
    with tempfile.TemporaryDirectory(prefix="st-") as folder:
        monkeypatch.setattr(tempfile, "tempdir", folder)
        yield Path(folder)


def run(*cells: str, told: list[Told] | None = None) -> Executed:
    conditions = Conditions(levels.in_force(Settings(home=Path("unused"))), LIMITS, _SECONDS)
    notebook = assemble(tuple(Cell(source=source) for source in cells), 7)
    return execute(notebook, conditions, tell=(told if told is not None else []).append, stop=threading.Event())


def left(scratch: Path) -> list[Path]:
    return list(scratch.glob("stemma-run-*"))


def below(mark: str) -> list[int]:
    return [process.pid for process in psutil.process_iter(["cmdline"]) if mark in (process.info["cmdline"] or ())]


@pytest.mark.parametrize(
    ("cell", "codes"),
    [
        ("exit()", {"E_KERNEL_DIED"}),
        ("kept = [bytearray(16 << 20) for _ in range(1_000)]", {"E_RUN_MEMORY"}),
        # Whichever is first: the limit, the call that is refused, or a socket that two processes use.
        (
            "import os\nchildren = [os.fork() for _ in range(2_000)]",
            {"E_RUN_PROCESSES", "E_RUN_MEMORY", "E_CELL_FAILED", "E_KERNEL_DIED"},
        ),
    ],
    ids=["exits", "takes memory", "forks for ever"],
)
def test_each_end_has_its_code(scratch: Path, cell: str, codes: set[str]) -> None:
    told: list[Told] = []
    executed = run(cell, "print('after')", told=told)
    assert executed.code in codes, executed
    assert Told("log_line", "after") not in told
    assert left(scratch) == []


def test_what_it_started_ends_with_it(scratch: Path) -> None:
    mark = f"child-{uuid.uuid4().hex}"
    cell = (
        "import os, sys\nif os.fork() == 0:\n    os.setsid()\n"
        f"    os.execv(sys.executable, [sys.executable, '-c', 'import time; time.sleep(600)', '{mark}'])\nprint('up')"
    )
    told: list[Told] = []
    assert run(cell, told=told).ending == "done"
    assert Told("log_line", "up") in told
    assert below(mark) == []
    assert left(scratch) == []


def test_a_kernel_that_lies_leads_to_no_file_of_the_host(scratch: Path, tmp_path: Path) -> None:
    secret = tmp_path / "secret.txt"
    secret.write_text("hunter2")
    cell = (
        "import os, pathlib\nbase = pathlib.Path.cwd().parent\n"
        "for name in ('output.log', 'keeper.log'):\n"
        "    try:\n        (base / name).unlink(missing_ok=True)\n"
        f"        (base / name).symlink_to({str(secret)!r})\n"
        "    except OSError:\n        pass\n"
        "os.chmod('.', 0)\n"
        "kernel = get_ipython().kernel\n"
        "kernel.session.send(kernel.iopub_socket, 'stream', {}, parent=kernel.get_parent(), ident=b'stream')"
    )
    executed = run(cell)
    assert (executed.ending, executed.code) == ("died", "E_KERNEL_DIED"), executed
    assert "hunter2" not in str(executed.message) and "cell 1" in str(executed.message)
    assert secret.read_text() == "hunter2"
    assert left(scratch) == []
