from __future__ import annotations

import shutil
import socket
from typing import Any

import httpx

from api.app import create_app
from stemma.knowledge.generations import lexical_root
from stemma.store.database import Database
from stemma.store.settings import Settings


def test_alive(visitor: httpx.Client) -> None:
    assert visitor.get("/healthz").json() == {"status": "alive"}


def test_not_ready_before_the_first_index(visitor: httpx.Client) -> None:
    response = visitor.get("/readyz")
    body = response.json()
    assert (response.status_code, body["code"]) == (503, "not_ready")
    assert body["checks"]["database"]["status"] == "ok"
    assert body["checks"]["search_index"]["status"] == "failed"
    assert [error["field"] for error in body["errors"]] == ["search_index"]
    assert int(response.headers["retry-after"]) > 0


def test_ready_with_an_index_whether_or_not_a_code_server_runs(library: tuple[Settings, Database], serve: Any) -> None:
    settings, database = library
    with socket.socket() as port:
        port.bind(("127.0.0.1", 0))
        at_port = settings.model_copy(update={"code_server_port": port.getsockname()[1]})
        with serve(create_app(at_port, database=database)) as client:
            without = client.get("/readyz")
            assert without.status_code == 200
            assert without.json()["checks"]["code_location"]["status"] == "not_running"
            port.listen()
            assert client.get("/readyz").json()["checks"]["code_location"]["status"] == "ok"


def test_not_ready_without_the_files_of_the_index(
    library: tuple[Settings, Database], serve: Any, tmp_path: Any
) -> None:
    settings, database = library
    elsewhere = settings.model_copy(update={"home": tmp_path})
    shutil.copytree(lexical_root(settings), lexical_root(elsewhere))
    with serve(create_app(elsewhere, database=database), key=None) as client:
        assert client.get("/readyz").status_code == 200
        shutil.rmtree(lexical_root(elsewhere))
        body = client.get("/readyz").json()
        assert body["checks"]["search_index"]["status"] == "failed"


def test_a_database_without_our_tables_is_not_ready(settings: Settings, database: Database, serve: Any) -> None:
    with database.owner() as connection:
        connection.execute("DROP TABLE active_generation CASCADE")
    with serve(create_app(settings, database=database)) as client:
        response = client.get("/readyz")
        assert response.status_code == 503
        assert "stemma db migrate" in response.json()["checks"]["search_index"]["detail"]
