"""A scratch studio that is served as `stemma up` does, for what shows only between processes."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

import httpx

from benchmarks.studio import Studio, scratch_studio
from cli.services import services
from resources.instance import prepare
from stemma.access.keys import NewKey, create_key
from stemma.access.permissions import SCOPES, Role
from stemma.access.principal import local_principal
from stemma.ledger.service import Ledger
from stemma.processes import Service
from stemma.store.database import Database
from stemma.store.settings import Settings

SERVICES: Final = frozenset({"code-server", "run-template", "daemon", "api", "webserver"})

_PATIENCE: Final = 240.0


@dataclass(frozen=True, slots=True)
class Serving:
    """A served studio, a client of its API who may do everything, its services' process ids by name, and the variables
    that they have.
    """

    settings: Settings
    database: Database
    api: httpx.Client
    pids: dict[str, int]
    environment: dict[str, str]


@contextlib.contextmanager
def serving(
    name: str, *, only: frozenset[str] = SERVICES, prepared: Callable[[Settings], None] | None = None
) -> Iterator[Serving]:
    """Serve a studio on free ports, or `only` these of its services.

    `prepared` may change its Dagster's configuration before anything starts.
    """
    with scratch_studio(name) as studio, contextlib.ExitStack() as stack:
        ports = {"code_server_port": _free_port(), "api_port": _free_port()}
        settings = studio.settings.model_copy(update=ports)
        urls = studio.database.urls
        environment = prepare(settings, urls) | {
            "STEMMA_DATABASE_URL": urls.app,
            "STEMMA_DATABASE_OWNER_URL": urls.owner,
            "STEMMA_DAGSTER_DATABASE_URL": urls.dagster,
            "STEMMA_API_PORT": str(settings.api_port),
            "FF_JOBS_WORKER": "true",
        }
        if prepared is not None:
            prepared(settings)
        wanted = (each for each in services(settings, environment) if each.name in only)
        pids = {service.name: _start(service, settings, stack) for service in wanted}
        client = stack.enter_context(_client(studio, settings.api_port))
        yield Serving(settings, studio.database, client, pids, environment)


def _client(studio: Studio, port: int) -> httpx.Client:
    wanted = NewKey("benchmark", Role.OWNER, tuple(f"{scope}:*" for scope in SCOPES))
    with studio.database.transaction() as connection, Ledger(studio.database.urls, studio.settings) as ledger:
        key = ledger.commit(create_key(connection, local_principal(), wanted, studio.settings)).result().key
    return httpx.Client(
        base_url=f"http://127.0.0.1:{port}/api/v1",
        headers={"Authorization": f"Bearer {key}"},
        timeout=_PATIENCE,
        trust_env=False,
    )


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _start(service: Service, settings: Settings, stack: contextlib.ExitStack) -> int:
    log = stack.enter_context((settings.home / f"{service.name}.log").open("wb"))
    process = subprocess.Popen(service.argv, env={**os.environ, **service.env}, cwd=service.cwd, stdout=log, stderr=log)
    stack.callback(process.wait)
    stack.callback(process.terminate)
    deadline = time.monotonic() + _PATIENCE
    while not _is_ready(service):
        if process.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError(f"{service.name} does not start: {(settings.home / f'{service.name}.log').read_text()}")
        time.sleep(0.1)
    return process.pid


def _is_ready(service: Service) -> bool:
    try:
        return service.ready()
    except OSError:
        return False
