"""Adapters read real servers that speak as Stripe and GitHub do: every page, every fact once, and on from there."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from pydantic import SecretStr

from stemma.access.permissions import Role
from stemma.access.principal import Principal, local_principal
from stemma.errors import Conflict, Forbidden, InvalidInput, NotFound, Unavailable
from stemma.governance.adapters import github, stripe
from stemma.governance.adapters.adapter import Adapter
from stemma.governance.adapters.github import GitHubIssues
from stemma.governance.adapters.stripe import StripeInvoices
from stemma.governance.adapters.syncing import Synced, sync
from stemma.governance.adapters.web import ATTEMPTS, Web
from stemma.governance.events.catalog import list_events
from stemma.governance.events.model import Event
from stemma.governance.samples import publish_samples
from stemma.ledger.service import Ledger
from stemma.store.database import Database
from stemma.store.settings import Settings

START = datetime(2026, 1, 1, tzinfo=UTC)
KEY = "a key of this test"


@dataclass
class Service:
    """A service on loopback. `items` are in the order in which they came; `refusals` are answered first."""

    url: str = ""
    items: list[dict[str, Any]] = field(default_factory=list)
    refusals: list[tuple[int, dict[str, str]]] = field(default_factory=list)
    asked: list[dict[str, str]] = field(default_factory=list)
    pauses: list[float] = field(default_factory=list)
    answer: Callable[[dict[str, str]], Any] = lambda _: None

    def web(self) -> Web:
        """What asks it, without waiting."""
        return Web("It", self.url, {"Authorization": KEY}, setting="KEY", pause=self.pauses.append)


@pytest.fixture
def service() -> Iterator[Service]:
    kept = Service()

    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            split = urlsplit(self.path)
            query = {name: values[-1] for name, values in parse_qs(split.query).items()}
            kept.asked.append({"path": split.path, **query})
            status, headers = kept.refusals.pop(0) if kept.refusals else (200, {})
            if self.headers["Authorization"] != KEY:
                status = 401
            body = json.dumps(kept.answer(query)).encode() if status == 200 else b"{}"
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(body))}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Answer) as server:
        kept.url = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield kept
        server.shutdown()
        thread.join()


@pytest.fixture
def run(settings: Settings, database: Database) -> Iterator[Callable[[Adapter], Synced]]:
    """Sync an adapter into a studio with the samples published."""
    with Ledger(database.urls, settings) as ledger:
        publish_samples(database, ledger, local_principal())
        yield lambda adapter: sync(database, ledger, local_principal(), adapter)


def kept(database: Database) -> list[Event]:
    return list(reversed(database.read(lambda c: list_events(c, limit=200)).data))


# --- Stripe


def invoice(number: int, change: str = "finalized") -> dict[str, Any]:
    said = {
        "id": f"in_{number}", "object": "invoice", "status": "open", "currency": "eur", "amount_due": 100 * number,
        "amount_paid": 0, "attempt_count": 0, "customer": "cus_1", "due_date": None, "customer_email": "a@example.org",
    }  # fmt: skip
    created = int((START + timedelta(minutes=number)).timestamp())
    return {"id": f"evt_{number}", "type": f"invoice.{change}", "created": created, "data": {"object": said}}


@pytest.fixture
def as_stripe(service: Service) -> Service:
    """Lists as https://docs.stripe.com/api/pagination says: the newest first, three to a page."""

    def answer(query: dict[str, str]) -> dict[str, Any]:
        newest = service.items[::-1]
        names = [item["id"] for item in newest]
        if "ending_before" in query:
            newer = newest[: names.index(query["ending_before"])]
            return {"object": "list", "data": newer[-3:], "has_more": len(newer) > 3}
        rest = newest[names.index(query["starting_after"]) + 1 :] if "starting_after" in query else newest
        return {"object": "list", "data": rest[:3], "has_more": len(rest) > 3}

    service.answer = answer
    return service


