"""Where the template listens, and how it is asked for a run. Standard library only."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Final

STARTED: Final = b"started"
LONGEST_MESSAGE: Final = 4096

_SOCKET = "run-template.sock"
_PATIENCE = 30.0


class NotStarted(Exception):
    """The run was not begun and will not be: whoever asked may launch it otherwise."""


@contextlib.contextmanager
def address(folder: Path) -> Iterator[str]:
    """The socket's name in `folder`; it fits into an address however deep the folder lies."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield f"/proc/self/fd/{descriptor}/{_SOCKET}"
    finally:
        os.close(descriptor)


def listens(folder: Path) -> bool:
    """Whether a template takes requests; one that is still loading does."""
    try:
        _connect(folder).close()
    except OSError:
        return False
    return True


def start_run(folder: Path, run_id: str, *, patience: float = _PATIENCE) -> None:
    """Have the template start a run, and wait until its worker begins; raises NotStarted with the reason."""
    try:
        with _connect(folder) as connection:
            connection.settimeout(patience)
            connection.sendall(run_id.encode())
            answer = _answer(connection)
    except OSError as error:
        raise NotStarted(f"the template does not answer ({error.strerror or error})") from error
    if answer != STARTED:
        raise NotStarted(answer.decode(errors="replace") or "its worker ended before it began")


def _connect(folder: Path) -> socket.socket:
    with contextlib.ExitStack() as stack:
        connection = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
        connection.connect(stack.enter_context(address(folder)))
        return socket.socket(fileno=connection.detach())


def _answer(connection: socket.socket) -> bytes:
    try:
        return connection.recv(LONGEST_MESSAGE)
    except TimeoutError:
        # Either it said so before this line, and the next one reads it, or it never can, and then it does not begin.
        connection.shutdown(socket.SHUT_RD)
        return connection.recv(LONGEST_MESSAGE) or b"it took too long"
