"""What this machine and its configuration offer a studio, and how to mend what is missing.

Each finding is one sentence and, where something is amiss, one thing to do. Nothing is repaired here.
"""

from __future__ import annotations

import platform
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import psutil
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from psycopg.conninfo import conninfo_to_dict

from stemma import browser, processes
from stemma.errors import StemmaError, Unavailable
from stemma.papers.sandbox import levels
from stemma.store import migrations
from stemma.store.backup import STAGING
from stemma.store.database import Connection, DatabaseUrls, connect, resolve_urls
from stemma.store.server_files import Layout
from stemma.store.settings import Settings

Level = Literal["ok", "warn", "fail"]

_OLDEST_PYTHON = (3, 11)
_OLDEST_SERVER = 15
_OLDEST_PGVECTOR = (0, 8)
_DISK_NEEDED, _DISK_WANTED = 1 << 30, 5 << 30
_MEMORY_NEEDED, _MEMORY_WANTED = 2 << 30, 4 << 30
_BF16_FLAGS = frozenset({"amx_bf16", "avx512_bf16", "bf16"})
_GIB = 1 << 30


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at: `what` is the case; `mend` says what to do where `level` is not ok."""

    name: str
    level: Level
    what: str
    mend: str = ""


def examine(settings: Settings) -> list[Finding]:
    """Look at everything a studio needs; starts the embedded PostgreSQL where that is configured.

    Never raises for what it examines: a check that cannot be made is a finding.
    """
    checks: list[tuple[str, Callable[[Settings], Iterator[Finding]]]] = [
        ("python", _python),
        ("home", _home),
        ("memory", _memory),
        ("cpu", _cpu),
        ("database", _databases),
        ("ports", _ports),
        ("embedding model", _model),
        ("browser", _browser),
        ("sandbox", _sandbox),
    ]
    found: list[Finding] = []
    for name, check in checks:
        try:
            found.extend(check(settings))
        except StemmaError as error:
            found.append(_failed(error.field or name, error))
        except OSError as error:
            found.append(Finding(name, "fail", f"{error.strerror}: {error.filename}.", "Let this user read it."))
    return found


def _quoted(name: str) -> str:
    plain = name.isascii() and name.replace("_", "a").isalnum() and name.islower() and not name[0].isdigit()
    return name if plain else '"' + name.replace('"', '""') + '"'


def _failed(name: str, error: StemmaError) -> Finding:
    return Finding(name, "fail", error.message, error.hint or "")


# The machine


def _python(_: Settings) -> Iterator[Finding]:
    enough = sys.version_info >= _OLDEST_PYTHON
    wanted = ".".join(map(str, _OLDEST_PYTHON))
    yield Finding(
        "python",
        "ok" if enough else "fail",
        f"Python {platform.python_version()}.",
        "" if enough else f"Make the virtual environment with Python {wanted} or newer.",
    )


def _home(settings: Settings) -> Iterator[Finding]:
    place = settings.home
    while not place.exists():
        place = place.parent
    try:
        with tempfile.TemporaryFile(dir=place):
            pass
    except OSError as error:
        mend = "Set STEMMA_HOME to a folder that this user may write."
        yield Finding("home", "fail", f"{settings.home} cannot be written: {error.strerror}.", mend)
        return
    free = shutil.disk_usage(place).free
    level: Level = "ok" if free >= _DISK_WANTED else "warn" if free >= _DISK_NEEDED else "fail"
    mend = "" if level == "ok" else f"Free space there: {_DISK_WANTED // _GIB} GiB leave room to work."
    yield Finding("home", level, f"{settings.home} is writable, {free / _GIB:.1f} GiB are free.", mend)
    for left in settings.home.glob(f"{STAGING}*"):
        mend = "Unless a restore is running now: restore the archive again, then remove that folder."
        yield Finding("restore", "warn", f"A restore was interrupted and left {left}.", mend)


def _memory(_: Settings) -> Iterator[Finding]:
    total = psutil.virtual_memory().total
    level: Level = "ok" if total >= _MEMORY_WANTED else "warn" if total >= _MEMORY_NEEDED else "fail"
    mend = "" if level == "ok" else f"{_MEMORY_WANTED // _GIB} GiB are enough to embed and to build indexes."
    yield Finding("memory", level, f"{total / _GIB:.1f} GiB of memory.", mend)


def _cpu(settings: Settings) -> Iterator[Finding]:
    cpuinfo = Path("/proc/cpuinfo")
    flags = set(cpuinfo.read_text(encoding="utf-8").split()) if cpuinfo.exists() else set()
    if flags & _BF16_FLAGS:
        yield Finding("cpu", "ok", f"{psutil.cpu_count()} cores with bf16 instructions.")
    elif settings.embedding_precision == "bf16":
        what = "The CPU has no bf16 instructions, and STEMMA_EMBEDDING_PRECISION is bf16."
        yield Finding("cpu", "warn", what, "Set it to auto: emulated bf16 is slower than fp32.")
    else:
        yield Finding("cpu", "ok", f"{psutil.cpu_count()} cores without bf16 instructions: fp32 is used.")


def _ports(settings: Settings) -> Iterator[Finding]:
    tree = processes.running(settings.home)
    ours = {service.port for service in tree.services} if tree else set()
    for name in ("api_port", "code_server_port"):
        port = int(getattr(settings, name))
        setting = f"STEMMA_{name.upper()}"
        if port in ours:
            yield Finding(setting, "ok", f"Port {port} is served by this studio.")
        elif processes.port_is_free(port):
            yield Finding(setting, "ok", f"Port {port} is free.")
        else:
            owner = processes.port_owner(port)
            who = f"process {owner}" if owner else "another program"
            mend = f"End it, or set {setting} to a free port."
            yield Finding(setting, "fail", f"Port {port} is used by {who}.", mend)


def _model(settings: Settings) -> Iterator[Finding]:
    from stemma.knowledge.embedding import load_model

    spec = load_model(settings).spec
    what = f"{spec.name}: {spec.dimensions} dimensions, {spec.precision}, weights {spec.weights_sha256[:12]}."
    yield Finding("embedding model", "ok", what)


def _browser(settings: Settings) -> Iterator[Finding]:
    try:
        path = browser.find(settings)
        yield Finding("browser", "ok", f"{browser.version(path)}: {path}.")
    except Unavailable as error:
        # Nothing but pictures, PDFs and the tests of pages needs it.
        yield Finding(error.field or "browser", "warn", error.message, error.hint or "")


def _sandbox(settings: Settings) -> Iterator[Finding]:
    try:
        yield Finding("sandbox", "ok", f"Notebooks run at the level {levels.in_force(settings)}.")
    except Unavailable as error:
        # Nothing but the runs of papers needs it.
        yield Finding("sandbox", "warn", error.message, error.hint or "")


# The databases


def _databases(settings: Settings) -> Iterator[Finding]:
    urls = resolve_urls(settings)
    if settings.database_url is None:
        state = Layout.of(settings.home).read_state()
        assert state is not None
        how = f"as uid {_owner(state.pid)} ({state.strategy})"
        yield Finding("postgres", "ok", f"The embedded PostgreSQL {state.version} runs {how}.")
    try:
        with connect(urls.owner, autocommit=True) as connection:
            yield from _stemma_database(connection, urls)
    except Unavailable as error:
        yield _unreachable(settings, "stemma database", urls.owner, error)
    else:
        yield _app_role(settings, urls)
    try:
        with connect(urls.dagster):
            yield Finding("dagster database", "ok", "Dagster's database answers.")
    except Unavailable as error:
        yield _unreachable(settings, "dagster database", urls.dagster, error)


def _owner(pid: int | None) -> str:
    try:
        return str(psutil.Process(pid).uids().effective)
    except psutil.Error:
        return "unknown"


def _unreachable(settings: Settings, name: str, url: str, error: Unavailable) -> Finding:
    parts = conninfo_to_dict(url)
    user, database = (_quoted(str(parts.get(key) or "postgres")) for key in ("user", "dbname"))
    if settings.database_url is None:
        mend = f"See the logs in {settings.home / 'postgres' / 'log'}."
    elif "database" in error.message and "does not exist" in error.message:
        mend = f"As a superuser, in psql: CREATE DATABASE {database} OWNER {user};"
        if name == "stemma database":
            mend += f" \\connect {database} CREATE EXTENSION IF NOT EXISTS vector;"
    elif "password" in error.message or "does not exist" in error.message:
        create = f"CREATE ROLE {user} LOGIN{' CREATEDB' if name == 'stemma database' else ''} PASSWORD '...';"
        mend = f"Correct role and password in the URL; where the role is missing, as a superuser: {create}"
    else:
        mend = "Start that server, or correct host and port in the URL."
    return Finding(name, "fail", error.message, mend)


def _stemma_database(connection: Connection, urls: DatabaseUrls) -> Iterator[Finding]:
    server = connection.info.server_version // 10_000
    if server < _OLDEST_SERVER:
        mend = f"Upgrade it to {_OLDEST_SERVER} or newer."
        yield Finding("stemma database", "fail", f"The server is PostgreSQL {server}.", mend)
        return
    yield Finding("stemma database", "ok", f"PostgreSQL {server} answers.")
    yield _pgvector(connection)
    yield _schema(urls.owner)


def _pgvector(connection: Connection) -> Finding:
    query = """
        SELECT default_version, installed_version, rolsuper
        FROM pg_available_extensions, pg_roles WHERE name = 'vector' AND rolname = current_user
    """
    row = connection.execute(query).fetchone()
    if row is None:
        mend = "Install pgvector 0.8 or newer on that server, or unset STEMMA_DATABASE_URL."
        return Finding("pgvector", "fail", "The server has no pgvector extension.", mend)
    available, installed, superuser = row
    version = str(installed or available)
    if tuple(int(part) for part in version.split(".")[:2]) < _OLDEST_PGVECTOR:
        mend = "Install 0.8 or newer, then run `ALTER EXTENSION vector UPDATE` in the database."
        return Finding("pgvector", "fail", f"pgvector {version} lacks iterative scans.", mend)
    if installed is None and not superuser:
        mend = "As a superuser run `CREATE EXTENSION vector` in the database."
        return Finding("pgvector", "fail", f"pgvector {version} is not created in the database.", mend)
    return Finding("pgvector", "ok", f"pgvector {version}.")


def _schema(owner_url: str) -> Finding:
    present, newest = migrations.current(owner_url), migrations.head()
    if present == newest:
        return Finding("schema", "ok", f"The schema is at {newest}, the newest.")
    if present is not None and not _known(present):
        what = f"The schema is at {present}, which this version does not know."
        return Finding("schema", "fail", what, "Use the Stemma that migrated it, or a newer one.")
    what = f"The schema is at {present}, the newest is {newest}." if present else "The schema is not there yet."
    return Finding("schema", "warn", what, "Run `stemma db migrate`.")


def _known(revision: str) -> bool:
    try:
        return ScriptDirectory(str(migrations.FOLDER)).get_revision(revision) is not None
    except CommandError:
        return False


def _app_role(settings: Settings, urls: DatabaseUrls) -> Finding:
    try:
        with connect(urls.app, autocommit=True) as connection:
            query = "SELECT current_user, has_schema_privilege('public', 'CREATE')"
            role, may_create = connection.execute(query).fetchone() or ("", False)
    except Unavailable as error:
        return _unreachable(settings, "app role", urls.app, error)
    if may_create:
        mend = "Name the owner in STEMMA_DATABASE_OWNER_URL and a role without ownership in STEMMA_DATABASE_URL."
        return Finding("app role", "warn", f"The role {role} may change the schema it works in.", mend)
    return Finding("app role", "ok", f"The role {role} changes rows and nothing else.")
