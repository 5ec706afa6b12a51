"""The pages of approvals, the Historian, receipts and the ledger, without a browser."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import httpx
import psycopg
import pytest
from fastapi import FastAPI

from api.app import create_app
from api.console import graphs
from api.console.pages import ledger as ledger_page
from api.limits import InFlight
from stemma.access.keys import IssuedKey
from stemma.access.permissions import Role
from stemma.access.principal import Principal
from stemma.approvals.model import Approval
from stemma.approvals.requests import Proposal, request
from stemma.ledger.journal import transition
from stemma.ledger.receipts import Input, sync
from stemma.ledger.service import Ledger
from stemma.store.database import Database, DatabaseUrls
from stemma.store.outputs import Artifact
from stemma.store.settings import Settings

HTML = {"Accept": "text/html"}
BUILDER = Principal("key:builder", Role.BUILDER, frozenset({"approvals:*"}))


@dataclass
class Desk:
    """A client that bears a key which may do everything and asks for pages, and what it looks at."""

    app: FastAPI
    client: httpx.Client
    settings: Settings
    database: Database
    owner: IssuedKey
    viewer: IssuedKey

    def ask(self, who: Principal = BUILDER, **fields: Any) -> Approval:
        """A pending approval."""
        proposal = Proposal("policy", f"policy/{uuid4().hex[:8]}", b"limit: 3", "It is <b>agreed</b>.", **fields)
        change = self.database.read(lambda connection: request(connection, who, proposal))
        with Ledger(self.database.urls, self.settings) as ledger:
            return ledger.commit(change).result(20)

    def post(self, address: str, **fields: str) -> httpx.Response:
        """Send a form; what the answer left for the next page is forgotten."""
        answer = self.client.post(address, data=fields)
        self.client.cookies.clear()
        return answer

    def as_viewer(self, address: str) -> httpx.Response:
        """The page that a Viewer sees."""
        return self.client.get(address, headers={"Authorization": f"Bearer {self.viewer.key}"})


@pytest.fixture(scope="module")
def desk(
    tmp_path_factory: pytest.TempPathFactory,
    new_database: Callable[[], DatabaseUrls],
    drop_database: Callable[[DatabaseUrls], None],
    serve: Callable[..., AbstractContextManager[httpx.Client]],
    issue_key: Callable[..., IssuedKey],
    new_materialization: Callable[..., Any],
) -> Iterator[Desk]:
    urls = new_database()
    settings = Settings(home=tmp_path_factory.mktemp("records"))
    with Database(urls) as database:
        owner, viewer = issue_key(settings, urls), issue_key(settings, urls, role=Role.VIEWER)
        read = (Artifact("inbox/<a>.md", "text/markdown", "6f" * 32, 12),)
        made = [new_materialization("tests/pages", "run-1", n, partition=f"p{n}", sources=read) for n in range(3)]
        inputs = tuple(Input("tests/pages", f"p{n}", "v1", "run-1") for n in range(3))
        lost = Input("tests/lost", None, "v0", "run-0")
        made.append(new_materialization("tests/index", "run-1", 4, inputs=(*inputs, lost)))
        with Ledger(urls, settings) as ledger:
            sync(database, ledger, made)
            entries = [
                transition("run.failed", subject=f"run/{n}", actor="dagster", data={"reason": f"It <broke> {n} times."})
                for n in range(60)
            ]
            ledger.append(entries).result(20)
        app = create_app(settings, database=database)
        with serve(app, key=owner.key) as client:
            client.headers.update(HTML)
            yield Desk(app, client, settings, database, owner, viewer)
    drop_database(urls)


# Approvals


def test_an_approval_is_decided_as_it_was_seen(desk: Desk) -> None:
    approval = desk.ask(diff="-limit: 2\n+limit: 3")
    assert approval.subject in desk.client.get("/approvals").text
    page = desk.client.get(f"/approvals/{approval.id}").text
    assert "It is &lt;b&gt;agreed&lt;/b&gt;." in page and '<span class="added">+limit: 3</span>' in page
    (asking,) = re.findall(r'href="(/approvals/[^"]+/approve\?seen=\w+)"', page)
    form = desk.client.get(asking).text
    (etag,) = re.findall(r'name="if_match" value="(\w+)"', form)
    assert etag == approval.etag
    done = desk.post(f"/approvals/{approval.id}/approve", if_match=etag, reason="Agreed.")
    assert (done.status_code, done.headers["Location"]) == (303, f"/approvals/{approval.id}")
    after = desk.client.get(f"/approvals/{approval.id}").text
    assert "Agreed." in after and "approval.approved" in after and "Approve…" not in after
    assert approval.subject in desk.client.get("/approvals?state=approved").text
    assert approval.subject not in desk.client.get("/approvals?state=denied").text


@pytest.mark.parametrize("step", ["approve", "deny", "withdraw"])
def test_what_changed_meanwhile_is_said_and_nothing_is_done(desk: Desk, step: str) -> None:
    approval = desk.ask(approvals_needed=2)
    other = desk.client.post(
        f"/api/v1/approvals/{approval.id}/approve", json={}, headers={"If-Match": f'"{approval.etag}"'}
    )
    assert other.status_code == 200
    for answer in (
        desk.post(f"/approvals/{approval.id}/{step}", if_match=approval.etag, reason="Late."),
        desk.post(f"/approvals/{approval.id}/{step}", reason="Blind."),
        desk.client.get(f"/approvals/{approval.id}/{step}?seen={approval.etag}"),
        desk.client.get(f"/approvals/{approval.id}/{step}"),
    ):
        assert answer.status_code in (409, 412)
        assert "It has changed" in answer.text and "Look at it again" in answer.text
    assert desk.client.get(f"/api/v1/approvals/{approval.id}").json()["version"] == 2


def test_a_denial_takes_a_reason(desk: Desk) -> None:
    approval = desk.ask()
    refused = desk.post(f"/approvals/{approval.id}/deny", if_match=approval.etag, reason=" ")
    assert refused.status_code == 422 and "Say why, in a sentence." in refused.text
    denied = desk.post(f"/approvals/{approval.id}/deny", if_match=approval.etag, reason="Too early.")
    assert denied.status_code == 303
    assert desk.post(f"/approvals/{approval.id}/deny", if_match=approval.etag, reason="x").status_code == 409


def test_the_second_person_is_explained_and_the_request_can_be_withdrawn(desk: Desk) -> None:
    me = Principal(f"key:{desk.owner.api_key.id}", Role.OWNER, frozenset({"approvals:*"}))
    approval = desk.ask(me, second_person=True)
    page = desk.client.get(f"/approvals/{approval.id}").text
    assert "Who asked for this approval may not decide it." in page and "Approve…" not in page
    refused = desk.post(f"/approvals/{approval.id}/approve", if_match=approval.etag)
    assert refused.status_code == 403 and "second_person_needed" in refused.text
    withdrawn = desk.post(f"/approvals/{approval.id}/withdraw", if_match=approval.etag)
    assert withdrawn.status_code == 303
    assert "withdrawn" in desk.client.get(f"/approvals/{approval.id}").text


def test_a_viewer_sees_no_way_to_decide_and_has_none(desk: Desk) -> None:
    approval = desk.ask()
    page = desk.as_viewer(f"/approvals/{approval.id}")
    assert page.status_code == 200 and "Approve…" not in page.text and "Withdraw the request" not in page.text
    assert desk.as_viewer(f"/approvals/{approval.id}/approve?seen={approval.etag}").status_code == 403
    assert desk.client.get(f"/approvals/{uuid4()}").status_code == 404


# The Historian


def test_the_historian_is_filtered_and_paged_by_its_address(desk: Desk) -> None:
    page = desk.client.get("/historian", params={"kind": "run.", "limit": 40}).text
    assert "It &lt;broke&gt; 59 times." in page and "<broke>" not in page
    assert 'hx-sse:connect="/api/v1/historian/stream?kind=run."' in page
    (following,) = re.findall(r'rel="next" href="([^"]+)"', page)
    second = desk.client.get(following.replace("&amp;", "&")).text
    assert "&lt;broke&gt; 19 times" in second and "&lt;broke&gt; 20 times" not in second
    assert "hx-sse:connect" not in second
    assert "run/7<" in desk.client.get("/historian?subject=run/7").text
    assert "Nothing fits" in desk.client.get("/historian?until=2001-01-01T00:00").text


@pytest.mark.parametrize(
    ("query", "field"), [("kind=Key%20created", "kind"), ("since=yesterday", "since"), ("actor=%1b", "actor")]
)
def test_a_filter_that_is_none_is_named_beside_its_field(desk: Desk, query: str, field: str) -> None:
    page = desk.client.get(f"/historian?{query}")
    assert page.status_code == 422
    assert f'id="wrong-{field}"' in page.text
    assert desk.client.get("/historian?cursor=nonsense").status_code == 422


# Receipts


def test_descent_is_a_tree_and_a_graph(desk: Desk) -> None:
    listed = desk.client.get("/receipts").text
    assert "tests/index" in listed and "3 partitions" in listed
    page = desk.client.get("/receipts/tests/index").text
    assert page.count('<g class="node') == 4 and page.count('class="edge"') == 3
    assert "had no receipt then" in page and "inbox/&lt;a&gt;.md" in page
    (entry,) = set(re.findall(r'href="(/ledger/receipts/\d+)"', page))
    assert "tests/index" in desk.client.get(entry).text
    (export,) = re.findall(r'href="(/api/v1/receipts/[^"]+/attestation)"', page)
    assert "payload" in desk.client.get(export).json()
    partition = desk.client.get("/receipts/tests/pages?partition=p1").text
    assert "<h1>tests/pages[p1]</h1>" in partition and partition.count('href="/receipts/tests/pages?partition=p') == 3


def test_what_has_no_receipt_is_not_found(desk: Desk) -> None:
    receipt = desk.client.get("/api/v1/receipts?asset=tests/index").json()["data"][0]["id"]
    for address in ("tests/none", "tests/pages?partition=p9", f"tests/pages?receipt={receipt}", f"x?receipt={uuid4()}"):
        page = desk.client.get(f"/receipts/{address}")
        assert page.status_code == 404 and "There is no receipt" in page.text
    assert "No receipt of this run" in desk.client.get("/receipts?run=none").text


def test_a_graph_has_each_node_below_what_it_comes_from() -> None:
    nodes = tuple(graphs.Node(name, f"<{name}>", "") for name in "abcd")
    drawn = graphs.draw(graphs.Graph(nodes, (("a", "b"), ("b", "d"), ("a", "d"), ("c", "d"))), title='"<')
    tops = dict(re.findall(r"<title>&lt;(\w)&gt;</title><rect x=\"\d+\" y=\"(\d+)\"", drawn))
    assert int(tops["a"]) == int(tops["c"]) < int(tops["b"]) < int(tops["d"])
    assert drawn.count('class="edge"') == 4 and "<a>" not in drawn


# The ledger


def test_the_ledger_shows_its_chains_and_the_proof_of_an_entry(desk: Desk) -> None:
    page = desk.client.get("/ledger").text
    for chain in ("audit", "historian", "receipts"):
        assert f'href="/ledger/{chain}"' in page
    listed = desk.client.get("/ledger/historian?limit=10").text
    (following,) = re.findall(r'rel="next" href="([^"]+)"', listed)
    assert "/ledger/historian/" in desk.client.get(following.replace("&amp;", "&")).text
    entry = desk.client.get("/ledger/receipts/2").text
    assert "the signed root" in entry
    proof = desk.client.get(re.findall(r'href="(/api/v1/ledger/entries/[^"]+/proof)"', entry)[0]).json()
    assert proof["entry"]["entry_hash"] in entry
    (tree,) = [tree for tree in proof["head"]["head"]["chains"] if tree["chain"] == "receipts"]
    for sibling in proof["path"]:
        assert f'title="{sibling}"' in entry
    assert f'title="{tree["root"]}"' in entry


def test_what_the_ledger_has_not_is_not_found_and_audit_is_for_admins(desk: Desk) -> None:
    for address in ("none", "none/1", "receipts/999", "receipts/0", "receipts/x"):
        assert desk.client.get(f"/ledger/{address}").status_code in (404, 422)
    shown = desk.as_viewer("/ledger").text
    assert 'href="/ledger/audit"' not in shown and "Verify now" not in shown
    for address in ("audit", "audit/1"):
        assert desk.as_viewer(f"/ledger/{address}").status_code == 403


def test_verifying_says_what_was_read(desk: Desk) -> None:
    page = desk.post("/ledger/verify")
    assert page.status_code == 200 and "Nothing was tampered with" in page.text
    assert "the chain receipts" in desk.post("/ledger/verify", chain="receipts").text
    assert desk.post("/ledger/verify", chain="none").status_code == 404


def test_verifying_is_done_by_one_at_a_time_and_ends(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    in_flight: InFlight = desk.app.state.in_flight
    with in_flight.slot(1, "verification"):
        page = desk.post("/ledger/verify")
    assert page.status_code == 409 and "Somebody is verifying the ledger right now." in page.text
    monkeypatch.setattr(ledger_page, "_VERIFY_SECONDS", -1.0)
    page = desk.post("/ledger/verify")
    assert page.status_code == 503 and "stemma verify" in page.text


def test_tampering_is_named(desk: Desk) -> None:
    """The last test: the ledger is not whole after it."""
    with psycopg.connect(desk.database.urls.owner) as connection:
        connection.execute("ALTER TABLE ledger DISABLE TRIGGER USER")
        connection.execute(
            "UPDATE ledger SET body = replace(convert_from(body, 'UTF8'), 'broke', 'broXe')::bytea"
            " WHERE chain = 'historian' AND subject = 'run/5'"
        )
        connection.execute("ALTER TABLE ledger ENABLE TRIGGER USER")
    page = desk.post("/ledger/verify").text
    assert "The ledger is not what was signed" in page and "body_edited" in page
