"""Keeping chunks equal to documents: rows keep their identity, nothing is lost, disagreement is found."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg
import pytest

from stemma.access.principal import local_principal
from stemma.errors import Unavailable
from stemma.knowledge import sources
from stemma.knowledge.chunking import Chunker, bundled_tokenizer
from stemma.knowledge.chunks import reconcile_chunks, sync_chunks
from stemma.knowledge.documents import sync_documents
from stemma.knowledge.models import Source
from stemma.progress import Progress
from stemma.store.database import Database
from stemma.store.settings import Settings

CHUNKER = Chunker(bundled_tokenizer())


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "notes"
    path.mkdir()
    return path


@pytest.fixture
def source(add_source: Callable[[Source], Source], folder: Path) -> Source:
    return add_source(Source("notes", "folder", (str(folder),)))


def _prose(seed: str) -> str:
    return " ".join(f"The {seed} number {n} lives in the pond and sings to the moon." for n in range(12))


def _rows(database: Database, *, retired: bool = False) -> dict[int, tuple[Any, ...]]:
    with database.transaction() as connection:
        rows = connection.execute(
            "SELECT c.id, d.uri, c.ordinal, c.start_offset, c.end_offset, c.text FROM chunks c"
            " JOIN documents d ON d.id = c.document_id WHERE c.retired = %s ORDER BY d.uri, c.ordinal",
            (retired,),
        )
        return {row[0]: row[1:] for row in rows}


def _problems(database: Database) -> list[str]:
    with database.transaction() as connection:
        return reconcile_chunks(connection)


def _write(folder: Path, **sections: str) -> None:
    body = "\n\n".join(f"## {name}\n\n{text}" for name, text in sections.items())
    (folder / "a.md").write_text(f"# Pond\n\n{body}\n")


def test_chunks_follow_documents_and_a_second_sync_changes_nothing(
    database: Database, settings: Settings, folder: Path, source: Source
) -> None:
    _write(folder, Frogs=_prose("frog"), Newts=_prose("newt"))
    (folder / "b.txt").write_text("Herons eat both.")
    sync_documents(database, source, settings)
    seen: list[Progress] = []
    first = sync_chunks(database, source, CHUNKER, progress=seen.append)
    rows = _rows(database)
    second = sync_chunks(database, source, CHUNKER)
    assert (first.documents, first.chunks, first.added, first.kept, first.retired) == (2, 3, 3, 0, 0)
    assert (second.rechunked, second.added, second.kept, second.retired) == (0, 0, 0, 0)
    assert (second.version, second.tokens, second.chunks) == (first.version, first.tokens, 3)
    assert _rows(database) == rows
    assert _problems(database) == []
    assert [(step.done, step.total) for step in seen] == [(1, 2), (2, 2)]


def test_an_edit_keeps_the_rows_of_other_sections_and_moves_their_spans(
    database: Database, settings: Settings, folder: Path, source: Source
) -> None:
    _write(folder, Frogs=_prose("frog"), Newts=_prose("newt"), Herons=_prose("heron"))
    sync_documents(database, source, settings)
    first = sync_chunks(database, source, CHUNKER)
    before = _rows(database)
    _write(folder, Frogs=_prose("frog"), Newts=_prose("great crested newt"), Herons=_prose("heron"))
    sync_documents(database, source, settings)
    second = sync_chunks(database, source, CHUNKER)
    after = _rows(database)
    assert (second.added, second.kept, second.retired, second.chunks) == (1, 2, 1, 3)
    assert second.version != first.version
    frogs, newts, herons = before
    assert set(after) & set(before) == {frogs, herons}
    assert after[herons][2] > before[herons][2]
    assert after[herons][4] == before[herons][4]
    assert list(_rows(database, retired=True)) == [newts]
    assert _problems(database) == []


def test_going_back_to_an_earlier_text_revives_its_rows(
    database: Database, settings: Settings, folder: Path, source: Source
) -> None:
    versions = []
    for text in (_prose("frog"), _prose("newt"), _prose("frog")):
        (folder / "a.md").write_text(text)
        sync_documents(database, source, settings)
        versions.append((sync_chunks(database, source, CHUNKER).version, sorted(_rows(database))))
    assert versions[0] == versions[2] != versions[1]
    assert _problems(database) == []


def test_equal_texts_in_one_document_and_in_two_are_separate_chunks(
    database: Database, settings: Settings, folder: Path, source: Source
) -> None:
    same = f"# Pond\n\n{_prose('frog')}\n\n# Pond\n\n{_prose('frog')}\n"
    (folder / "a.md").write_text(same)
    (folder / "b.md").write_text(same)
    sync_documents(database, source, settings)
    assert sync_chunks(database, source, CHUNKER).chunks == 4
    assert _problems(database) == []


def test_chunks_of_removed_documents_are_retired_and_come_back_with_them(
    database: Database, settings: Settings, folder: Path, source: Source
) -> None:
    (folder / "a.md").write_text("Frogs")
    (folder / "b.md").write_text("Newts")
    sync_documents(database, source, settings)
    sync_chunks(database, source, CHUNKER)
    before = _rows(database)
    (folder / "b.md").unlink()
    sync_documents(database, source, settings)
    assert _problems(database) == ["notes/b.md: 1 current chunks of a removed document"]
    gone = sync_chunks(database, source, CHUNKER)
    assert (gone.retired, gone.chunks, len(_rows(database, retired=True))) == (1, 1, 1)
    (folder / "b.md").write_text("Newts")
    sync_documents(database, source, settings)
    assert sync_chunks(database, source, CHUNKER).added == 1
    assert _rows(database) == before


def test_removing_a_source_retires_its_chunks_at_once(
    database: Database, settings: Settings, folder: Path, source: Source, commit: Callable[..., Any]
) -> None:
    (folder / "a.md").write_text("Frogs")
    sync_documents(database, source, settings)
    sync_chunks(database, source, CHUNKER)
    with database.transaction() as connection:
        change = sources.remove(connection, local_principal(), "notes")
    commit(change)
    assert (_rows(database), len(_rows(database, retired=True)), _problems(database)) == ({}, 1, [])


def test_another_chunker_splits_everything_again(
    database: Database, settings: Settings, folder: Path, source: Source
) -> None:
    (folder / "a.md").write_text(_prose("frog"))
    sync_documents(database, source, settings)
    first = sync_chunks(database, source, CHUNKER)
    smaller = sync_chunks(database, source, Chunker(bundled_tokenizer(), 64, 8))
    assert (first.chunks, smaller.rechunked) == (1, 1)
    assert smaller.chunks > 2
    assert smaller.version != first.version
    assert _problems(database) == []


def test_a_failure_leaves_whole_documents_and_the_next_sync_goes_on(
    database: Database, settings: Settings, folder: Path, source: Source
) -> None:
    for name in ("a", "b", "c"):
        (folder / f"{name}.md").write_text(f"# Pond {name}\n\n{_prose(name)}\n\n## More\n\n{_prose(name)}")
    sync_documents(database, source, settings)
    with database.owner() as connection:
        connection.execute(
            "CREATE FUNCTION full_disk() RETURNS trigger LANGUAGE plpgsql AS"
            " $$ BEGIN RAISE EXCEPTION 'could not extend file' USING ERRCODE = 'disk_full'; END $$"
        )
        connection.execute(
            "CREATE TRIGGER full_disk BEFORE INSERT ON chunks FOR EACH ROW"
            " WHEN (NEW.context = 'Pond b › More') EXECUTE FUNCTION full_disk()"
        )
    with pytest.raises(Unavailable) as caught:
        sync_chunks(database, source, CHUNKER)
    assert caught.value.code == "disk_full"
    assert {row[0] for row in _rows(database).values()} == {"a.md"}
    with database.owner() as connection:
        connection.execute("DROP TRIGGER full_disk ON chunks")
    report = sync_chunks(database, source, CHUNKER)
    assert (report.rechunked, report.chunks) == (2, 6)
    assert _problems(database) == []


def test_disagreement_between_chunks_and_documents_is_found(
    database: Database, settings: Settings, folder: Path, source: Source
) -> None:
    _write(folder, Frogs=_prose("frog 漢字 🐸"), Newts=_prose("newt"))
    sync_documents(database, source, settings)
    sync_chunks(database, source, CHUNKER)
    assert _problems(database) == []
    for damage, problem in (
        ("UPDATE chunks SET start_offset = start_offset + 1 WHERE ordinal = 1", "chunk 1 does not quote"),
        ("UPDATE chunks SET text = 'forged' WHERE ordinal = 0", "chunk 0 does not quote"),
        ("UPDATE documents SET text_sha256 = 'x'", "another version"),
        ("UPDATE chunks SET retired = true", "no chunks"),
        ("UPDATE chunks SET retired = true WHERE ordinal = 0", "gaps"),
    ):
        with database.transaction() as connection:
            connection.execute(damage)
            found = reconcile_chunks(connection, "notes")
            connection.rollback()
        assert found
        assert any(problem in line and line.startswith("notes/a.md: ") for line in found)


def test_the_database_allows_one_current_chunk_per_place(
    database: Database, settings: Settings, folder: Path, source: Source
) -> None:
    (folder / "a.md").write_text("Frogs")
    sync_documents(database, source, settings)
    sync_chunks(database, source, CHUNKER)
    with pytest.raises(psycopg.errors.UniqueViolation), database.transaction() as connection:
        connection.execute(
            "INSERT INTO chunks (document_id, ordinal, start_offset, end_offset, text, context, heading_path,"
            " token_count, embed_sha256, document_sha256)"
            " SELECT document_id, ordinal, start_offset, end_offset, text, context,"
            " heading_path, token_count, embed_sha256, document_sha256 FROM chunks"
        )


def test_the_installed_documentation_is_chunked_and_agrees(database: Database, settings: Settings) -> None:
    with database.transaction() as connection:
        sources.ensure_builtin(connection, settings)
    sync_documents(database, sources.INSTALLED, settings)
    report = sync_chunks(database, sources.INSTALLED, CHUNKER)
    assert report.chunks > 1000
    assert _problems(database) == []
    with database.transaction() as connection:
        longest = connection.execute("SELECT max(token_count) FROM chunks").fetchone()
    assert longest is not None
    assert longest[0] <= 256
