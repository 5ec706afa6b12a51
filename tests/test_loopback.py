"""What keeps suites on this machine hears who leaves it."""

from __future__ import annotations

import asyncio
import socket

import pytest

from tests.loopback import Outside

# RFC 5737 and RFC 2606: nobody's.
ELSEWHERE = "192.0.2.1"
NOWHERE = "nowhere.invalid"


def test_what_leaves_this_machine_is_refused_and_told(outside: Outside, loopback_only: None) -> None:
    with pytest.raises(OSError, match="do not leave"):
        asyncio.run(asyncio.open_connection(ELSEWHERE, 9))
    with pytest.raises(OSError, match="do not leave"):
        socket.create_connection((NOWHERE, 9))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sending, pytest.raises(OSError, match="do not leave"):
        sending.sendto(b"", (ELSEWHERE, 9))
    assert outside.tried == [
        f"socket.connect {ELSEWHERE}", f"socket.getaddrinfo {NOWHERE}", f"socket.sendto {ELSEWHERE}",
    ]  # fmt: skip
    outside.tried.clear()


def test_this_machine_is_reached(loopback_only: None) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        socket.create_connection(("localhost", listening.getsockname()[1])).close()
