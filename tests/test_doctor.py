"""What the doctor finds on a sound studio and on broken ones."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import psycopg
import pytest

from stemma import processes
from stemma.doctor import Finding, examine
from stemma.errors import Unavailable
from stemma.store import embedded, migrations
from stemma.store.settings import Settings


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _ports() -> dict[str, int]:
    return {name: _free_port() for name in ("api_port", "code_server_port")}


def _by_name(settings: Settings) -> dict[str, Finding]:
    findings = examine(settings)
    named = {finding.name: finding for finding in findings}
    assert len(named) == len(findings)
    assert all(finding.mend for finding in findings if finding.level != "ok"), "whatever is amiss can be mended"
    return named


def _external(home: Path, urls: dict[str, str], database: str = "stemma") -> Settings:
    def named(url: str) -> str:
        return url.replace("/stemma?", f"/{database}?")

    return Settings(
        home=home,
        database_url=named(urls["app"]),
        database_owner_url=named(urls["owner"]),
        dagster_database_url=urls["dagster"],
        **_ports(),
    )


def test_a_sound_studio_has_nothing_to_mend(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path / "home", postgres_shared_buffers="16MB", **_ports())
    try:
        owner = embedded.ensure_running(settings)["owner"]
        assert _by_name(settings)["schema"].mend == "Run `stemma db migrate`."
        migrations.upgrade(owner)
        findings = _by_name(settings)
        machine = {"memory", "home", "browser"}
        assert {name for name, finding in findings.items() if finding.level != "ok"} <= machine
        assert {
            "python",
            "cpu",
            "postgres",
            "pgvector",
            "app role",
            "embedding model",
            "STEMMA_API_PORT",
        } <= set(findings)
        with psycopg.connect(owner) as connection:
            connection.execute("UPDATE alembic_version SET version_num = 'ffff'")
        assert _by_name(settings)["schema"].level == "fail"
    finally:
        embedded.stop(settings, force=True)


def test_a_server_without_pgvector_is_told_by_doctor_and_migration(bare_server: dict[str, str], tmp_path: Path) -> None:
    finding = _by_name(_external(tmp_path, bare_server))["pgvector"]
    assert finding.level == "fail" and "Install pgvector" in finding.mend
    with pytest.raises(Unavailable) as caught:
        migrations.upgrade(bare_server["owner"])
    assert caught.value.code == "pgvector_missing"
    assert migrations.current(bare_server["owner"]) is None


def test_a_missing_database_comes_with_the_sql_that_makes_it(bare_server: dict[str, str], tmp_path: Path) -> None:
    finding = _by_name(_external(tmp_path, bare_server, database="My%20studio"))["stemma database"]
    assert finding.level == "fail"
    assert 'CREATE DATABASE "My studio" OWNER stemma_owner;' in finding.mend
    assert "CREATE EXTENSION" in finding.mend


def test_a_wrong_password_a_wrong_host_and_a_wrong_url_are_told_apart(
    bare_server: dict[str, str], tmp_path: Path
) -> None:
    home = {"home": tmp_path, **_ports()}
    wrong = bare_server["owner"].replace("stemma_owner:", "stemma_owner:x")
    password = _by_name(Settings(database_url=wrong, **home))["stemma database"]
    assert "password" in password.what and "CREATE ROLE stemma_owner" in password.mend
    nowhere = f"postgresql://stemma@127.0.0.1:{_free_port()}/stemma"
    host = _by_name(Settings(database_url=nowhere, **home))["stemma database"]
    assert "host and port" in host.mend
    url = _by_name(Settings(database_url="mysql://somewhere/stemma", **home))["STEMMA_DATABASE_URL"]
    assert url.level == "fail" and "postgresql://" in url.mend


def test_a_role_that_owns_the_schema_is_a_warning(bare_server: dict[str, str], tmp_path: Path) -> None:
    urls = {**bare_server, "app": bare_server["owner"]}
    assert _by_name(_external(tmp_path, urls))["app role"].level == "warn"


def test_a_taken_port_is_told_unless_this_studio_serves_it(bare_server: dict[str, str], tmp_path: Path) -> None:
    settings = _external(tmp_path, bare_server)
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        other.bind(("127.0.0.1", settings.api_port))
        other.listen()
        finding = _by_name(settings)["STEMMA_API_PORT"]
    assert finding.level == "fail"
    assert str(os.getpid()) in finding.what and "STEMMA_API_PORT" in finding.mend

    code = (
        "import sys, pathlib\n"
        "from stemma.processes import ProcessTree, Service\n"
        f"port = {settings.api_port}\n"
        "argv = [sys.executable, '-m', 'http.server', str(port), '--bind', '127.0.0.1']\n"
        "import urllib.request\n"
        "ready = lambda: urllib.request.urlopen(f'http://127.0.0.1:{port}/').status == 200\n"
        "api = Service('api', argv, port=port, ready=ready)\n"
        f"tree = ProcessTree(pathlib.Path({str(tmp_path)!r}), [api])\n"
        "tree.run(started=lambda: print('started', flush=True))\n"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as tree:
        assert tree.stdout is not None and tree.stdout.readline() == "started\n"
        assert "this studio" in _by_name(settings)["STEMMA_API_PORT"].what
        tree.terminate()
    assert processes.running(tmp_path) is None


def test_a_home_that_cannot_be_written_is_named(bare_server: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    settings = _external(tmp_path / "file" / "home", bare_server)
    finding = _by_name(settings)["home"]
    assert finding.level == "fail" and "STEMMA_HOME" in finding.mend


def test_an_interrupted_restore_is_told(bare_server: dict[str, str], tmp_path: Path) -> None:
    settings = _external(tmp_path, bare_server)
    assert "restore" not in _by_name(settings)
    (tmp_path / ".stemma-backup-x").mkdir()
    assert str(tmp_path / ".stemma-backup-x") in _by_name(settings)["restore"].what


def test_a_folder_without_a_model_is_told(bare_server: dict[str, str], tmp_path: Path) -> None:
    settings = _external(tmp_path, bare_server).model_copy(update={"embedding_model": str(tmp_path)})
    assert "modules.json" in _by_name(settings)["STEMMA_EMBEDDING_MODEL"].what
