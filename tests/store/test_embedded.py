"""The embedded PostgreSQL: what its clients are promised, with real servers and real kills."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import psutil
import psycopg
import pytest
import sqlalchemy
from psycopg.conninfo import conninfo_to_dict

from stemma.errors import Conflict, Unavailable
from stemma.store import cluster, embedded, privileges
from stemma.store.database import DatabaseUrls
from stemma.store.server_files import Layout
from stemma.store.settings import Settings

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root has to give its privileges up")

_CLIENT = """
import sys
from pathlib import Path
from stemma.errors import StemmaError
from stemma.store import embedded
from stemma.store.settings import Settings
settings = Settings(home=Path(sys.argv[1]), postgres_shared_buffers="16MB")
try:
    urls = embedded.ensure_running(settings, idle=float(sys.argv[2]))
except StemmaError as error:
    sys.exit(f"{error.code}: {error}")
print(urls["app"], flush=True)
sys.stdin.read()
"""


def _settings(home: Path) -> Settings:
    return Settings(home=home, postgres_shared_buffers="16MB")


@pytest.fixture
def embedded_settings(quick_path: Path) -> Iterator[Settings]:
    """Settings of a home without a server; what a test started is stopped at its end."""
    settings = _settings(quick_path / "home")
    yield settings
    embedded.stop(settings, force=True)


def _until(condition: Callable[[], bool], seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "the condition did not come true"
        time.sleep(0.02)


def _client(settings: Settings, idle: float = 60, command: Sequence[str] = ()) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*command, sys.executable, "-c", _CLIENT, str(settings.home), str(idle)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE if command else None,
        text=True,
    )


def _first_line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def _end(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.communicate()


def _one(url: str, query: str) -> object:
    with psycopg.connect(url) as connection:
        row = connection.execute(query).fetchone()
        assert row is not None
        return row[0]


class _Writer(threading.Thread):
    """Commits one row after the other and remembers which the server acknowledged, across restarts."""

    def __init__(self, url: str) -> None:
        super().__init__(daemon=True)
        self._url = url
        self._ended = threading.Event()
        self.acknowledged: list[int] = []

    def run(self) -> None:
        number = 0
        while not self._ended.is_set():
            with contextlib.suppress(psycopg.OperationalError), psycopg.connect(self._url) as connection:
                while not self._ended.is_set():
                    number += 1
                    connection.execute("INSERT INTO kept VALUES (%s)", (number,))
                    connection.commit()
                    self.acknowledged.append(number)
            self._ended.wait(0.02)

    def finish(self) -> None:
        self._ended.set()
        self.join(30)
        assert not self.is_alive()


def test_each_role_signs_in_with_its_password_on_socket_and_port(embedded_settings: Settings) -> None:
    urls = embedded.ensure_running(embedded_settings)

    roles = {name: _one(url, "SELECT current_user || '@' || current_database()") for name, url in urls.items()}
    assert roles == {"app": "stemma_app@stemma", "owner": "stemma_owner@stemma", "dagster": "dagster@dagster"}
    assert _one(urls["app"], "SELECT '[1,2]'::vector::text") == "[1,2]"
    parts = conninfo_to_dict(urls["app"])
    for host in (parts["host"], "127.0.0.1"):
        with psycopg.connect(**{**parts, "host": host}) as connection:
            assert connection.execute("SELECT 1").fetchone() == (1,)
        with pytest.raises(psycopg.OperationalError, match="password"):
            psycopg.connect(host=host, port=parts["port"], user="stemma_app", password="wrong", dbname="stemma")
    layout = Layout.of(embedded_settings.home)
    assert layout.credentials.stat().st_mode & 0o777 == 0o600
    assert layout.root.stat().st_mode & 0o007 in (0, 1)


def test_the_server_runs_as_configured(embedded_settings: Settings) -> None:
    app = embedded.ensure_running(embedded_settings)["app"]

    names = (
        "shared_buffers",
        "jit",
        "max_connections",
        "max_wal_size",
        "TimeZone",
        "fsync",
        "server_encoding",
    )
    values = [_one(app, f"SHOW {name}") for name in names]
    assert values == ["16MB", "off", "100", "2GB", "UTC", "on", "UTF8"]
    status = embedded.status(embedded_settings)
    assert status.running and os.getpid() in status.holders
    assert _one(app, "SHOW server_version") == status.version


def test_the_app_role_changes_rows_and_nothing_else(embedded_settings: Settings) -> None:
    urls = embedded.ensure_running(embedded_settings)
    with psycopg.connect(urls["owner"]) as owner:
        owner.execute("CREATE TABLE things (id int); GRANT SELECT, INSERT ON things TO stemma_app")
    with psycopg.connect(urls["app"], autocommit=True) as app:
        app.execute("INSERT INTO things VALUES (1)")
        for statement in (
            "CREATE TABLE other (id int)",
            "TRUNCATE things",
            "DROP TABLE things",
            "ALTER TABLE things ADD x int",
            "CREATE DATABASE other",
            "CREATE ROLE other",
        ):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                app.execute(statement)
    with pytest.raises(psycopg.OperationalError, match="permission denied"):
        psycopg.connect(urls["app"].replace("/stemma?", "/dagster?"))


def test_dagsters_url_works_with_psycopg2(embedded_settings: Settings) -> None:
    urls = DatabaseUrls(**embedded.ensure_running(embedded_settings))
    engine = sqlalchemy.create_engine(urls.dagster_sqlalchemy, poolclass=sqlalchemy.NullPool)
    with engine.connect() as connection:
        assert connection.execute(sqlalchemy.text("SELECT current_user")).scalar() == "dagster"
        assert connection.dialect.driver == "psycopg2"


def test_the_urls_stay_the_same_across_restarts(embedded_settings: Settings) -> None:
    first = embedded.ensure_running(embedded_settings)
    assert embedded.stop(embedded_settings)
    assert not embedded.status(embedded_settings).running
    assert not embedded.stop(embedded_settings)
    assert embedded.ensure_running(embedded_settings) == first


def test_clients_that_start_together_share_one_server(embedded_settings: Settings) -> None:
    clients = [_client(embedded_settings) for _ in range(4)]
    try:
        urls = {_first_line(client) for client in clients}
        assert len(urls) == 1 and urls.pop().startswith("postgresql://stemma_app:")
        assert set(embedded.status(embedded_settings).holders) == {client.pid for client in clients}
    finally:
        for client in clients:
            _end(client)


def test_a_lease_keeps_the_server_and_its_end_stops_it(embedded_settings: Settings) -> None:
    client = _client(embedded_settings, idle=0.4)
    url = _first_line(client)
    embedded.ensure_running(embedded_settings)
    embedded.release(embedded_settings)
    supervisor = embedded.status(embedded_settings).supervisor_pid
    # Several idle periods pass in which the first client's lease alone holds the server.
    _until(_after(1.5))
    assert embedded.status(embedded_settings).supervisor_pid == supervisor
    assert _one(url, "SELECT 1") == 1
    _end(client)
    _until(lambda: embedded.status(embedded_settings).state == "stopped")
    data = embedded.status(embedded_settings).data
    assert not (data / "postmaster.pid").exists(), "the server was shut down, not killed"


def _after(seconds: float) -> Callable[[], bool]:
    began = time.monotonic()
    return lambda: time.monotonic() - began > seconds


def test_the_server_never_stops_under_a_client(embedded_settings: Settings) -> None:
    """Clients come just as the idle time ends: each gets a server that answers while it holds its lease."""
    starts = set()
    for wait in (0.0, 0.08, 0.1, 0.11, 0.12, 0.13, 0.14, 0.16, 0.25):
        url = embedded.ensure_running(embedded_settings, idle=0.1)["app"]
        with psycopg.connect(url) as connection:
            _until(_after(0.12))
            connection.execute("SELECT 1")
            starts.add(embedded.status(embedded_settings).pid)
        embedded.release(embedded_settings)
        _until(_after(wait))
    assert len(starts) > 1, "some of the waits were long enough for the server to stop"


def test_stop_refuses_while_another_process_uses_the_server(embedded_settings: Settings) -> None:
    client = _client(embedded_settings)
    try:
        _first_line(client)
        with pytest.raises(Conflict, match=str(client.pid)) as caught:
            embedded.stop(embedded_settings)
        assert caught.value.code == "postgres_in_use"
        assert embedded.status(embedded_settings).running
        assert embedded.stop(embedded_settings, force=True)
        assert not embedded.status(embedded_settings).running
    finally:
        _end(client)


@pytest.mark.parametrize("victims", [("server",), ("supervisor",), ("supervisor", "server"), ("backend",)])
def test_no_acknowledged_row_is_lost_by_a_kill(embedded_settings: Settings, victims: tuple[str, ...]) -> None:
    urls = embedded.ensure_running(embedded_settings)
    with psycopg.connect(urls["owner"]) as owner:
        owner.execute("CREATE TABLE kept (number int PRIMARY KEY); GRANT SELECT, INSERT ON kept TO stemma_app")
    writer = _Writer(urls["app"])
    writer.start()
    for _ in range(2):
        seen = len(writer.acknowledged)
        _until(lambda seen=seen: len(writer.acknowledged) > seen + 50)
        _until(lambda: embedded.status(embedded_settings).running)
        status = embedded.status(embedded_settings)
        assert status.supervisor_pid and status.pid
        pids = {"supervisor": status.supervisor_pid, "server": status.pid}
        if victims == ("backend",):
            query = "SELECT max(pid) FROM pg_stat_activity WHERE usename = 'stemma_app'"
            pids["backend"] = int(str(_one(embedded.superuser_uri(embedded_settings, "stemma"), query)))
        for victim in victims:
            os.kill(pids[victim], signal.SIGKILL)
        if "supervisor" in victims:
            _until(lambda: embedded.status(embedded_settings).supervisor_pid is None)
        assert embedded.ensure_running(embedded_settings) == urls
    seen = len(writer.acknowledged)
    _until(lambda: len(writer.acknowledged) > seen + 50)
    writer.finish()
    with psycopg.connect(urls["app"]) as connection:
        kept = {row[0] for row in connection.execute("SELECT number FROM kept")}
    assert set(writer.acknowledged) <= kept


def test_stop_ends_a_server_whose_supervisor_was_killed(embedded_settings: Settings) -> None:
    embedded.ensure_running(embedded_settings)
    status = embedded.status(embedded_settings)
    assert status.supervisor_pid and status.pid
    os.kill(status.supervisor_pid, signal.SIGKILL)
    _until(lambda: embedded.status(embedded_settings).state == "unsupervised")
    assert embedded.status(embedded_settings).pid == status.pid
    assert embedded.stop(embedded_settings)
    assert not cluster.is_postgres(status.pid)


def _kill_everything(settings: Settings) -> Path:
    status = embedded.status(settings)
    assert status.supervisor_pid and status.pid
    os.kill(status.supervisor_pid, signal.SIGKILL)
    os.kill(status.pid, signal.SIGKILL)
    _until(lambda: embedded.status(settings).state == "stopped")
    return status.data / "postmaster.pid"


@pytest.mark.parametrize("kind", ["reused", "zombie", "garbage", "empty"])
def test_a_stale_pid_file_is_not_believed(embedded_settings: Settings, kind: str) -> None:
    url = embedded.ensure_running(embedded_settings)["app"]
    pid_file = _kill_everything(embedded_settings)
    lines = pid_file.read_text().splitlines(keepends=True)
    other = subprocess.Popen(["sleep", "60"])
    try:
        if kind == "zombie":
            os.kill(other.pid, signal.SIGKILL)
            _until(lambda: Path(f"/proc/{other.pid}/stat").read_text().split(") ")[1].startswith("Z"))
        stale = {"garbage": "\0\0\0", "empty": ""}.get(kind, f"{other.pid}\n{''.join(lines[1:])}")
        pid_file.write_text(stale)
        assert embedded.ensure_running(embedded_settings)["app"] == url
        assert _one(url, "SELECT 1") == 1
        assert kind == "zombie" or other.poll() is None, "the process with the reused pid was left alone"
    finally:
        other.kill()
        other.wait()


def _makers(root: Path) -> list[psutil.Process]:
    """The initdb processes that work under `root`; one may outlive the supervisor that started it."""
    running = psutil.process_iter(["cmdline"])
    return [process for process in running if any(str(root / "new-") in word for word in process.info["cmdline"] or ())]


def test_an_interrupted_first_start_leaves_nothing_half(embedded_settings: Settings) -> None:
    """Kill the supervisor while it makes the cluster, at several moments; the next start is a good one."""
    layout = Layout.of(embedded_settings.home)
    layout.root.mkdir(parents=True)
    layout.leases.touch()
    for _ in range(3):
        process = _client(embedded_settings)
        _until(lambda: any(layout.root.glob("new-*")) or (layout.root / "data").exists())
        state = layout.read_state()
        assert state is not None
        with contextlib.suppress(ProcessLookupError):
            os.kill(state.supervisor_pid, signal.SIGKILL)
        _end(process)
    url = embedded.ensure_running(embedded_settings)["app"]
    assert _one(url, "SELECT count(*) FROM pg_extension WHERE extname = 'vector'") == 1
    _until(lambda: not _makers(layout.root))
    embedded.stop(embedded_settings)
    embedded.ensure_running(embedded_settings)
    assert not list(layout.root.glob("new-*"))


def test_lost_credentials_are_replaced_and_the_rows_stay(embedded_settings: Settings) -> None:
    first = embedded.ensure_running(embedded_settings)
    with psycopg.connect(first["owner"]) as owner:
        owner.execute("CREATE TABLE kept AS SELECT 7 AS number")
    embedded.stop(embedded_settings)
    Layout.of(embedded_settings.home).credentials.unlink()
    second = embedded.ensure_running(embedded_settings)
    assert second["owner"] != first["owner"]
    assert _one(second["owner"], "SELECT number FROM kept") == 7
    with pytest.raises(psycopg.OperationalError):
        psycopg.connect(first["owner"])


def test_a_long_home_gets_a_short_socket_folder(quick_path: Path) -> None:
    settings = _settings(quick_path / ("a long name, with a comma " * 5) / "home")
    try:
        url = embedded.ensure_running(settings)["app"]
        host = conninfo_to_dict(url)["host"]
        assert isinstance(host, str) and not host.startswith(str(quick_path)) and len(host) < 90
        assert Path(host).stat().st_mode & 0o777 == 0o700
        assert _one(url, "SELECT 1") == 1
    finally:
        embedded.stop(settings, force=True)
        shutil.rmtree(host)


def test_tcp_serves_where_no_socket_folder_can_be_had(quick_path: Path) -> None:
    settings = _settings(quick_path / ("long" * 30) / "home")
    runtime = privileges.choose(embedded.binaries(), quick_path)
    place = replace(runtime, root=settings.home / "postgres")
    folder = cluster.socket_folder(place, 25_000)
    assert folder is not None
    folder.rmdir()
    folder.symlink_to(quick_path)
    try:
        url = embedded.ensure_running(settings)["app"]
        assert conninfo_to_dict(url)["host"] == "127.0.0.1"
        assert _one(url, "SELECT 1") == 1
    finally:
        embedded.stop(settings, force=True)
        folder.unlink()


def test_a_taken_port_is_named(embedded_settings: Settings) -> None:
    url = embedded.ensure_running(embedded_settings)["app"]
    port = int(conninfo_to_dict(url)["port"])
    embedded.stop(embedded_settings)
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        other.bind(("127.0.0.1", port))
        other.listen()
        with pytest.raises(Unavailable, match=str(port)) as caught:
            embedded.ensure_running(embedded_settings)
        assert caught.value.code == "port_in_use" and "port" in (caught.value.hint or "")
    assert embedded.ensure_running(embedded_settings)["app"] == url


def test_an_unusable_parameter_is_told_in_the_servers_words(quick_path: Path) -> None:
    settings = Settings(home=quick_path, postgres_shared_buffers="much")
    with pytest.raises(Unavailable, match='invalid value for parameter "shared_buffers": "much"') as caught:
        embedded.ensure_running(settings)
    assert caught.value.code == "postgres_start_failed"
    assert embedded.status(settings).holders == ()
    good = _settings(quick_path)
    try:
        assert _one(embedded.ensure_running(good)["app"], "SELECT 1") == 1
    finally:
        embedded.stop(good, force=True)


def test_a_home_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(Unavailable) as caught:
        embedded.ensure_running(_settings(tmp_path / "file" / "home"))
    assert (caught.value.code, caught.value.field) == ("home_not_writable", "STEMMA_HOME")


def test_data_of_another_major_version_is_refused(embedded_settings: Settings) -> None:
    embedded.ensure_running(embedded_settings)
    embedded.stop(embedded_settings)
    version = embedded.status(embedded_settings).data / "PG_VERSION"
    kept = version.read_text()
    version.write_text("12\n")
    with pytest.raises(Unavailable, match="PostgreSQL 12") as caught:
        embedded.ensure_running(embedded_settings)
    assert caught.value.code == "postgres_version_changed"
    version.write_text(kept)
    embedded.ensure_running(embedded_settings)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 90 MiB, which holds a new server and little more."""
    place = tmp_path / "disk"
    place.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=90m", "tmpfs", str(place)], capture_output=True).returncode:
        pytest.skip("a file system can be mounted only by root with that capability")
    yield place
    subprocess.run(["umount", "--lazy", str(place)], check=True)


