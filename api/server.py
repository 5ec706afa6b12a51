"""The API as a process: one loopback socket, one uvicorn server, and a clean end.

`python -m api` runs it; what is served is decided by `api.app`.
"""

from __future__ import annotations

import errno
import gc
import signal
import socket
import sys
from types import FrameType

import structlog
import uvicorn
from fastapi import FastAPI

from api.app import create_app, require_loopback
from api.dagster_proxy import LARGEST_MESSAGE
from stemma.errors import Unavailable
from stemma.store.database import Database
from stemma.store.logs import configure_logging
from stemma.store.settings import Settings

_GRACE_SECONDS = 10
_BACKLOG = 1024


def serve(settings: Settings) -> None:
    """Serve until SIGINT or SIGTERM, then finish the requests in flight for up to ten seconds.

    Raises InvalidInput for a host beyond loopback, Unavailable (`port_in_use`, `port_not_usable`) when the
    address cannot be bound or the embedded database does not start.
    """
    configure_logging(settings.log_level)
    require_loopback(settings)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _end)
    with listen(settings) as listener, Database.open(settings) as database:
        app = create_app(settings, database=database)
        config = uvicorn.Config(
            app,
            log_config=None,
            access_log=False,
            lifespan="on",
            proxy_headers=False,
            server_header=False,
            ws="websockets-sansio",
            ws_max_size=LARGEST_MESSAGE,
            timeout_graceful_shutdown=_GRACE_SECONDS,
        )
        host, port = listener.getsockname()[:2]
        structlog.get_logger("api").info("listening", host=host, port=port)
        # What is loaded by now stays: a full collection that looks at it again stops every request for 0.15 s.
        gc.freeze()
        Server(app, config).run(sockets=[listener])


class Server(uvicorn.Server):
    """Ends the streams first: uvicorn waits for every response before it tells the application that it ends."""

    def __init__(self, app: FastAPI, config: uvicorn.Config) -> None:
        super().__init__(config)
        self._app = app

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """End the streams and agents' calls, then do what uvicorn does."""
        self._app.state.streams.end()
        await self._app.state.relay.stop()
        await super().shutdown(sockets)


def _end(_number: int, _frame: FrameType | None) -> None:
    """What a signal does before uvicorn takes over, and again when uvicorn, having ended, passes it on."""
    sys.exit(0)


def listen(settings: Settings) -> socket.socket:
    """The listening socket of the API; raises Unavailable where the address cannot be had."""
    host, port = settings.api_host, settings.api_port
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=_BACKLOG)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise Unavailable(
                "port_in_use",
                f"Port {port} on {host} is taken by another program.",
                field="STEMMA_API_PORT",
                hint="Stop that program, or set STEMMA_API_PORT to a free port.",
            ) from error
        raise Unavailable(
            "port_not_usable",
            f"The API cannot listen on {host} port {port}: {error.strerror}.",
            field="STEMMA_API_PORT",
            hint="Choose another port or address.",
        ) from error
