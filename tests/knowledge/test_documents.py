"""Keeping documents equal to a source: what changed, is gone or cannot be read, what survives a failure."""

from __future__ import annotations

import contextlib
import io
import os
import shutil
import tempfile
import threading
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from reportlab.lib.pdfencrypt import StandardEncryption
from reportlab.pdfgen.canvas import Canvas

from stemma.errors import NotFound, Unavailable
from stemma.knowledge import sources
from stemma.knowledge.documents import DocumentsReport, sync_documents
from stemma.knowledge.models import Source
from stemma.progress import Progress
from stemma.store.database import Database
from stemma.store.settings import Settings

NOBODY = 65534


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "notes"
    path.mkdir()
    return path


@pytest.fixture
def source(add_source: Callable[[Source], Source], folder: Path) -> Source:
    return add_source(_folder(folder))


def _folder(path: Path) -> Source:
    return Source("notes", "folder", (str(path),))


def _texts(database: Database, *, removed: bool = False) -> dict[str, str]:
    with database.transaction() as connection:
        return dict(connection.execute("SELECT uri, text FROM documents WHERE removed = %s", (removed,)).fetchall())


def _quarantine(database: Database) -> dict[str, str]:
    with database.transaction() as connection:
        return dict(connection.execute("SELECT uri, code FROM document_quarantine").fetchall())


def _counts(report: DocumentsReport) -> tuple[int, int, int, int]:
    return report.added, report.changed, report.unchanged, report.removed


def test_the_first_sync_adds_and_a_second_changes_nothing(
    database: Database, settings: Settings, folder: Path, source: Source
) -> None:
    (folder / "a.md").write_text("# Frogs\n\nGreen.")
    (folder / "b.txt").write_text("Newts are black.")
    seen: list[Progress] = []
    first = sync_documents(database, source, settings, progress=seen.append)
    second = sync_documents(database, source, settings)
    assert (_counts(first), first.read, first.documents) == ((2, 0, 0, 0), 2, 2)
    assert _counts(second) == (0, 0, 2, 0)
    assert second.version == first.version
    assert first.characters == len("# Frogs\n\nGreen.") + len("Newts are black.")
    assert [(step.done, step.total) for step in seen] == [(1, 2), (2, 2)]
    with database.transaction() as connection:
        row = connection.execute("SELECT title, headings, page_starts, byte_size FROM documents WHERE uri = 'a.md'")
        assert row.fetchone() == ("Frogs", [{"start": 0, "level": 1, "title": "Frogs"}], [], 15)


def test_an_empty_folder_has_no_documents(database: Database, settings: Settings, source: Source) -> None:
    report = sync_documents(database, source, settings)
    assert (report.read, report.documents, report.characters, report.quarantined) == (0, 0, 0, [])


def test_edits_removals_and_returns_are_followed(
    database: Database, settings: Settings, folder: Path, source: Source
) -> None:
    (folder / "a.md").write_text("Frogs")
    (folder / "b.md").write_text("Newts")
    first = sync_documents(database, source, settings)
    (folder / "a.md").write_text("Toads")
    (folder / "b.md").unlink()
    second = sync_documents(database, source, settings)
    assert (_counts(second), second.documents) == ((0, 1, 0, 1), 1)
    assert second.version != first.version
    assert (_texts(database), _texts(database, removed=True)) == ({"a.md": "Toads"}, {"b.md": "Newts"})
    assert _counts(sync_documents(database, source, settings)) == (0, 0, 1, 0)
    (folder / "a.md").write_text("Frogs")
    (folder / "b.md").write_text("Newts")
    third = sync_documents(database, source, settings)
    assert _counts(third) == (1, 1, 0, 0)
    assert third.version == first.version
    assert _texts(database, removed=True) == {}


def test_only_what_a_newer_converter_reads_otherwise_is_converted_again(
    database: Database, settings: Settings, folder: Path, source: Source
) -> None:
    (folder / "a.md").write_text("Frogs")
    sync_documents(database, source, settings)
    with database.transaction() as connection:
        connection.execute("UPDATE documents SET converter = 'markdown-0', text = 'stale'")
    assert _counts(sync_documents(database, source, settings)) == (0, 1, 0, 0)
    assert _texts(database) == {"a.md": "Frogs"}


