"""The files by which the embedded server's supervisor and clients meet: locks, state, credentials.

What the files mean stands here; who takes which lock when stands in `supervisor` and `embedded`.
Standard library only.
"""

from __future__ import annotations

import fcntl
import json
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

State = Literal["starting", "ready", "restarting", "failing", "stopping"]


@dataclass(frozen=True, slots=True)
class ServerState:
    """What `server.json` holds; `socket_dir` is None where only TCP on 127.0.0.1 is offered.

    `code`, `message` and `hint` say why a server that ran before does not come up again.
    """

    state: State
    supervisor_pid: int
    pid: int | None = None
    port: int | None = None
    socket_dir: str | None = None
    data: str | None = None
    binaries: str | None = None
    strategy: str | None = None
    version: str | None = None
    code: str | None = None
    message: str | None = None
    hint: str | None = None


@dataclass(frozen=True, slots=True)
class Layout:
    """The files of the embedded server under `<home>/postgres`."""

    root: Path

    @classmethod
    def of(cls, home: Path) -> Layout:
        return cls(home.resolve() / "postgres")

    @property
    def supervisor_lock(self) -> Path:
        """Held exclusively by the supervisor for its life."""
        return self.root / "supervisor.lock"

    @property
    def start_lock(self) -> Path:
        """Held exclusively by the client that starts a supervisor."""
        return self.root / "start.lock"

    @property
    def leases(self) -> Path:
        """Held shared by every client, exclusively by who stops the server because nobody uses it."""
        return self.root / "leases.lock"

    @property
    def state(self) -> Path:
        """What the supervisor has running; to be believed only while the supervisor's lock is held."""
        return self.root / "server.json"

    @property
    def credentials(self) -> Path:
        """Passwords by role, mode 600."""
        return self.root / "credentials.json"

    @property
    def port(self) -> Path:
        """The port, chosen once and kept."""
        return self.root / "port"

    @property
    def log(self) -> Path:
        """What the supervisor itself says."""
        return self.root / "supervisor.log"

    @property
    def startup_log(self) -> Path:
        """What the server says before its log collector runs."""
        return self.root / "startup.log"

    def read_state(self) -> ServerState | None:
        """The last state that a supervisor wrote, dead or alive."""
        try:
            return ServerState(**json.loads(self.state.read_text(encoding="utf-8")))
        except (FileNotFoundError, ValueError, TypeError):
            return None

    def read_credentials(self) -> dict[str, str]:
        """Passwords by role; empty where there are none."""
        try:
            credentials = json.loads(self.credentials.read_text(encoding="utf-8"))
        except (FileNotFoundError, ValueError):
            return {}
        return credentials if isinstance(credentials, dict) else {}


def write_atomically(path: Path, text: str) -> None:
    """Replace `path` in one durable step, mode 600: a reader sees the old or the new text, whatever dies."""
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def try_lock(descriptor: int, kind: int) -> bool:
    """Take or change a flock without waiting; False when another process has it."""
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
