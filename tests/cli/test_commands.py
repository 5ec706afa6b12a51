"""Every command: its help, its JSON, its exit codes, and one readable line for whatever goes wrong."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
import typer.main

from cli import main as entry
from stemma.knowledge.embedding import Embedder
from stemma.store.database import DatabaseUrls
from stemma.store.settings import REPOSITORY, Settings

Stemma = Callable[..., Any]


def _commands(command: Any = None, *path: str) -> Iterator[tuple[str, ...]]:
    command = command or typer.main.get_command(entry.build())
    yield path
    for name, below in getattr(command, "commands", {}).items():
        yield from _commands(below, *path, name)


def test_each_command_is_found_by_its_first_word() -> None:
    named = [*entry._GROUPS, *(word for words in entry._COMMANDS.values() for word in words)]
    whole = typer.main.get_group(entry.build()).commands
    assert sorted(named) == sorted(whole)
    for word in named:
        found = typer.main.get_group(entry.build(word)).commands
        assert found[word].help == whole[word].help and len(found) < len(whole) / 2


def _refused(ended: Any, code: int, *words: str) -> None:
    """The command ended with `code`, wrote nothing on standard output and one line that holds the words."""
    assert (ended.code, ended.out) == (code, ""), ended
    assert len(ended.err.splitlines()) == 1 and ended.err.startswith("error "), ended.err
    assert all(word in ended.err for word in words), ended.err


@pytest.fixture(scope="module")
def nothing(
    tmp_path_factory: pytest.TempPathFactory,
    new_database: Callable[[], DatabaseUrls],
    drop_database: Callable[[DatabaseUrls], None],
) -> Iterator[None]:
    """The commands work on a studio that has nothing and stays so."""
    urls = new_database()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STEMMA_HOME", str(tmp_path_factory.mktemp("nothing")))
        patch.setenv("STEMMA_DATABASE_URL", urls.app)
        patch.setenv("STEMMA_DATABASE_OWNER_URL", urls.owner)
        patch.setenv("STEMMA_DAGSTER_DATABASE_URL", urls.dagster)
        yield
    drop_database(urls)


@pytest.mark.parametrize("path", list(_commands()), ids=lambda path: " ".join(path) or "stemma")
def test_every_command_explains_itself(stemma: Stemma, path: tuple[str, ...]) -> None:
    ended = stemma(*path, "--help")
    assert ended.code == 0 and "Usage: stemma" in ended.out and ended.err == ""


@pytest.mark.parametrize(
    "arguments",
    [
        ("status",),
        ("sources", "list"),
        ("index", "list"),
        ("db", "migrate"),
        ("db", "url"),
        ("verify",),
        ("down",),
        ("materialize", "knowledge/documents", "-p", "inbox"),
    ],
    ids=" ".join,
)
def test_json_is_one_document_and_nothing_else(nothing: None, stemma: Stemma, arguments: tuple[str, ...]) -> None:
    ended = stemma(*arguments, "--json")
    assert ended.code == 0, ended
    assert isinstance(ended.document, dict | list)
    plain = stemma(*arguments)
    assert plain.code == 0 and plain.out != "" and "Traceback" not in plain.err


def test_the_doctor_answers_in_json_whatever_it_finds(nothing: None, stemma: Stemma) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.MonkeyPatch.context() as patch:
        patch.setenv("STEMMA_API_PORT", str(taken.getsockname()[1]))
        ended = stemma("doctor", "--json")
        told = stemma("doctor")
    assert ended.code == told.code == 6
    found = {finding["name"]: finding for finding in ended.document}
    assert found["STEMMA_API_PORT"]["level"] == "fail" and found["schema"]["level"] == "ok"
    assert "STEMMA_API_PORT" in told.out and told.err.startswith("error machine_not_ready")


def test_a_source_is_added_read_searched_and_removed(
    settings: Settings, notes: Path, stemma: Stemma, done: Stemma, equip: Callable[[Settings], Embedder]
) -> None:
    equip(settings)
    assert done("sources", "add", "notes", notes)["locations"] == [str(notes)]
    outcome = done("materialize", "group:knowledge", "-p", "notes")
    assert [item["asset"] for item in outcome["built"]] == [
        f"knowledge/{name}" for name in ("documents", "chunks", "embeddings", "search_index")
    ]
    assert outcome["checks"] and all(check["passed"] for check in outcome["checks"])

    page = done("search", "how do I get rid of limescale?", "-k", "1")
    hit = page["hits"][0]
    text = (notes / "kettle.md").read_text()
    assert hit["text"] == text[hit["citation"]["start"] : hit["citation"]["end"]]
    more = done("search", "how do I get rid of limescale?", "-k", "1", "--cursor", page["next_cursor"])
    assert more["hits"][0]["chunk_id"] != hit["chunk_id"]
    shown = stemma("search", "limescale", "--source", "notes", "--mode", "lexical")
    assert shown.code == 0 and "Boil vinegar" in shown.out and shown.err == ""

    status = done("status")
    assert {s["name"]: s["documents"] for s in status["sources"]}["notes"] == 3
    assert status["index"]["id"] == page["generation"] == done("index", "list")[0]["id"]
    assert "notes" in stemma("status").out

    assert done("sources", "remove", "notes") == {"removed": "notes"}
    done("materialize", "knowledge/search_index")
    assert done("search", "limescale")["hits"] == []
    assert "Nothing was found" in stemma("search", "limescale").out


def test_progress_goes_to_standard_error(settings: Settings, notes: Path, stemma: Stemma, done: Stemma) -> None:
    done("sources", "add", "notes", notes)
    ended = stemma("materialize", "knowledge/documents", "-p", "notes", "--json")
    assert "knowledge/documents notes" in ended.err
    assert ended.document["built"][0]["metadata"]["dagster/row_count"] == 3


def test_text_is_shown_as_it_stands(settings: Settings, tmp_path: Path, stemma: Stemma, done: Stemma) -> None:
    """Brackets are no markup, and what would steer a terminal is made visible."""
    folder = tmp_path / ("long-" * 20) / "a [bold]b[/] c"
    folder.mkdir(parents=True)
    (folder / "x.md").write_text("text")
    assert f"{folder}" in str(done("sources", "add", "odd", folder))
    shown = stemma("sources", "list").out
    assert "[bold]b[/]" in shown.replace("\n", "").replace(" ", "")
    failed = stemma("sources", "add", "other", tmp_path / "[red]\x1b[2Jnowhere")
    _refused(failed, 3, "[red]\ufffd[2Jnowhere")


# What goes wrong


@pytest.mark.parametrize(
    ("code", "word", "arguments"),
    [
        (2, "No such command", ("serch",)),
        (2, "Missing argument", ("search",)),
        (2, "No such option", ("status", "--jsn")),
        (2, "Invalid value", ("search", "x", "--mode", "guess")),
        (2, "query_empty", ("search", "  ")),
        (2, "-k", ("search", "x", "-k", "many")),
        (2, "cursor_invalid", ("search", "x", "--cursor", "!!!")),
        (5, "index", ("search", "x")),
        (2, "Examples:", ("materialize", "knowledge/nothing")),
        (2, "Examples:", ("materialize", 'key:"')),
        (3, "partition_unknown", ("materialize", "knowledge/documents", "-p", "nix")),
        (2, "partition_unused", ("materialize", "knowledge/search_index", "-p", "inbox")),
        (3, "path_missing", ("sources", "add", "n", "/no/such/folder")),
        (2, "source_name_invalid", ("sources", "add", "Näme", "/tmp")),
        (4, "source_builtin", ("sources", "remove", "inbox")),
        (4, "source_builtin", ("sources", "add", "inbox", "/tmp")),
        (3, "source_unknown", ("sources", "remove", "nix")),
        (4, "no_previous_generation", ("index", "rollback")),
        (3, "backup_not_found", ("db", "restore", "/no/such/archive")),
        (2, "not_a_backup", ("db", "restore", __file__)),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else str(value),
)
def test_a_mistake_gives_one_line_and_its_code(
    nothing: None, stemma: Stemma, code: int, word: str, arguments: tuple[str, ...]
) -> None:
    _refused(stemma(*arguments), code, word)
    ended = stemma(*arguments, "--json")
    assert (ended.code, ended.err) == (code, "")
    assert ended.document["error"]["code"] and ended.document["error"]["message"]


def test_a_group_without_a_command_shows_its_help(stemma: Stemma) -> None:
    for path in ((), ("db",), ("sources",), ("index",)):
        ended = stemma(*path)
        assert ended.code == 2 and "Usage: stemma" in ended.out + ended.err and "error" not in ended.err


def test_a_source_that_is_gone_is_not_found_and_stays_searchable(
    settings: Settings, notes: Path, stemma: Stemma, done: Stemma, equip: Callable[[Settings], Embedder]
) -> None:
    equip(settings)
    done("sources", "add", "notes", notes)
    done("materialize", "*", "-p", "notes")
    shutil.rmtree(notes)
    ended = stemma("materialize", "*", "-p", "notes")
    assert (ended.code, ended.out) == (3, "")
    assert str(notes) in ended.err.splitlines()[-1] and "source_folder_missing" in ended.err
    assert "Traceback" not in ended.err
    assert "Boil vinegar" in done("search", "limescale", "-k", "1")["hits"][0]["text"]


def test_an_unusable_database_url_is_named(nothing: None, stemma: Stemma, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STEMMA_DATABASE_URL", "mysql://somewhere/stemma")
    for command in (("status",), ("search", "x"), ("db", "migrate"), ("db", "url"), ("up",)):
        _refused(stemma(*command), 2, "STEMMA_DATABASE_URL", "postgresql://")


def test_a_server_that_nobody_runs_is_unavailable(
    nothing: None, stemma: Stemma, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"postgresql://stemma@127.0.0.1:{unused.getsockname()[1]}/stemma"
        for name in ("STEMMA_DATABASE_URL", "STEMMA_DATABASE_OWNER_URL", "STEMMA_DAGSTER_DATABASE_URL"):
            monkeypatch.setenv(name, url)
        for command in (("status",), ("search", "x"), ("db", "migrate"), ("db", "backup")):
            _refused(stemma(*command), 5, "database_", "stemma doctor")


def test_a_server_without_pgvector_is_unavailable(
    nothing: None, bare_server: dict[str, str], stemma: Stemma, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STEMMA_DATABASE_URL", bare_server["app"])
    monkeypatch.setenv("STEMMA_DATABASE_OWNER_URL", bare_server["owner"])
    monkeypatch.setenv("STEMMA_DAGSTER_DATABASE_URL", bare_server["dagster"])
    for command in (("db", "migrate"), ("status",)):
        _refused(stemma(*command), 5, "pgvector_missing", "Install pgvector")


def test_what_nobody_foresaw_is_one_line_and_the_traceback_on_request(
    nothing: None, stemma: Stemma, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = typer.Typer()

    @broken.callback(invoke_without_command=True)
    def fail() -> None:
        raise RuntimeError("the [moon]\nis missing")

    monkeypatch.setattr(entry, "build", lambda _: broken)
    _refused(stemma(), 1, "RuntimeError: the [moon] is missing.", "STEMMA_LOG_LEVEL=DEBUG")
    monkeypatch.setenv("STEMMA_LOG_LEVEL", "DEBUG")
    ended = stemma()
    assert ended.code == 1 and "Traceback" in ended.err and 'raise RuntimeError("the [moon]' in ended.err


def test_an_interrupted_command_says_so(nothing: None, stemma: Stemma, monkeypatch: pytest.MonkeyPatch) -> None:
    interrupted = typer.Typer()

    @interrupted.callback(invoke_without_command=True)
    def wait() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(entry, "build", lambda _: interrupted)
    ended = stemma()
    assert (ended.code, ended.out, ended.err) == (130, "", "interrupted\n")


@pytest.mark.parametrize("arguments", [("sources", "list"), ("status", "--json")], ids=" ".join)
def test_a_reader_that_goes_away_is_left_in_peace(nothing: None, arguments: tuple[str, ...]) -> None:
    command = [sys.executable, "-m", "cli", *arguments]
    with subprocess.Popen(
        command, cwd=REPOSITORY, env=os.environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None and process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == ""
    assert process.returncode == 1