def _fill(filler: Path) -> None:
    with contextlib.suppress(OSError), filler.open("wb", buffering=0) as file:
        for size in (1 << 20, 4096, 1):
            with contextlib.suppress(OSError):
                while file.write(b"x" * size) == size:
                    pass


@as_root
def test_a_full_disk_is_told_and_costs_no_row(small_disk: Path) -> None:
    settings = _settings(small_disk / "home")
    filler = small_disk / "filler"
    filler.write_bytes(b"x" * (60 << 20))
    with pytest.raises(Unavailable) as caught:
        embedded.ensure_running(settings)
    assert caught.value.code == "disk_full"
    filler.unlink()
    try:
        urls = embedded.ensure_running(settings)
        with psycopg.connect(urls["owner"]) as owner:
            owner.execute("CREATE TABLE kept AS SELECT 7 AS number")
        _fill(filler)
        pid = embedded.status(settings).pid
        assert pid
        os.kill(pid, signal.SIGKILL)
        _until(lambda: embedded.status(settings).state == "failing")
        with pytest.raises(Unavailable) as caught:
            embedded.ensure_running(settings)
        assert caught.value.code == "disk_full"
        filler.unlink()
        _until(lambda: embedded.status(settings).running)
        assert _one(urls["owner"], "SELECT number FROM kept") == 7
    finally:
        embedded.stop(settings, force=True)


