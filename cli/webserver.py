"""One Dagster webserver as a process: `python -m cli.webserver NAME WORKSPACE`, which `stemma up` starts twice.

`dagster-webserver` serves the same application, but on a port alone; this puts it on a Unix socket.
"""

from __future__ import annotations

import sys

import dagster as dg
import uvicorn
from dagster._core.workspace.context import WorkspaceProcessContext
from dagster._core.workspace.load_target import WorkspaceFileTarget
from dagster_webserver.app import create_app_from_workspace_process_context
from dagster_webserver.version import __version__

from stemma.store.settings import load_settings
from stemma.store.webserver import PATH, Webserver, socket_path

# What `dagster-webserver` sets where it is told nothing else.
_STATEMENT_TIMEOUT_MS = 15_000
_POOL_RECYCLE_SECONDS = 3600
_POOL_MAX_OVERFLOW = 20
_LIVE_DATA_POLL_MS = 2000


def main(name: str, workspace: str) -> None:
    """Serve the instance of DAGSTER_HOME with the code locations of a workspace file until SIGINT or SIGTERM."""
    webserver = Webserver(name)
    path = socket_path(load_settings(), webserver)
    with dg.DagsterInstance.get() as instance:
        instance.optimize_for_webserver(_STATEMENT_TIMEOUT_MS, _POOL_RECYCLE_SECONDS, _POOL_MAX_OVERFLOW)
        with WorkspaceProcessContext(
            instance,
            version=__version__,
            read_only=webserver is Webserver.READ_ONLY,
            workspace_load_target=WorkspaceFileTarget([workspace]),
        ) as context:
            app = create_app_from_workspace_process_context(context, PATH, _LIVE_DATA_POLL_MS)
            uvicorn.run(app, uds=str(path), lifespan="off", log_level="warning")


if __name__ == "__main__":
    main(*sys.argv[1:])