def _encrypted_pdf() -> bytes:
    buffer = io.BytesIO()
    canvas = Canvas(buffer, encrypt=StandardEncryption("hunter2"))
    canvas.drawString(72, 720, "secret")
    canvas.save()
    return buffer.getvalue()


def _bomb() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("word/document.xml", bytes(30_000_000))
    return buffer.getvalue()


def test_what_cannot_be_read_is_quarantined_with_its_reason_and_the_rest_goes_on(
    database: Database, settings: Settings, folder: Path, source: Source
) -> None:
    (folder / "bomb.docx").write_bytes(_bomb())
    (folder / "encrypted.pdf").write_bytes(_encrypted_pdf())
    (folder / "nul.md").write_bytes(b"plain words " * 20 + b"\x00")
    (folder / "program.md").write_bytes(b"\x7fELF" + bytes(100))
    (folder / "wrong.txt").write_bytes(b"\xef\xbb\xbf\xff\xfe\xfa broken")
    (folder / "table.csv").write_text("a,b")
    (folder / "blank.md").write_text(" \n")
    (folder / "gone.md").symlink_to(folder / "nowhere")
    os.mkfifo(folder / "pipe.md")
    with (folder / "huge.txt").open("wb") as file:
        file.truncate(200_000_000)
    (folder / "z-good.md").write_text("Frogs")
    report = sync_documents(database, source, settings)
    expected = {
        "bomb.docx": "zip_bomb",
        "encrypted.pdf": "pdf_encrypted",
        "nul.md": "contains_nul",
        "program.md": "not_text",
        "wrong.txt": "encoding_unknown",
        "table.csv": "unsupported_type",
        "blank.md": "empty",
        "gone.md": "link_broken",
        "pipe.md": "not_a_file",
        "huge.txt": "too_large",
    }
    assert {entry.uri: entry.code for entry in report.quarantined} == expected == _quarantine(database)
    assert all(entry.reason for entry in report.quarantined)
    assert _texts(database) == {"z-good.md": "Frogs"}


def test_the_last_good_version_stays_while_a_document_cannot_be_read(
    database: Database, settings: Settings, folder: Path, source: Source
) -> None:
    (folder / "a.md").write_text("Frogs")
    first = sync_documents(database, source, settings)
    (folder / "a.md").write_bytes(b"plain words " * 20 + b"\x00")
    broken = sync_documents(database, source, settings)
    assert (broken.removed, broken.version, _texts(database)) == (0, first.version, {"a.md": "Frogs"})
    assert _quarantine(database) == {"a.md": "contains_nul"}
    (folder / "a.md").write_text("Frogs")
    mended = sync_documents(database, source, settings)
    assert (_counts(mended), _quarantine(database)) == ((0, 0, 1, 0), {})


def test_quarantine_forgets_files_that_are_gone(
    database: Database, settings: Settings, folder: Path, source: Source
) -> None:
    (folder / "blank.md").write_text("")
    sync_documents(database, source, settings)
    (folder / "blank.md").unlink()
    sync_documents(database, source, settings)
    assert _quarantine(database) == {}


def test_a_missing_folder_is_an_error_and_removes_nothing(
    database: Database, settings: Settings, folder: Path, source: Source
) -> None:
    (folder / "a.md").write_text("Frogs")
    sync_documents(database, source, settings)
    shutil.rmtree(folder)
    with pytest.raises(NotFound, match="does not exist"):
        sync_documents(database, source, settings)
    assert _texts(database) == {"a.md": "Frogs"}


