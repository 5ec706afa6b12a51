"""The registry of sources and what each kind of source holds."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from stemma.access.permissions import Role
from stemma.access.principal import Principal
from stemma.errors import Conflict, InvalidInput, NotFound
from stemma.knowledge import sources
from stemma.knowledge.convert import Unreadable
from stemma.knowledge.models import Source
from stemma.ledger.feed import Filter, list_entries
from stemma.ledger.journal import HISTORIAN
from stemma.store.database import Connection, Database
from stemma.store.settings import Settings

ADA = Principal("user:ada", Role.OWNER, frozenset({"ingest:*"}))


@pytest.fixture
def plain(tmp_path: Path) -> Settings:
    return Settings(home=tmp_path / "home", max_document_bytes=1_000_000)


@pytest.fixture
def connection(database: Database) -> Iterator[Connection]:
    with database.transaction() as opened:
        yield opened


def _folder(path: Path) -> Source:
    return Source("notes", "folder", (str(path),))


def _refusal(item: sources.Item) -> str:
    with pytest.raises(Unreadable) as caught:
        item.read()
    return caught.value.code


def test_builtin_sources_are_registered_once_and_the_inbox_folder_exists(
    connection: Connection, settings: Settings
) -> None:
    sources.ensure_builtin(connection, settings)
    sources.ensure_builtin(connection, settings)
    assert [source.name for source in sources.list_sources(connection)] == ["inbox", "installed-docs"]
    assert settings.inbox.is_dir()
    assert sources.get(connection, "inbox") == sources.inbox_source(settings)


def test_an_unknown_source_is_answered_with_the_known_names(connection: Connection, settings: Settings) -> None:
    sources.ensure_builtin(connection, settings)
    with pytest.raises(NotFound, match="inbox, installed-docs"):
        sources.get(connection, "wiki")


def test_a_source_can_be_registered_moved_removed_and_registered_again(
    connection: Connection, tmp_path: Path, commit: Callable[..., Any]
) -> None:
    first, second = tmp_path / "a", tmp_path / "b"
    first.mkdir()
    second.mkdir()
    for folder in (first, second):
        assert commit(sources.register(connection, ADA, _folder(folder))) == _folder(folder)
    assert sources.get(connection, "notes").locations == (str(second),)
    assert commit(sources.remove(connection, ADA, "notes")) == _folder(second)
    assert sources.list_sources(connection) == ()
    with pytest.raises(NotFound):
        sources.remove(connection, ADA, "notes")
    commit(sources.register(connection, ADA, _folder(first)))
    assert sources.get(connection, "notes").locations == (str(first),)
    told = list_entries(connection, HISTORIAN, Filter(subject="source/notes", actor=ADA.actor)).data
    kinds = ["source.registered", "source.removed", "source.registered", "source.registered"]
    assert [entry.kind for entry in told] == kinds
    assert told[0].data == {"kind": "folder", "locations": [str(first)]}


def test_of_two_changes_at_once_the_second_changes_nothing(
    connection: Connection, tmp_path: Path, commit: Callable[..., Any]
) -> None:
    file = tmp_path / "a.md"
    file.write_text("# A")
    folder, files = _folder(tmp_path), Source("notes", "files", (str(file),))
    late = sources.register(connection, ADA, files)
    commit(sources.register(connection, ADA, folder))
    with pytest.raises(Conflict):
        commit(late)
    assert sources.get(connection, "notes") == folder
    late = sources.remove(connection, ADA, "notes")
    commit(sources.remove(connection, ADA, "notes"))
    with pytest.raises(Conflict):
        commit(late)
    assert len(list_entries(connection, HISTORIAN, Filter(kind="source.")).data) == 2


def test_bad_names_are_refused(connection: Connection, tmp_path: Path) -> None:
    for name in ("", "Notes", "../up", "a" * 64, "-x", "a\x00b"):
        with pytest.raises(InvalidInput) as caught:
            sources.register(connection, ADA, Source(name, "folder", (str(tmp_path),)))
        assert (caught.value.code, caught.value.field) == ("source_name_invalid", "name")


def test_missing_and_relative_locations_are_refused(connection: Connection, tmp_path: Path) -> None:
    for location in (str(tmp_path / "nowhere"), "relative"):
        with pytest.raises(InvalidInput) as caught:
            sources.register(connection, ADA, Source("notes", "folder", (location,)))
        assert caught.value.field == "locations"
    with pytest.raises(InvalidInput):
        sources.register(connection, ADA, Source("notes", "files"))


def test_names_that_are_taken_are_conflicts(connection: Connection, tmp_path: Path, commit: Callable[..., Any]) -> None:
    file = tmp_path / "a.md"
    file.write_text("# A")
    commit(sources.register(connection, ADA, _folder(tmp_path)))
    with pytest.raises(Conflict):
        sources.register(connection, ADA, Source("notes", "files", (str(file),)))
    with pytest.raises(Conflict):
        sources.register(connection, ADA, Source("inbox", "folder", (str(tmp_path),)))


def test_builtin_sources_cannot_be_removed(connection: Connection, settings: Settings) -> None:
    sources.ensure_builtin(connection, settings)
    with pytest.raises(Conflict):
        sources.remove(connection, ADA, "installed-docs")


def test_a_folder_is_read_recursively_in_a_fixed_order_without_hidden_and_temporary_files(
    plain: Settings, tmp_path: Path
) -> None:
    root = tmp_path / "notes"
    (root / "b").mkdir(parents=True)
    (root / ".git").mkdir()
    (root / "named.md").mkdir()
    for name in (
        "z.md",
        "b/y.txt",
        "a.md",
        ".hidden.md",
        "c.md.part",
        "d.md~",
        ".git/config",
        "b/~$lock.docx",
    ):
        (root / name).write_text(name)
    items = list(sources.read_items(_folder(root), plain))
    assert [item.uri for item in items] == ["a.md", "b/y.txt", "z.md"]
    assert [item.read() for item in items] == [b"a.md", b"b/y.txt", b"z.md"]
    assert [item.size for item in items] == [4, 7, 4]


def test_an_empty_folder_holds_nothing_and_a_missing_one_is_an_error(plain: Settings, tmp_path: Path) -> None:
    assert list(sources.read_items(_folder(tmp_path), plain)) == []
    with pytest.raises(NotFound, match="does not exist"):
        list(sources.read_items(_folder(tmp_path / "gone"), plain))


def test_what_is_not_a_file_inside_the_folder_says_why(plain: Settings, tmp_path: Path) -> None:
    root = tmp_path / "notes"
    root.mkdir()
    outside = tmp_path / "secret.md"
    outside.write_text("secret")
    os.mkfifo(root / "a-pipe.md")
    (root / "b-dangling.md").symlink_to(root / "nowhere")
    (root / "c-loop.md").symlink_to(root / "c-loop.md")
    (root / "d-outside.md").symlink_to(outside)
    (root / "e-folder-outside").symlink_to(tmp_path)
    (root / "f-real.md").write_text("real")
    (root / "g-inside.md").symlink_to(root / "f-real.md")
    items = {item.uri: item for item in sources.read_items(_folder(root), plain)}
    assert _refusal(items["a-pipe.md"]) == "not_a_file"
    assert _refusal(items["b-dangling.md"]) == "link_broken"
    assert _refusal(items["c-loop.md"]) == "link_broken"
    assert _refusal(items["d-outside.md"]) == "outside_folder"
    assert _refusal(items["e-folder-outside"]) == "outside_folder"
    assert items["g-inside.md"].read() == b"real"


def test_a_200_mb_file_is_refused_before_it_is_read(plain: Settings, tmp_path: Path) -> None:
    root = tmp_path / "notes"
    root.mkdir()
    with (root / "huge.txt").open("wb") as file:
        file.truncate(200_000_000)
    (item,) = sources.read_items(_folder(root), plain)
    assert item.size == 200_000_000
    assert _refusal(item) == "too_large"


def test_a_file_that_vanishes_after_listing_is_missing(plain: Settings, tmp_path: Path) -> None:
    file = tmp_path / "a.md"
    file.write_text("x")
    (item,) = sources.read_items(_folder(tmp_path), plain)
    file.unlink()
    assert _refusal(item) == "file_missing"


def test_a_name_that_is_not_utf8_still_gets_a_uri_that_a_database_can_hold(plain: Settings, tmp_path: Path) -> None:
    (tmp_path / os.fsdecode(b"caf\xe9.md")).write_text("x")
    (item,) = sources.read_items(_folder(tmp_path), plain)
    assert item.uri == r"caf\xe9.md"
    assert item.read() == b"x"


def test_a_list_of_files_is_read_file_by_file(plain: Settings, tmp_path: Path) -> None:
    (tmp_path / "a.md").write_text("x")
    locations = (str(tmp_path / "gone.md"), str(tmp_path / "a.md"))
    present, gone = sources.read_items(Source("two", "files", locations), plain)
    assert present.read() == b"x"
    assert _refusal(gone) == "file_missing"


def test_installed_documentation_is_the_descriptions_of_distributions_and_the_projects_own_docs(
    plain: Settings,
) -> None:
    items = list(sources.read_items(sources.INSTALLED, plain))
    by_uri = {item.uri: item for item in items}
    assert [item.uri for item in sources.read_items(sources.INSTALLED, plain)] == [item.uri for item in items]
    assert len(by_uri) == len(items) > 50
    pgvector = by_uri["pypi:pgvector"]
    assert pgvector.media_type is not None
    assert pgvector.media_type.startswith("text/markdown")
    assert b"vector" in pgvector.read()
    assert pgvector.subject == "pgvector"
    assert any(uri.startswith("docs/") and uri.endswith(".md") for uri in by_uri)
