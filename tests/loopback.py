"""Outside connections, refused in this process: for suites that have to pass where there is no network.

Python tells its audit hooks (PEP 578) of each socket that connects and each name that is looked up, by asyncio's and
aiohttp's as well. What connects without Python, such as libpq, is not heard of: `make offline` runs the same tests on a
network that has nothing but loopback.
"""

from __future__ import annotations

import socket
from ipaddress import ip_address
from typing import Any, Final

_CONNECTS: Final = frozenset({"socket.connect", "socket.sendto"})
_NAMES: Final = frozenset({None, "", "localhost"})


class Outside:
    """An audit hook that refuses while `refused`; `tried` is where to."""

    def __init__(self) -> None:
        self.refused = False
        self.tried: list[str] = []

    def hear(self, event: str, given: tuple[Any, ...]) -> None:
        """Raises OSError for what would leave this machine."""
        if not self.refused:
            return
        if event in _CONNECTS:
            asked, address = given[0], given[1]
            host = None if asked.family == socket.AF_UNIX else address[0]
        elif event == "socket.getaddrinfo":
            host = given[0]
        else:
            return
        if not _is_home(host):
            self.tried.append(f"{event} {host}")
            raise OSError(f"{host} is not on this machine, and tests do not leave it")


def _is_home(host: Any) -> bool:
    name = host.decode() if isinstance(host, bytes) else host
    if name in _NAMES:
        return True
    try:
        return ip_address(name).is_loopback
    except ValueError:
        return False