@contextlib.contextmanager
def _as_nobody() -> Iterator[None]:
    """Permissions do not bind root, so become somebody whom they bind."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)


def test_files_and_folders_without_permission_are_quarantined_and_lose_nothing(
    database: Database, settings: Settings, add_source: Callable[[Source], Source]
) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        (folder / "inner").mkdir()
        (folder / "inner" / "b.md").write_text("Newts")
        (folder / "a.md").write_text("Frogs")
        source = add_source(_folder(folder))
        sync_documents(database, source, settings)
        (folder / "inner").chmod(0)
        (folder / "a.md").chmod(0)
        with _as_nobody():
            if not os.access(folder, os.R_OK, effective_ids=True):
                pytest.skip("the temporary folder itself cannot be entered by another user")
            report = sync_documents(database, source, settings)
        (folder / "inner").chmod(0o755)
        assert {entry.uri: entry.code for entry in report.quarantined} == {
            "a.md": "permission_denied",
            "inner/": "permission_denied",
        }
        assert report.removed == 0
        assert _texts(database) == {"a.md": "Frogs", "inner/b.md": "Newts"}


def test_a_file_that_keeps_changing_is_quarantined_until_it_rests(
    database: Database, settings: Settings, folder: Path, source: Source
) -> None:
    (folder / "calm.md").write_text("Frogs")
    growing = folder / "growing.txt"
    growing.write_text("newt " * 4_000_000)
    stop = threading.Event()

    def write() -> None:
        with growing.open("a") as file:
            while not stop.is_set():
                file.write("newt ")
                file.flush()
                file.truncate(20_000_000)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        report = sync_documents(database, source, settings)
    finally:
        stop.set()
        writer.join()
    assert [(entry.uri, entry.code) for entry in report.quarantined] == [("growing.txt", "changed_while_read")]
    assert _texts(database) == {"calm.md": "Frogs"}
    assert sync_documents(database, source, settings).quarantined == []
    assert set(_texts(database)) == {"calm.md", "growing.txt"}


def test_a_full_disk_is_said_so_and_what_was_committed_stays_and_the_next_sync_goes_on(
    database: Database, settings: Settings, folder: Path, source: Source
) -> None:
    for name in ("a", "b", "c"):
        (folder / f"{name}.md").write_text(f"Frog {name}")
    with database.owner() as connection:
        connection.execute(
            "CREATE FUNCTION full_disk() RETURNS trigger LANGUAGE plpgsql AS"
            " $$ BEGIN RAISE EXCEPTION 'could not extend file' USING ERRCODE = 'disk_full'; END $$"
        )
        connection.execute(
            "CREATE TRIGGER full_disk BEFORE INSERT ON documents FOR EACH ROW"
            " WHEN (NEW.uri = 'b.md') EXECUTE FUNCTION full_disk()"
        )
    with pytest.raises(Unavailable) as caught:
        sync_documents(database, source, settings)
    assert caught.value.code == "disk_full"
    assert _texts(database) == {"a.md": "Frog a"}
    with database.owner() as connection:
        connection.execute("DROP TRIGGER full_disk ON documents")
    assert _counts(sync_documents(database, source, settings)) == (2, 0, 1, 0)


def test_a_lost_connection_is_unavailable_and_leaves_whole_documents(
    database: Database, settings: Settings, folder: Path, source: Source
) -> None:
    for name in ("a", "b", "c"):
        (folder / f"{name}.md").write_text(f"Frog {name}")

    def cut(step: Progress) -> None:
        if step.done == 2:
            with database.owner() as connection:
                connection.execute(
                    "SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory'"
                    " AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
                )

    with pytest.raises(Unavailable) as caught:
        sync_documents(database, source, settings, progress=cut)
    assert caught.value.code == "database_unreachable"
    assert _texts(database) == {"a.md": "Frog a", "b.md": "Frog b"}
    assert _counts(sync_documents(database, source, settings)) == (1, 0, 2, 0)


def test_two_syncs_of_one_source_take_turns(
    database: Database, settings: Settings, folder: Path, source: Source
) -> None:
    for number in range(30):
        (folder / f"{number}.md").write_text(f"Frog {number}")
    reports: list[DocumentsReport] = []
    threads = [
        threading.Thread(target=lambda: reports.append(sync_documents(database, source, settings))) for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(_counts(report) for report in reports) == [(0, 0, 30, 0), (0, 0, 30, 0), (30, 0, 0, 0)]
    assert len({report.version for report in reports}) == 1


def test_installed_documentation_puts_the_package_name_into_a_title_that_lacks_it(
    database: Database, settings: Settings
) -> None:
    with database.transaction() as connection:
        sources.ensure_builtin(connection, settings)
    report = sync_documents(database, sources.INSTALLED, settings)
    assert report.quarantined == []
    assert report.added == report.documents > 50
    with database.transaction() as connection:
        titles = dict(connection.execute("SELECT uri, title FROM documents").fetchall())
    assert "pgvector" in titles["pypi:pgvector"]
    for uri, title in titles.items():
        if uri.startswith("pypi:"):
            assert "".join(filter(str.isalnum, uri[5:])) in "".join(filter(str.isalnum, title.lower()))
