"""Where Dagster's two webservers are reached: Unix sockets in a folder that only this user can enter.

Dagster's webserver knows no users and takes GraphQL from any page that a browser shows, so it listens on no port. The
API puts it behind the studio's own login (`api.dagster_proxy`); `cli.webserver` is the process.
"""

from __future__ import annotations

import os
import ssl
import stat
import sys
import tempfile
import zlib
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Final

from stemma.errors import Unavailable
from stemma.store.settings import Settings

if TYPE_CHECKING:
    import httpx

PATH: Final = "/dagster"
"""The path under which both webservers answer, and the API passes them on."""

BASE_URL: Final = f"http://localhost{PATH}"

# Nothing is encrypted on a Unix socket; without one, httpx reads every authority's certificate, 25 ms of the processor.
_NO_AUTHORITY: Final = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
_LONGEST_ADDRESS = 107 if sys.platform == "linux" else 103


class Webserver(StrEnum):
    """The one that does everything, and the one that Dagster runs with every mutation turned off."""

    FULL = "webserver"
    READ_ONLY = "webserver-readonly"


def socket_path(settings: Settings, webserver: Webserver) -> Path:
    """The socket of a webserver, in a private folder that is made where it is missing.

    Raises Unavailable with code `socket_folder_unsafe` where another user could enter the folder or made it.
    """
    inside = settings.home / "up" / "sockets"
    fits = len(os.fsencode(inside / max(Webserver, key=len))) <= _LONGEST_ADDRESS
    short = f"stemma-{os.geteuid()}-{zlib.crc32(os.fsencode(settings.home)):x}-web"
    folder = inside if fits else Path(tempfile.gettempdir()) / short
    folder.parent.mkdir(parents=True, exist_ok=True)
    folder.mkdir(mode=0o700, exist_ok=True)
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or stat.S_IMODE(found.st_mode) & 0o077:
        raise Unavailable(
            "socket_folder_unsafe",
            f"{folder} is not a folder that only this user can enter, as Dagster's webservers need it.",
            hint="Remove it, then start again.",
        )
    return folder / webserver


def client(settings: Settings, webserver: Webserver = Webserver.FULL, *, timeout: float = 30.0) -> httpx.Client:
    """A client of a webserver: `client(settings).post("/graphql", json={"query": …})`. `timeout` is in seconds.

    Its requests raise httpx.ConnectError where the webserver is not up.
    """
    import httpx

    transport = httpx.HTTPTransport(uds=str(socket_path(settings, webserver)), verify=_NO_AUTHORITY)
    return httpx.Client(base_url=BASE_URL, transport=transport, timeout=timeout, trust_env=False)
