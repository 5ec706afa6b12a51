"""The log of each agent: `logs/agents/<name>.jsonl` in the studio's home, one JSON object a line, without content.

Several processes may write to one log: each line is one write to a file that is opened for appending, and whoever
finds it full moves it aside under a lock.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from collections import deque
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from stemma.redaction import redact
from stemma.store.logs import EventLog
from stemma.store.settings import Settings

MAX_BYTES: Final = 5_000_000
KEPT: Final = 5
"""How many full files are kept beside the one that is written to."""

_CHOSEN: Final = frozenset({"request_id", "tool"})
_log = EventLog(__name__)


class AgentLogs:
    """The logs of all agents."""

    def __init__(self, settings: Settings, *, max_bytes: int = MAX_BYTES) -> None:
        self._folder = settings.home / "logs" / "agents"
        self._made = False
        self._max_bytes = max_bytes

    def path(self, agent: str) -> Path:
        """Where an agent's log is."""
        return self._folder / f"{agent}.jsonl"

    def write(self, agent: str, event: str, **facts: Any) -> None:
        """Add a line, what others chose the words of redacted; work does not fail for want of one."""
        said = {name: redact(value).text if name in _CHOSEN else value for name, value in facts.items()}
        named = {"timestamp": datetime.now(UTC).isoformat(), "level": "info", "event": event, "agent": agent}
        line = json.dumps(named | said, default=str, ensure_ascii=False)
        try:
            self._append(self.path(agent), f"{line}\n".encode(errors="replace"))
        except OSError as error:
            _log.warning("a line of an agent's log was not written", agent=agent, error=str(error))

    def tail(self, agent: str, limit: int) -> list[dict[str, Any]]:
        """The newest lines, the oldest of them first."""
        return list(deque(self._lines(agent), maxlen=limit))

    def _lines(self, agent: str) -> Iterator[dict[str, Any]]:
        path = self.path(agent)
        for one in (_aside(path, 1), path):
            with contextlib.suppress(FileNotFoundError), one.open(encoding="utf-8") as lines:
                for line in lines:
                    # A line that somebody cut, or is writing now, is none.
                    with contextlib.suppress(ValueError):
                        yield json.loads(line)

    def _append(self, path: Path, line: bytes) -> None:
        if not self._made:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._made = True
        descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        try:
            os.write(descriptor, line)
            full = os.fstat(descriptor).st_size > self._max_bytes
        finally:
            os.close(descriptor)
        if full:
            self._rotate(path)

    def _rotate(self, path: Path) -> None:
        with path.with_suffix(".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            # Another process may have been first.
            if not path.exists() or path.stat().st_size <= self._max_bytes:
                return
            for number in range(KEPT - 1, 0, -1):
                with contextlib.suppress(FileNotFoundError):
                    _aside(path, number).replace(_aside(path, number + 1))
            path.replace(_aside(path, 1))


def _aside(path: Path, number: int) -> Path:
    return path.with_name(f"{path.name}.{number}")