def test_invoices_are_read_whole_once_and_on(database: Database, as_stripe: Service, run: Any) -> None:
    as_stripe.items += [invoice(number) for number in range(1, 8)]
    with as_stripe.web() as web:
        adapter = StripeInvoices(web)
        assert run(adapter) == Synced("stripe/invoices", 7, 7, "evt_7")
        assert run(adapter) == Synced("stripe/invoices", 0, 0, "evt_7")
        as_stripe.items += [invoice(number, "paid") for number in range(8, 13)]
        assert run(adapter) == Synced("stripe/invoices", 5, 5, "evt_12")
        # It forgot the event of the cursor, and tells all that it knows again.
        del as_stripe.items[:11]
        as_stripe.items.append(invoice(13, "voided"))
        as_stripe.refusals.append((404, {}))
        assert run(adapter) == Synced("stripe/invoices", 2, 1, "evt_13")
    events = kept(database)
    assert [event.data["invoice"] for event in events] == [f"in_{number}" for number in range(1, 14)]
    assert events[0].data == {
        "invoice": "in_1", "change": "finalized", "status": "open", "currency": "eur", "amount_due": 100,
        "amount_paid": 0, "attempts": 0,
    }  # fmt: skip
    assert (events[0].entity, events[0].correlation_id) == ("stripe/cus_1", "stripe/in_1")
    assert events[0].occurred_at == START + timedelta(minutes=1)


def test_a_service_without_anything_changes_nothing(as_stripe: Service, run: Any) -> None:
    with as_stripe.web() as web:
        assert run(StripeInvoices(web)) == Synced("stripe/invoices", 0, 0, None)
        for nonsense in ([], {"data": [{}], "has_more": False}, {"data": None}):
            as_stripe.answer = lambda _, said=nonsense: said
            with pytest.raises(Unavailable):
                run(StripeInvoices(web))


# --- GitHub


def issue(number: int, *, changed: int, closed: bool = False, **more: Any) -> dict[str, Any]:
    def at(minute: int) -> str:
        return (START + timedelta(minutes=minute)).isoformat().replace("+00:00", "Z")

    return {
        "id": 1000 + number, "number": number, "title": f"It breaks, says ada@example.org ({number})",
        "author_association": "NONE", "created_at": at(number), "updated_at": at(changed),
        "closed_at": at(changed) if closed else None, "state_reason": "completed" if closed else None, **more,
    }  # fmt: skip


@pytest.fixture
def as_github(service: Service, monkeypatch: pytest.MonkeyPatch) -> Service:
    """Lists issues by when they were changed, from a time on, four to a page."""
    monkeypatch.setattr(github, "_PAGE", 4)

    def answer(query: dict[str, str]) -> list[dict[str, Any]]:
        found = sorted(service.items, key=lambda item: (item["updated_at"], item["number"]))
        found = [item for item in found if item["updated_at"] >= query.get("since", "")]
        begin = 4 * (int(query["page"]) - 1)
        return found[begin : begin + 4]

    service.answer = answer
    return service


def test_issues_are_read_whole_once_and_on(database: Database, as_github: Service, run: Any) -> None:
    as_github.items += [issue(number, changed=number) for number in range(1, 4)]
    # A bulk edit: more than a page within one second.
    as_github.items += [issue(number, changed=50, closed=True) for number in range(4, 14)]
    as_github.items += [issue(14, changed=60), issue(15, changed=61, pull_request={})]
    with as_github.web() as web:
        adapter = GitHubIssues(web, "ada/engine")
        assert run(adapter).recorded == 3 + 2 * 10 + 1
        assert run(adapter).recorded == 0
        as_github.items[0] = issue(1, changed=70, closed=True, title="Another title")
        as_github.items.append(issue(16, changed=80))
        assert run(adapter).recorded == 2
    events = kept(database)
    assert len(events) == len({event.id for event in events}) == 26
    first, last = events[0], events[-2]
    assert first.data["title"].startswith("It breaks, says") and "ada@" not in first.data["title"]
    assert (last.data["number"], last.data["change"], last.data["reason"]) == (1, "closed", "completed")
    assert (first.entity, first.correlation_id) == ("github/ada/engine", "github/ada/engine/1")
    assert {asked["path"] for asked in as_github.asked} == {"/repos/ada/engine/issues"}


