"""The ledger over HTTP: what it answers is enough to check an entry without it."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import psycopg
import pytest
import rfc8785
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from api.app import create_app
from stemma.access.permissions import Role
from stemma.knowledge import sources
from stemma.knowledge.embedding import Embedder, sync_embeddings
from stemma.knowledge.generations import build_generation
from stemma.ledger.entries import Entry, NewEntry
from stemma.ledger.heads import parse_head
from stemma.ledger.keys import public_keys
from stemma.ledger.writer import LedgerWriter
from stemma.store.database import Database
from stemma.store.settings import Settings

LEDGER = "/api/v1/ledger"


@pytest.fixture
def append(database: Database) -> Iterator[Callable[..., Entry]]:
    """Append one entry, as another process would."""
    with LedgerWriter(database.urls.app) as writer:

        def one(chain: str = "decisions:x", **data: Any) -> Entry:
            (entry,) = writer.append([NewEntry(chain, "decision", "user:ada", "invoice/1", data)]).result(20)
            return entry

        yield one


@pytest.fixture
def proved(client: httpx.Client, wait_until: Callable[..., None]) -> Callable[[Entry], dict[str, Any]]:
    """The proof of an entry, as soon as a head covers it."""

    def wait(entry: Entry) -> dict[str, Any]:
        answers: list[httpx.Response] = []

        def covered() -> bool:
            answers.append(client.get(f"{LEDGER}/entries/{entry.id}/proof"))
            if answers[-1].status_code != 200:
                assert (answers[-1].status_code, answers[-1].json()["code"]) == (503, "head_pending")
                assert answers[-1].headers["retry-after"] == "1"
            return answers[-1].status_code == 200

        wait_until(covered)
        return dict(answers[-1].json())

    return wait


def check(proof: dict[str, Any], key: Ed25519PublicKey) -> None:
    """The program of docs/SECURITY.md, which knows nothing of ours; raises where something does not fit."""
    text = Path(__file__).parents[2].joinpath("docs", "SECURITY.md").read_text()
    program = text.split("```python\n")[1].split("```")[0]
    exec(compile(program, "SECURITY.md", "exec"), {"proof": proof, "key": key})


def test_a_proof_is_checked_without_the_studio(
    client: httpx.Client, append: Callable[..., Entry], proved: Callable[[Entry], dict[str, Any]]
) -> None:
    entries = [append(number=number, text="é") for number in range(5)]
    for entry in entries:
        proof = proved(entry)
        assert client.get(f"{LEDGER}/entries/{entry.id}").json() == proof["entry"]
        assert json.loads(proof["entry"]["body"])["data"] == entry.data
        check(proof, Ed25519PublicKey.from_public_bytes(base64.b64decode(proof["public_key"])))


@pytest.mark.parametrize("where", ["body", "seq", "prev_hash", "path", "root", "signature"])
def test_a_proof_that_was_changed_does_not_check(
    append: Callable[..., Entry], proved: Callable[[Entry], dict[str, Any]], where: str
) -> None:
    for number in range(3):
        entry = append(number=number)
    proof = proved(entry)
    key = Ed25519PublicKey.from_public_bytes(base64.b64decode(proof["public_key"]))
    check(proof, key)
    other = hashlib.sha256(b"other").hexdigest()
    match where:
        case "body":
            proof["entry"]["body"] = proof["entry"]["body"].replace("user:ada", "user:bob")
        case "seq":
            proof["entry"]["seq"] -= 1
        case "prev_hash":
            proof["entry"]["prev_hash"] = other
        case "path":
            proof["path"][0] = other
        case "root":
            for tree in proof["head"]["head"]["chains"]:
                tree["root"] = other
        case "signature":
            proof["head"]["signature"] = base64.b64encode(bytes(64)).decode()
    with pytest.raises((AssertionError, InvalidSignature)):
        check(proof, key)


def test_the_newest_head_is_one_that_can_be_kept(
    client: httpx.Client, append: Callable[..., Entry], proved: Callable[[Entry], dict[str, Any]], settings: Settings
) -> None:
    proved(append())
    answer = client.get(f"{LEDGER}/head")
    kept = parse_head(answer.content)
    assert kept.is_by(public_keys(settings))
    assert kept.head.signed_bytes == rfc8785.dumps(answer.json()["head"])
    tree = kept.head.of("decisions:x")
    chains = {row["chain"]: row for row in client.get(f"{LEDGER}/chains").json()["data"]}
    assert tree is not None
    assert chains["decisions:x"] == {"chain": "decisions:x", "entries": 1, "signed": 1, "root": tree.root.hex()}
    assert list(chains) == sorted(chains)


def test_what_does_not_exist_is_not_found(client: httpx.Client) -> None:
    for address in (f"{LEDGER}/entries/{uuid4()}", f"{LEDGER}/entries/{uuid4()}/proof"):
        answer = client.get(address)
        assert (answer.status_code, answer.json()["code"]) == (404, "entry_not_found")
    for address in (f"{LEDGER}/entries/1", f"{LEDGER}/entries/x/proof"):
        assert client.get(address).status_code == 422


def test_entries_of_the_audit_chain_take_another_permission(
    client: httpx.Client,
    append: Callable[..., Entry],
    proved: Callable[[Entry], dict[str, Any]],
    issue_key: Callable[..., Any],
    settings: Settings,
    database: Database,
) -> None:
    audit, decision = append("audit"), append()
    proved(audit)
    for role, scopes, status in (
        (Role.VIEWER, ["ledger:*", "admin:*"], 403),
        (Role.ADMIN, ["ledger:*"], 403),
        (Role.ADMIN, ["ledger:*", "admin:audit"], 200),
    ):
        headers = {"Authorization": f"Bearer {issue_key(settings, database.urls, role=role, scopes=scopes).key}"}
        for address in (f"{LEDGER}/entries/{audit.id}", f"{LEDGER}/entries/{audit.id}/proof"):
            assert client.get(address, headers=headers).status_code == status
        assert client.get(f"{LEDGER}/entries/{decision.id}", headers=headers).status_code == 200


def test_appends_go_on_and_it_stays_ready_when_no_head_can_be_written(
    settings: Settings,
    database: Database,
    equip: Callable[[Settings], Embedder],
    serve: Any,
    tmp_path: Path,
    wait_until: Callable[..., None],
) -> None:
    embedder = equip(settings)
    with database.transaction() as connection:
        sources.ensure_builtin(connection, settings)
    sync_embeddings(database, sources.INBOX_NAME, embedder)
    build_generation(database, settings, embedder)
    full = tmp_path / "heads"
    full.write_text("a file where the folder should be")
    at_full = settings.model_copy(update={"ledger_heads_url": str(full)})
    with serve(create_app(at_full, database=database)) as client:
        wait_until(lambda: client.get("/readyz").json()["checks"]["ledger_heads"]["status"] == "failed")
        answer = client.get("/readyz")
        assert (answer.status_code, answer.json()["status"]) == (200, "ready")
        check = answer.json()["checks"]["ledger_heads"]
        assert check["required"] is False and "storage_not_writable" in check["detail"]
        (entry,) = client.get("/api/v1/historian", params={"limit": 1}).json()["data"]
        assert entry["kind"] == "key.created"
        assert client.get(f"{LEDGER}/head").json()["code"] == "head_missing"
        full.unlink()
        wait_until(lambda: client.get("/readyz").json()["checks"]["ledger_heads"]["status"] == "ok")


def test_what_contradicts_the_head_is_not_proved(
    client: httpx.Client, append: Callable[..., Entry], proved: Callable[[Entry], dict[str, Any]], database: Database
) -> None:
    first, second = append(), append()
    proved(second)
    with psycopg.connect(database.urls.owner) as connection:
        connection.execute("ALTER TABLE ledger DISABLE TRIGGER ALL")
        connection.execute("UPDATE ledger SET entry_hash = %s WHERE id = %s", (bytes(32), second.id))
    answer = client.get(f"{LEDGER}/entries/{first.id}/proof")
    assert (answer.status_code, answer.json()["code"]) == (500, "ledger_contradicts_head")
