"""`stemma receipt` and what `stemma verify` says of receipts."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from cli import execution
from cli.execution import Outcome
from cli.session import commit
from resources.instance import open_instance
from stemma.access.principal import local_principal
from stemma.knowledge import sources
from stemma.knowledge.models import Source
from stemma.store.database import Database, connect
from stemma.store.settings import REPOSITORY, Settings

Stemma = Callable[..., Any]

# Everything that an exported receipt must not need is refused.
OFFLINE = """
import socket, sys
def refuse(*_, **__): raise AssertionError("it used the network")
socket.socket.connect = socket.create_connection = socket.getaddrinfo = refuse
from cli.main import main
main(sys.argv[1:])
"""


@pytest.fixture(scope="module")
def chunked(studio: tuple[Settings, Database], write_notes: Callable[[Path], Path]) -> Outcome:
    """The chunks of three notes, with their receipts."""
    settings, database = studio
    folder = write_notes(settings.home / "notes")
    source = Source("notes", "folder", (str(folder),))
    commit(settings, database, lambda connection: sources.register(connection, local_principal(), source))
    execution.materialize(settings, database, "knowledge/documents", "notes")
    return execution.materialize(settings, database, "knowledge/chunks", "notes")


def elsewhere(folder: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Run a command as on a machine that has the code, and neither database, network nor home."""
    return subprocess.run(
        [sys.executable, "-c", OFFLINE, *map(str, arguments)],
        env={"PATH": "/usr/bin:/bin", "PYTHONPATH": str(REPOSITORY), "STEMMA_HOME": str(folder / "none")},
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )


def test_materializing_writes_receipts_that_lead_to_the_source(chunked: Outcome, done: Stemma, stemma: Stemma) -> None:
    assert chunked.receipts == 1
    tree = done("receipt", "show", "knowledge/chunks")
    (documents,) = tree["inputs"]
    assert tree["receipt"]["partition"] == "notes" and tree["receipt"]["actor"].startswith("local:")
    assert documents["receipt"]["sources"][0]["name"] == "source/notes"
    assert documents["receipt"]["entry_hash"] == tree["receipt"]["inputs"][0]["entry_hash"]
    shown = stemma("receipt", "show", "knowledge/chunks", "--partition", "notes")
    assert shown.code == 0 and "knowledge/documents[notes]" in shown.out and "read source/notes" in shown.out
    cut = stemma("receipt", "show", tree["receipt"]["id"], "--depth", "0")
    assert "knowledge/documents" not in cut.out and "…" in cut.out


def test_an_unchanged_materialization_has_a_receipt_of_the_same_hashes(chunked: Outcome, done: Stemma) -> None:
    before = done("receipt", "show", "knowledge/chunks")["receipt"]
    assert done("materialize", "knowledge/chunks", "--partition", "notes")["receipts"] == 1
    after = done("receipt", "show", "knowledge/chunks")["receipt"]
    assert after["id"] != before["id"] and after["artifacts"] == before["artifacts"]
    assert done("verify")["clean"]


def test_an_exported_receipt_verifies_elsewhere_and_an_altered_one_does_not(
    chunked: Outcome, done: Stemma, stemma: Stemma, tmp_path: Path
) -> None:
    exported, key = tmp_path / "receipt.json", tmp_path / "studio.pem"
    assert done("receipt", "export", "knowledge/chunks", "--output", exported)["size"] == exported.stat().st_size
    key.write_text(stemma("keys", "public").out)
    verified = elsewhere(tmp_path, "receipt", "verify", exported, "--key", key, "--json")
    assert verified.returncode == 0, verified.stderr
    told = json.loads(verified.stdout)
    assert told["verified"] and told["receipt"]["asset"] == "knowledge/chunks"
    assert not (tmp_path / "none").exists()
    assert "knowledge/chunks[notes] was made by run" in stemma("receipt", "verify", exported, "--key", key).out
    data = bytearray(exported.read_bytes())
    data[200] ^= 1
    exported.write_bytes(data)
    refused = stemma("receipt", "verify", exported, "--key", key)
    assert refused.code in (2, 6) and refused.out == "" and len(refused.err.splitlines()) == 1


def test_mistakes_are_one_line(settings: Settings, database: Database, stemma: Stemma, tmp_path: Path) -> None:
    (tmp_path / "note.txt").write_text("hello")
    for arguments, code, word in (
        (("show", "knowledge/nothing"), 3, "receipt_not_found"),
        (("show", "00000000-0000-0000-0000-000000000000"), 3, "receipt_not_found"),
        (("export", "knowledge/chunks", "--output", tmp_path / "r"), 3, "receipt_not_found"),
        (("verify", tmp_path / "none", "--key", tmp_path / "note.txt"), 3, "file_not_found"),
        (("verify", tmp_path, "--key", tmp_path / "note.txt"), 5, "file_unreadable"),
        (("verify", tmp_path / "note.txt", "--key", tmp_path / "note.txt"), 2, "public_key_unreadable"),
    ):
        ended = stemma("receipt", *arguments)
        assert (ended.code, ended.out, len(ended.err.splitlines())) == (code, "", 1), ended
        assert word in ended.err
    ended = stemma("keys", "public")
    assert ended.code == 3 and "no_public_key" in ended.err


def test_an_export_that_cannot_be_written_leaves_nothing(chunked: Outcome, stemma: Stemma, tmp_path: Path) -> None:
    ended = stemma("receipt", "export", "knowledge/chunks", "--output", tmp_path / "missing" / "r.json")
    assert ended.code == 5 and "storage_not_writable" in ended.err
    (tmp_path / "folder").mkdir()
    assert stemma("receipt", "export", "knowledge/chunks", "--output", tmp_path / "folder").code == 5
    assert not list(tmp_path.glob(".*.part"))


def test_verify_names_a_materialization_without_a_receipt(
    settings: Settings, database: Database, stemma: Stemma, done: Stemma
) -> None:
    @dg.asset(key=["foreign", "thing"])
    def foreign() -> None:
        """An asset that bypasses `@product`."""

    with open_instance(settings, database.urls) as instance:
        run = dg.materialize([foreign], instance=instance).run_id
    assert done("verify")["clean"]
    with connect(database.urls.dagster) as connection:
        connection.execute("UPDATE event_logs SET timestamp = timestamp - interval '2 minutes'")
    told = stemma("verify", "--json")
    (finding,) = told.document["findings"]
    assert told.code == 6 and finding["code"] == "receipt_missing"
    assert "foreign/thing" in finding["message"] and run in finding["message"]
    shown = stemma("verify")
    assert "The ledger is whole, but" in shown.err and shown.code == 6
    assert stemma("verify", "--chain", "audit").code == 0
