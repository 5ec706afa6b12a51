"""Executing one notebook in a sandbox: cell by cell, told of as it goes, ended by its limits, an error or a request.

Whether and how often a notebook is executed is the business of runs.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import tempfile
import threading
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, DeadKernelError

from stemma.papers.notebooks import canonical
from stemma.papers.notebooks.kernel import SandboxedKernelManager, Workplace, kernel_manager
from stemma.papers.notebooks.telling import Reader, Told
from stemma.papers.sandbox import folders
from stemma.papers.sandbox.levels import Level
from stemma.papers.sandbox.limits import Limits
from stemma.papers.sandbox.started import Reason

if TYPE_CHECKING:
    from nbformat import NotebookNode

Ending = Literal["done", "error", "timeout", "stopped", "died"]

GRACE_SECONDS: Final = 2.0
"""How long a cell that was interrupted may take to end before its kernel is killed."""

_STARTUP: Final = 60
_LOOK: Final = 0.02
_LONGEST_LINE: Final = 4_000
_MOST_OUTPUT: Final = 16_000_000
_FOLDER: Final = "stemma-run-"
_CODES: Final[dict[Reason, tuple[str, str]]] = {
    "memory": ("E_RUN_MEMORY", "The notebook used more memory than it may have."),
    "tasks": ("E_RUN_PROCESSES", "The notebook started more processes than it may have."),
    "disk": ("E_RUN_DISK", "The notebook wrote more to its folder than it may."),
}


@dataclass(frozen=True, slots=True)
class Conditions:
    """How a notebook is executed: at which level, within which limits and seconds."""

    level: Level
    limits: Limits
    seconds: float


@dataclass(frozen=True, slots=True)
class Executed:
    """What became of a notebook: the cells with what they put out, the events it told, and how it ended.

    `code` and `message` are those of an error; `cells` has a hash for each cell's canonical output.
    """

    notebook: NotebookNode
    ending: Ending
    told: tuple[Told, ...]
    cells: tuple[str, ...]
    code: str | None = None
    message: str | None = None

    @property
    def output_sha256(self) -> str:
        """The hash of all that it put out."""
        return canonical.output_hash(self.cells, self.told)


def execute(
    notebook: NotebookNode, conditions: Conditions, *, tell: Callable[[Told], None], stop: threading.Event
) -> Executed:
    """Execute a notebook and return when nothing of it is left: no process, no folder.

    `tell` is called from this thread with each line that it prints (`log_line`) and each event it writes. When `stop`
    is set the cell in execution is interrupted, and the kernel killed if that does not help.
    """
    base = Path(tempfile.mkdtemp(prefix=_FOLDER))
    try:
        return asyncio.run(_Execution(notebook, Workplace(base), conditions, tell, stop).run())
    finally:
        folders.remove(base)


class _Execution:
    def __init__(
        self,
        notebook: NotebookNode,
        place: Workplace,
        conditions: Conditions,
        tell: Callable[[Told], None],
        stop: threading.Event,
    ) -> None:
        self._notebook = notebook
        self._place = place
        self._conditions = conditions
        self._tell = tell
        self._stop = stop
        self._told: list[Told] = []
        self._started = False
        self._reader = Reader(place.work)
        self._manager = kernel_manager(place, conditions.level, conditions.limits)
        self._client = _Client(notebook, self._manager, self._print)

    async def run(self) -> Executed:
        looking = asyncio.create_task(self._look())
        try:
            ending, code, message = await self._within_limits(self._cells())
        finally:
            looking.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await looking
            # Also where the kernel was never ready.
            await asyncio.to_thread(self._manager.report)
            self._read_all()
            self._reader.close()
            # nbclient leaves it where the kernel never started.
            atexit.unregister(self._client._cleanup_kernel)
        hashes = tuple(canonical.cell_hashes(self._notebook, self._place.base))
        return Executed(self._notebook, ending, tuple(self._told), hashes, code, message)

    async def _cells(self) -> None:
        async with self._client.async_setup_kernel(cleanup_kc=True):
            self._started = True
            for index, cell in enumerate(self._notebook.cells):
                if self._stop.is_set():
                    return
                await self._client.async_execute_cell(cell, index)
                self._client.end_line()
                self._read_all()

    async def _within_limits(self, work: Coroutine[Any, Any, None]) -> tuple[Ending, str | None, str | None]:
        task = asyncio.create_task(work)
        deadline = asyncio.get_running_loop().time() + self._conditions.seconds
        while not task.done():
            left = deadline - asyncio.get_running_loop().time()
            if left <= 0 or self._stop.is_set():
                await self._interrupt(task)
                if self._stop.is_set():
                    return "stopped", None, None
                minutes = f"{self._conditions.seconds / 60:.4g}"
                return "timeout", "E_RUN_TIMEOUT", f"The notebook took longer than {minutes} minutes."
            await asyncio.wait({task}, timeout=min(left, 0.1))
        return self._ended(task)

    async def _interrupt(self, task: asyncio.Task[None]) -> None:
        """Let the cell end by itself, which leaves its output; else kill the kernel."""
        with contextlib.suppress(Exception):
            await asyncio.wait_for(self._manager.interrupt_kernel(), GRACE_SECONDS)
        await asyncio.wait({task}, timeout=GRACE_SECONDS)
        await asyncio.to_thread(self._manager.report)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError, Exception):
            await task
        self._client.end_line()

    def _ended(self, task: asyncio.Task[None]) -> tuple[Ending, str | None, str | None]:
        self._client.end_line()
        error = task.exception()
        if error is None:
            return ("stopped", None, None) if self._stop.is_set() else ("done", None, None)
        if isinstance(error, CellExecutionError) and error.ename == MemoryError.__name__:
            return "died", *_CODES["memory"]
        if isinstance(error, CellExecutionError):
            return "error", "E_CELL_FAILED", f"Cell {self._client.index}: {error.ename}: {error.evalue}"[:2000]
        report = self._manager.report()
        code, message = _CODES.get(report.reason if report else "exit", ("E_KERNEL_DIED", self._last_words(error)))
        return "died", code, message

    def _last_words(self, error: BaseException) -> str:
        if isinstance(error, DeadKernelError):
            return f"The kernel ended while cell {self._client.index} was executed."
        if self._started:
            return f"In cell {self._client.index}, the kernel said what no kernel says: {type(error).__name__}."
        said = [
            (self._place.base / name).read_bytes()[-2000:].decode(errors="replace").strip().rpartition("\n")[2]
            for name in ("output.log", "keeper.log")
            if (self._place.base / name).is_file()
        ]
        return " ".join(["The kernel did not start.", *filter(None, said)])

    async def _look(self) -> None:
        while True:
            self._read_some()
            await asyncio.sleep(_LOOK)

    def _read_all(self) -> None:
        while self._read_some():
            pass

    def _read_some(self) -> bool:
        found = list(self._reader.read())
        for told in found:
            if told.type == "warning":
                self._tell(Told("log_line", f"warning: {told.payload}"))
            else:
                self._told.append(told)
                self._tell(told)
        return bool(found)

    def _print(self, line: str) -> None:
        self._tell(Told("log_line", line))


class _Client(NotebookClient):
    """Hands on what is printed, line by line, as it comes; keeps of a notebook's output what can be kept."""

    def __init__(self, notebook: NotebookNode, manager: SandboxedKernelManager, tell: Callable[[str], None]) -> None:
        # The limit on time is not a cell's but the notebook's.
        super().__init__(
            notebook,
            km=manager,
            timeout=None,
            startup_timeout=_STARTUP,
            iopub_timeout=_STARTUP,
            # Its way of joining what was printed takes minutes on a long line.
            coalesce_streams=False,
            shutdown_kernel="immediate",
            on_cell_executed=_require_kernel,
        )
        self.index = 0
        self._hand_on = tell
        self._begun = ""
        self._left = _MOST_OUTPUT

    async def async_execute_cell(self, cell: NotebookNode, cell_index: int, *given: Any, **named: Any) -> NotebookNode:
        """As ever, and known by its number."""
        self.index = cell_index
        return await super().async_execute_cell(cell, cell_index, *given, **named)

    def process_message(self, msg: dict[str, Any], cell: NotebookNode, cell_index: int) -> NotebookNode | None:
        """As ever, once what was printed is handed on."""
        content = msg["content"]
        if msg["msg_type"] == "stream":
            self._printed(str(content.get("text", "")))
        elif msg["msg_type"] == "error":
            for line in (f"{content.get('ename')}: {content.get('evalue')}").splitlines():
                self._printed(line + "\n")
        if msg["msg_type"] in ("stream", "display_data", "execute_result", "error"):
            self._left -= len(str(content))
            if self._left < 0:
                return None
        output = super().process_message(msg, cell, cell_index)
        if output is not None and output["output_type"] == "stream" and len(cell.outputs) > 1:
            before = cell.outputs[-2]
            if before["output_type"] == "stream" and before["name"] == output["name"]:
                before["text"] += cell.outputs.pop()["text"]
        return output

    def end_line(self) -> None:
        """Hand on a line that has no end yet."""
        if self._begun:
            self._printed("\n")

    def _printed(self, text: str) -> None:
        *lines, begun = (self._begun + text).split("\n")
        for line in lines:
            self._hand_on(_storable(line))
        if len(begun) > _LONGEST_LINE:
            self._hand_on(_storable(begun))
            # Of a line that has no end, only the beginning is told.
            begun = begun[-1:]
        self._begun = begun


def _require_kernel(*, execute_reply: dict[str, Any], **_: Any) -> None:
    """A kernel that was asked to exit does so a little later, and executes some more until then."""
    if any(asked.get("source") == "ask_exit" for asked in execute_reply["content"].get("payload", ())):
        raise DeadKernelError("exit() was called")


def _storable(line: str) -> str:
    return line[:_LONGEST_LINE].encode(errors="replace").decode().replace("\0", "\ufffd")