def test_an_issue_that_changes_while_pages_are_read_hides_none(
    database: Database, as_github: Service, run: Any
) -> None:
    as_github.items += [issue(number, changed=number) for number in range(1, 10)]
    answer = as_github.answer

    def meanwhile(query: dict[str, str]) -> Any:
        found = answer(query)
        as_github.items[0] = issue(1, changed=90)
        return found

    as_github.answer = meanwhile
    with as_github.web() as web:
        run(GitHubIssues(web, "ada/engine"))
    assert {event.data["number"] for event in kept(database)} == set(range(1, 10))


# --- both


def test_a_service_that_stumbles_is_asked_again(as_github: Service, run: Any) -> None:
    as_github.items.append(issue(1, changed=1))
    as_github.refusals += [(500, {}), (429, {"Retry-After": "7"}), (502, {}), (403, {
        "x-ratelimit-remaining": "0", "x-ratelimit-reset": str(int(time.time()) + 30),
    })]  # fmt: skip
    with as_github.web() as web:
        assert run(GitHubIssues(web, "ada/engine")).recorded == 1
    first, second, third, fourth = as_github.pauses
    assert 0.5 <= first <= 1 and second == 7 and 2 <= third <= 4 and 1 <= fourth <= 30


@pytest.mark.parametrize(
    ("refusals", "error", "said"),
    [
        ([(503, {})] * ATTEMPTS, Unavailable, "status 503"),
        ([(429, {"Retry-After": "3600"})], Unavailable, "3,600 seconds"),
        ([(401, {})], Forbidden, "KEY"),
        ([(403, {})], Forbidden, "KEY"),
        ([(404, {})], NotFound, "nothing there"),
        ([(422, {})], InvalidInput, "status 422"),
        ([(302, {"Location": "http://127.0.0.1:1/"})], InvalidInput, "status 302"),
    ],
)
def test_a_service_that_refuses_is_told_of(
    as_github: Service, refusals: Any, error: type[Exception], said: str
) -> None:
    as_github.refusals += refusals
    with as_github.web() as web, pytest.raises(error, match=said):
        list(GitHubIssues(web, "ada/engine").read(None))


def test_what_cannot_be_asked_is_not() -> None:
    with Web("It", "http://127.0.0.1:1", {}, setting="KEY", pause=lambda _: None) as web:
        with pytest.raises(Unavailable, match="no connection"):
            web.get("/", [])
        for repository in ("ada", "ada/..", "ada/engine/x", "ada/en gine", ""):
            with pytest.raises(InvalidInput):
                GitHubIssues(web, repository)
    for url in ("http://api.example.org", "ftp://127.0.0.1", "https://a:b", ""):
        with pytest.raises(InvalidInput):
            Web("It", url, {}, setting="KEY")


def test_keys_come_from_the_settings(service: Service) -> None:
    with pytest.raises(InvalidInput, match="STEMMA_STRIPE_KEY"):
        stripe.open_stripe(Settings(stripe_key=None))
    service.answer = lambda _: {"data": [], "has_more": False}
    settings = Settings(stripe_key=SecretStr("sk_test"), stripe_url=service.url, github_url=service.url)
    for opened in (stripe.open_stripe(settings), github.open_github(settings)):
        with opened as web, pytest.raises(Forbidden):
            web.get("/", [])
    assert "sk_test" not in repr(settings)


def test_two_who_read_the_same_source_do_not_mix(
    settings: Settings, database: Database, as_stripe: Service, run: Any
) -> None:
    as_stripe.items += [invoice(number) for number in range(1, 3)]
    with as_stripe.web() as web, Ledger(database.urls, settings) as ledger:
        adapter = StripeInvoices(web)
        run(adapter)
        as_stripe.items += [invoice(number) for number in range(3, 9)]
        seen: list[Synced] = []

        def other(synced: Synced) -> None:
            if not seen:
                seen.append(run(adapter))

        with pytest.raises(Conflict, match="at the same time"):
            sync(database, ledger, local_principal(), adapter, report=other)
    assert len(kept(database)) == 8
    viewer = Principal("key:x", Role.VIEWER, frozenset({"decide:*"}))
    with as_stripe.web() as web, Ledger(database.urls, settings) as ledger, pytest.raises(Forbidden):
        sync(database, ledger, viewer, StripeInvoices(web))