@as_root
def test_root_runs_it_in_a_folder_that_nobody_else_may_enter(quick_path: Path) -> None:
    quick_path.chmod(0o700)
    settings = _settings(quick_path / "home")
    try:
        assert _one(embedded.ensure_running(settings)["app"], "SELECT 1") == 1
        pid = embedded.status(settings).pid
        assert "\nUid:\t0\t" not in Path(f"/proc/{pid}/status").read_text()
    finally:
        embedded.stop(settings, force=True)


def _as_user(uid: int) -> list[str]:
    """Run as another user, who may read everything: the interpreter may lie in root's own folder."""
    capability = "+dac_read_search"
    command = ["setpriv", f"--reuid={uid}", f"--regid={uid}", "--clear-groups", "--securebits=+no_setuid_fixup"]
    command += [f"--inh-caps={capability}", f"--ambient-caps={capability}", "--"]
    if shutil.which("setpriv") is None or subprocess.run([*command, sys.executable, "-c", ""]).returncode != 0:
        pytest.skip("this machine does not let root become another user by setpriv")
    return command


@as_root
@pytest.mark.parametrize(("uid", "code"), [(65534, None), (54321, "postgres_user_unknown")])
def test_an_ordinary_user_runs_it_as_itself(uid: int, code: str | None, quick_path: Path) -> None:
    with tempfile.TemporaryDirectory(dir=quick_path) as folder:
        quick_path.chmod(0o711)
        os.chown(folder, uid, uid)
        settings = _settings(Path(folder) / "home")
        client = _client(settings, command=_as_user(uid))
        try:
            if code is None:
                assert _one(_first_line(client), "SELECT 1") == 1
                status = embedded.status(settings)
                pids = (status.pid, status.supervisor_pid)
                assert all(f"\nUid:\t{uid}\t" in Path(f"/proc/{pid}/status").read_text() for pid in pids)
            else:
                _, words = client.communicate()
                assert client.returncode == 1 and code in words
        finally:
            _end(client)
            embedded.stop(settings, force=True)


