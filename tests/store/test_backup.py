"""Backup and restore of a whole studio, on a real embedded server."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from stemma.errors import Conflict, InvalidInput, NotFound, Unavailable
from stemma.ledger.entries import NewEntry
from stemma.ledger.heads import HeadStore
from stemma.ledger.service import Ledger
from stemma.ledger.signer import sign_once
from stemma.ledger.verification import verify
from stemma.store import backup, embedded, migrations
from stemma.store.database import Database, resolve_urls
from stemma.store.settings import Settings


@pytest.fixture(scope="module")
def studio(new_home: Callable[[], Path]) -> Iterator[Settings]:
    """A home with a migrated embedded database."""
    settings = Settings(home=new_home(), postgres_shared_buffers="16MB")
    migrations.upgrade(embedded.ensure_running(settings)["owner"])
    yield settings
    embedded.stop(settings, force=True)


@pytest.fixture
def filled(studio: Settings) -> Settings:
    """The studio with known rows, vectors and files, whatever an earlier test left."""
    urls = resolve_urls(studio)
    with psycopg.connect(urls.owner) as owner:
        owner.execute("DROP TABLE IF EXISTS vectors_test; DELETE FROM knowledge_sources")
        owner.execute("CREATE TABLE vectors_test (id int PRIMARY KEY, v vector(3))")
        owner.execute("INSERT INTO vectors_test SELECT i, ARRAY[i, 1, 2]::vector FROM generate_series(1, 50) i")
        owner.execute("CREATE INDEX ON vectors_test USING hnsw (v vector_cosine_ops)")
        owner.execute("INSERT INTO knowledge_sources (name, kind) VALUES ('first', 'folder'), ('second', 'files')")
        owner.execute("GRANT SELECT ON vectors_test TO stemma_app")
    with psycopg.connect(urls.dagster) as dagster:
        dagster.execute("DROP TABLE IF EXISTS runs; CREATE TABLE runs (run_id text)")
        dagster.execute("INSERT INTO runs VALUES ('r1')")
    for name, text in {
        "inbox/a note.md": "# A note",
        "knowledge/lexical/7/meta.json": "{}",
        "key": "k",
    }.items():
        path = studio.home / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return studio


def _state(settings: Settings) -> dict[str, object]:
    urls = resolve_urls(settings)
    with psycopg.connect(urls.app) as app, psycopg.connect(urls.dagster) as dagster:
        return {
            "sources": app.execute("SELECT name, kind, created_at FROM knowledge_sources ORDER BY 1").fetchall(),
            "vectors": app.execute("SELECT id, v::text FROM vectors_test ORDER BY v <=> '[3,1,2]', id").fetchall(),
            "indexes": app.execute("SELECT count(*) FROM pg_indexes WHERE indexdef LIKE '%hnsw%'").fetchall(),
            "runs": dagster.execute("SELECT * FROM runs").fetchall(),
            "files": {
                str(path.relative_to(settings.home)): path.read_text()
                for folder in ("inbox", "knowledge", "key")
                for path in [settings.home / folder, *(settings.home / folder).rglob("*")]
                if path.is_file()
            },
        }


def _databases(settings: Settings) -> set[str]:
    with psycopg.connect(embedded.superuser_uri(settings)) as connection:
        return {name for (name,) in connection.execute("SELECT datname FROM pg_database")}


def _wipe(settings: Settings) -> None:
    urls = resolve_urls(settings)
    with psycopg.connect(urls.owner) as owner:
        owner.execute("DELETE FROM knowledge_sources; DROP TABLE vectors_test")
    with psycopg.connect(urls.dagster) as dagster:
        dagster.execute("DELETE FROM runs")
    (settings.home / "inbox" / "a note.md").unlink()
    (settings.home / "inbox" / "later.md").write_text("came after the backup")


def _manifest(archive: Path) -> dict[str, Any]:
    with tarfile.open(archive) as tar:
        file = tar.extractfile("manifest.json")
        assert file is not None
        return dict(json.load(file))


def _tampered(archive: Path, target: Path, name: str, data: bytes | None) -> Path:
    """A copy of the archive in which `name` holds `data`, or is missing."""
    with tarfile.open(archive) as source, tarfile.open(target, "w") as copy:
        for entry in source:
            file = source.extractfile(entry)
            assert file is not None
            body = file.read()
            if entry.name == name:
                if data is None:
                    continue
                body = data
                entry.size = len(data)
            copy.addfile(entry, io.BytesIO(body))
    return target


def test_a_wiped_studio_comes_back_whole(filled: Settings, tmp_path: Path) -> None:
    before = _state(filled)
    archive = backup.backup(filled, tmp_path / "studio.tar")
    assert archive.size == archive.path.stat().st_size and archive.path.stat().st_mode & 0o077 == 0
    manifest = backup.verify(archive.path)
    assert manifest.databases == {"stemma": migrations.head(), "dagster": None}
    assert not any("postgres/" in name for name in manifest.members)
    _wipe(filled)

    reader = psycopg.connect(resolve_urls(filled).app)
    reader.execute("SELECT 1")
    assert backup.restore(filled, archive.path, force=True) == archive
    with pytest.raises(psycopg.OperationalError):
        reader.execute("SELECT 1")
    reader.close()

    assert _state(filled) == before
    assert not (filled.home / "inbox" / "later.md").exists()
    assert _databases(filled) == {"postgres", "template0", "template1", "stemma", "dagster"}
    assert not list(filled.home.glob(".stemma-backup-*")) and list(tmp_path.iterdir()) == [archive.path]
    with (
        psycopg.connect(resolve_urls(filled).app) as app,
        pytest.raises(psycopg.errors.InsufficientPrivilege),
    ):
        app.execute("TRUNCATE knowledge_sources")
    with pytest.raises(psycopg.OperationalError, match="permission denied"):
        psycopg.connect(resolve_urls(filled).app.replace("/stemma?", "/dagster?"))


def test_a_backup_moves_to_another_studio(filled: Settings, tmp_path: Path, quick_path: Path) -> None:
    before = _state(filled)
    archive = backup.backup(filled, tmp_path / "studio.tar")
    other = Settings(home=quick_path, postgres_shared_buffers="16MB")
    try:
        migrations.upgrade(resolve_urls(other).owner)
        backup.restore(other, archive.path)
        assert _state(other) == before
    finally:
        embedded.stop(other, force=True)


def test_data_is_replaced_only_by_force(filled: Settings, tmp_path: Path) -> None:
    archive = backup.backup(filled, tmp_path / "studio.tar")
    before = _state(filled)
    with pytest.raises(Conflict) as caught:
        backup.restore(filled, archive.path)
    assert caught.value.code == "database_not_empty" and "--force" in (caught.value.hint or "")
    assert _state(filled) == before


def test_an_existing_file_is_not_overwritten(filled: Settings, tmp_path: Path) -> None:
    target = tmp_path / "studio.tar"
    target.write_text("mine")
    with pytest.raises(Conflict) as caught:
        backup.backup(filled, target)
    assert caught.value.code == "backup_exists" and target.read_text() == "mine"


def test_a_damaged_archive_changes_nothing(filled: Settings, tmp_path: Path) -> None:
    archive = backup.backup(filled, tmp_path / "studio.tar").path
    before = _state(filled)
    whole = archive.read_bytes()
    flipped = tmp_path / "flipped.tar"
    middle = whole.index(b"# A note")
    flipped.write_bytes(whole[:middle] + b"#" + whole[middle : middle + 7] + whole[middle + 8 :])
    cut = tmp_path / "cut.tar"
    cut.write_bytes(whole[: len(whole) // 2])
    manifest = _manifest(archive)
    manifest["members"]["../outside"] = manifest["members"]["home/key"]
    damaged = [
        flipped,
        cut,
        _tampered(archive, tmp_path / "missing.tar", "dagster.dump", None),
        _tampered(archive, tmp_path / "headless.tar", "manifest.json", b"{}"),
        _tampered(archive, tmp_path / "escaping.tar", "manifest.json", json.dumps(manifest).encode()),
    ]
    for path in damaged:
        with pytest.raises(InvalidInput) as caught:
            backup.restore(filled, path, force=True)
        assert caught.value.code == "backup_corrupted", path.name
    assert _state(filled) == before
    assert _databases(filled) == {"postgres", "template0", "template1", "stemma", "dagster"}


def test_a_restore_that_fails_leaves_the_last_good_state(filled: Settings, tmp_path: Path) -> None:
    """The archive is sound, but its second dump is none: the first database is restored by then."""
    archive = backup.backup(filled, tmp_path / "studio.tar").path
    manifest = _manifest(archive)
    broken = b"not a dump"
    digest = hashlib.sha256(broken).hexdigest()
    manifest["members"]["dagster.dump"] = {"sha256": digest, "size": len(broken)}
    halfway = _tampered(archive, tmp_path / "half.tar", "dagster.dump", broken)
    sound = _tampered(halfway, tmp_path / "sound.tar", "manifest.json", json.dumps(manifest).encode())
    before = _state(filled)
    with pytest.raises(Unavailable) as caught:
        backup.restore(filled, sound, force=True)
    assert caught.value.code == "pg_restore_failed"
    assert _state(filled) == before
    assert _databases(filled) == {"postgres", "template0", "template1", "stemma", "dagster"}


def test_other_files_are_told_from_backups(filled: Settings, tmp_path: Path) -> None:
    text = tmp_path / "letter.txt"
    text.write_text("Dear reader")
    tar = tmp_path / "other.tar"
    with tarfile.open(tar, "w") as archive:
        archive.add(text, "letter.txt")
    for path in (text, tar):
        with pytest.raises(InvalidInput) as caught:
            backup.restore(filled, path, force=True)
        assert caught.value.code == "not_a_backup"
    with pytest.raises(NotFound):
        backup.restore(filled, tmp_path / "nothing.tar", force=True)


def test_a_newer_archive_is_refused(filled: Settings, tmp_path: Path) -> None:
    archive = backup.backup(filled, tmp_path / "studio.tar").path
    manifest = _manifest(archive)
    manifest["format"] = backup.FORMAT + 1
    newer = _tampered(archive, tmp_path / "newer.tar", "manifest.json", json.dumps(manifest).encode())
    with pytest.raises(InvalidInput) as caught:
        backup.restore(filled, newer, force=True)
    assert caught.value.code == "backup_too_new"


def test_another_server_is_backed_up_and_restored_without_a_superuser(studio: Settings, tmp_path: Path) -> None:
    urls = resolve_urls(studio)
    with psycopg.connect(urls.owner, autocommit=True) as owner:
        owner.execute("CREATE DATABASE other")
        owner.execute("CREATE DATABASE other_dagster")
    with psycopg.connect(embedded.superuser_uri(studio, "other")) as superuser:
        superuser.execute("CREATE EXTENSION vector")
    external = Settings(
        home=tmp_path / "home",
        database_url=urls.app.replace("/stemma?", "/other?"),
        database_owner_url=urls.owner.replace("/stemma?", "/other?"),
        dagster_database_url=urls.owner.replace("/stemma?", "/other_dagster?"),
    )
    other = resolve_urls(external)
    migrations.upgrade(other.owner)
    with psycopg.connect(other.owner) as owner:
        owner.execute("INSERT INTO knowledge_sources (name, kind) VALUES ('first', 'folder')")
    archive = backup.backup(external, tmp_path / "studio.tar").path
    with psycopg.connect(other.owner) as owner:
        owner.execute("DELETE FROM knowledge_sources")

    with pytest.raises(Unavailable) as caught:
        backup.restore(external, archive)
    assert caught.value.code == "pgvector_not_permitted" and "template1" in (caught.value.hint or "")
    with psycopg.connect(embedded.superuser_uri(studio, "template1")) as superuser:
        superuser.execute("CREATE EXTENSION vector")
    backup.restore(external, archive)

    with psycopg.connect(other.app) as app:
        assert app.execute("SELECT name FROM knowledge_sources").fetchall() == [("first",)]
    with psycopg.connect(urls.owner, autocommit=True) as owner:
        owner.execute("DROP DATABASE other")
        owner.execute("DROP DATABASE other_dagster")


def test_the_ledger_comes_back_and_a_restore_leaves_its_heads_alone(studio: Settings, tmp_path: Path) -> None:
    urls = resolve_urls(studio)
    with Ledger(urls, studio) as ledger:
        ledger.append([NewEntry("audit", "key.created", "user:ada", "key/1", {})]).result(20)
    sign_once(urls.app, studio)
    archive = backup.backup(studio, tmp_path / "studio.tar").path
    with Ledger(urls, studio) as ledger:
        ledger.append([NewEntry("audit", "key.created", "user:ada", "key/2", {})]).result(20)
    sign_once(urls.app, studio)
    heads = HeadStore(studio).keys()
    backup.restore(studio, archive, force=True)
    assert HeadStore(studio).keys() == heads
    with Database.open(studio) as database:
        assert [finding.code for finding in verify(database, studio).findings] == ["tail_missing"]
        with pytest.raises(psycopg.errors.InsufficientPrivilege), database.transaction() as connection:
            connection.execute("DELETE FROM ledger")
