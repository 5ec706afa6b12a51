"""Receipts over HTTP: pages and filters, the tree, and the envelope that verifies elsewhere."""

from __future__ import annotations

from collections.abc import Callable
from uuid import uuid4

import httpx
import pytest

from stemma.access.keys import IssuedKey
from stemma.ledger.attestation import verify_attestation
from stemma.ledger.keys import public_keys
from stemma.ledger.receipts import Input, Materialization, sync
from stemma.ledger.service import Ledger
from stemma.store.database import Database
from stemma.store.settings import Settings

RECEIPTS = "/api/v1/receipts"

Make = Callable[..., Materialization]


@pytest.fixture
def book(database: Database, settings: Settings, new_materialization: Make) -> Materialization:
    """A book made of two pages; all three have receipts under a head."""
    pages = [new_materialization("book/pages", f"run-{name}", event, partition=name)
             for event, name in enumerate("ab", start=1)]  # fmt: skip
    inputs = tuple(Input(m.asset, m.partition, m.data_version, m.run_id) for m in pages)
    bound = new_materialization("book/bound", "run-book", 3, inputs=inputs)
    with Ledger(database.urls, settings) as ledger:
        sync(database, ledger, [*pages, bound])
    return bound


def test_receipts_are_listed_newest_first_in_pages(book: Materialization, client: httpx.Client) -> None:
    first = client.get(RECEIPTS, params={"limit": 2}).json()
    assert [item["asset"] for item in first["data"]] == ["book/bound", "book/pages"]
    rest = client.get(RECEIPTS, params={"limit": 2, "cursor": first["next_cursor"]}).json()
    assert [item["partition"] for item in rest["data"]] == ["a"] and rest["next_cursor"] is None
    for params, count in (
        ({"asset": "book/pages"}, 2),
        ({"asset": "book/pages", "partition": "b"}, 1),
        ({"run": "run-book"}, 1),
        ({"asset": "book"}, 0),
    ):
        assert len(client.get(RECEIPTS, params=params).json()["data"]) == count


def test_a_receipt_and_its_tree(book: Materialization, client: httpx.Client) -> None:
    receipt = client.get(f"{RECEIPTS}/{book.receipt}").json()
    assert receipt["run_id"] == "run-book" and [i["partition"] for i in receipt["inputs"]] == ["a", "b"]
    tree = client.get(f"{RECEIPTS}/{book.receipt}/tree").json()
    assert tree["receipt"] == receipt
    assert [node["receipt"]["partition"] for node in tree["inputs"]] == ["a", "b"]
    cut = client.get(f"{RECEIPTS}/{book.receipt}/tree", params={"depth": 0}).json()
    assert cut["cut"] and cut["inputs"] == []


def test_the_attestation_verifies_as_it_was_sent(
    book: Materialization, client: httpx.Client, settings: Settings
) -> None:
    response = client.get(f"{RECEIPTS}/{book.receipt}/attestation")
    assert response.status_code == 200
    verified = verify_attestation(response.content, public_keys(settings))
    assert verified.receipt.id == book.receipt


@pytest.mark.parametrize("path", ["", "/tree", "/attestation"])
def test_an_unknown_receipt_is_not_found_and_no_id_is_refused(client: httpx.Client, path: str) -> None:
    missing = client.get(f"{RECEIPTS}/{uuid4()}{path}")
    assert (missing.status_code, missing.json()["code"]) == (404, "receipt_not_found")
    assert client.get(f"{RECEIPTS}/book{path}").status_code == 422


def test_a_cursor_of_another_list_is_refused(client: httpx.Client) -> None:
    response = client.get(RECEIPTS, params={"cursor": "W10"})
    assert (response.status_code, response.json()["code"]) == (422, "cursor_invalid")


def test_who_may_not_read_the_ledger_is_refused(client: httpx.Client, settings: Settings, database: Database,
                                                issue_key: Callable[..., IssuedKey]) -> None:  # fmt: skip
    key = issue_key(settings, database.urls, scopes=["search:*"]).key
    for path in ("", f"/{uuid4()}", f"/{uuid4()}/tree", f"/{uuid4()}/attestation"):
        refused = client.get(f"{RECEIPTS}{path}", headers={"Authorization": f"Bearer {key}"})
        assert (refused.status_code, refused.json()["code"]) == (403, "scope_missing")