@as_root
def test_another_users_database_is_left_alone(quick_path: Path) -> None:
    """The folder is this user's, but the data in it is not."""
    settings = _settings(quick_path / "home")
    embedded.ensure_running(settings)
    embedded.stop(settings)
    for path in [quick_path, *quick_path.rglob("*")]:
        if "data" not in path.parts:
            os.chown(path, 1, 1)
    client = _client(settings, command=_as_user(1))
    _, words = client.communicate()
    assert client.returncode == 1 and "belongs to another user" in words


@as_root
@pytest.mark.parametrize("enterable", [True, False])
def test_root_without_setpriv_still_finds_a_way(
    enterable: bool, quick_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without setpriv an open folder is used as it is; for a closed one programs and data go elsewhere."""
    quick_path.chmod(0o755 if enterable else 0o700)
    monkeypatch.setenv("PATH", str(quick_path))
    settings = _settings(quick_path / "home")
    layout = Layout.of(settings.home)
    plain = all(folder.stat().st_mode & 0o001 for folder in (quick_path, *embedded.binaries().parents))
    try:
        with psycopg.connect(embedded.ensure_running(settings)["owner"]) as owner:
            owner.execute("CREATE TABLE kept AS SELECT 7 AS number")
        state = json.loads(layout.state.read_text())
        assert state["strategy"] == ("plain" if plain else "copy")
        assert state["data"].startswith(str(quick_path)) == plain
        embedded.stop(settings)
        monkeypatch.undo()
        assert _one(embedded.ensure_running(settings)["owner"], "SELECT number FROM kept") == 7
    finally:
        embedded.stop(settings, force=True)
        elsewhere = privileges.recorded_location(layout.root)
        if elsewhere is not None:
            shutil.rmtree(elsewhere)


@as_root
def test_root_is_told_when_there_is_no_way(tmp_path: Path) -> None:
    before = set(Path("/var/lib").iterdir())
    with pytest.raises(Unavailable) as caught:
        privileges.choose(tmp_path / "no-programs", tmp_path)
    assert caught.value.code == "postgres_root_refused"
    assert set(Path("/var/lib").iterdir()) == before
