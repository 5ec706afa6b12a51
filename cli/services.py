"""The services that `stemma up` runs, as commands: which they are, in which order, and how one knows they are ready."""

from __future__ import annotations

import socket
import sys
from collections.abc import Mapping
from pathlib import Path

import httpx
import yaml

from resources.launcher.request import listens
from stemma.processes import Service
from stemma.store.settings import REPOSITORY, Settings
from stemma.store.webserver import Webserver, client

_LOOPBACK = "127.0.0.1"


def services(settings: Settings, dagster_environment: Mapping[str, str]) -> list[Service]:
    """Code server, run template, daemon, API and both webservers, in the order in which they start."""
    workspace = str(_write_workspace(settings))
    environment = {**dagster_environment, "PYTHONUNBUFFERED": "1"}
    code_port, api_port = settings.code_server_port, settings.api_port
    code_server = ["dagster", "api", "grpc", "--module-name", "definitions", "--location-name", "stemma"]
    return [
        Service(
            name="code-server",
            argv=[sys.executable, "-m", *code_server, "--host", _LOOPBACK, "--port", str(code_port)],
            env=environment,
            ready=lambda: _accepts(code_port),
            port=code_port,
            setting="STEMMA_CODE_SERVER_PORT",
            cwd=REPOSITORY,
        ),
        *_run_template(settings, environment),
        Service(
            name="daemon",
            argv=[sys.executable, "-m", "dagster._daemon", "run", "--workspace", workspace],
            env=environment,
            cwd=REPOSITORY,
        ),
        Service(
            name="api",
            argv=[sys.executable, "-m", "api"],
            env=environment,
            ready=lambda: _answers(httpx.Client(base_url=settings.api_url, trust_env=False), "/healthz"),
            port=api_port,
            setting="STEMMA_API_PORT",
            cwd=REPOSITORY,
            # It gives its requests ten seconds.
            grace=15.0,
        ),
        # Last, since the console answers without them.
        *(_webserver(settings, each, workspace, environment) for each in Webserver),
    ]


def _run_template(settings: Settings, environment: Mapping[str, str]) -> list[Service]:
    """It listens at once and loads then; where there is none, as on other systems, the code server starts runs."""
    if sys.platform != "linux":
        return []
    return [
        Service(
            name="run-template",
            argv=[sys.executable, "-m", "resources.launcher.template", "definitions", str(settings.dagster_home)],
            env=environment,
            ready=lambda: listens(settings.dagster_home),
            cwd=REPOSITORY,
        )
    ]


def _webserver(settings: Settings, webserver: Webserver, workspace: str, environment: Mapping[str, str]) -> Service:
    return Service(
        name=webserver,
        argv=[sys.executable, "-m", "cli.webserver", webserver, workspace],
        env=environment,
        ready=lambda: _answers(client(settings, webserver), "/server_info"),
        cwd=REPOSITORY,
    )


def _write_workspace(settings: Settings) -> Path:
    path = settings.home / "up" / "workspace.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    server = {"host": _LOOPBACK, "port": settings.code_server_port, "location_name": "stemma"}
    path.write_text(yaml.safe_dump({"load_from": [{"grpc_server": server}]}))
    return path


def _accepts(port: int) -> bool:
    with socket.create_connection((_LOOPBACK, port), timeout=2.0):
        return True


def _answers(server: httpx.Client, path: str) -> bool:
    with server:
        try:
            return server.get(path, timeout=2.0).status_code < 500
        except httpx.HTTPError:
            return False
