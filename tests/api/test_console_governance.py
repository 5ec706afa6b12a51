"""The pages of decisions, events, policies, learning, replay and switches, without a browser."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from html import unescape
from typing import Any
from uuid import uuid4

import httpx
import pytest

from api.app import create_app
from stemma.access.keys import IssuedKey
from stemma.access.permissions import Role
from stemma.access.principal import local_principal
from stemma.governance.samples import publish_samples
from stemma.ledger.service import Ledger
from stemma.store.database import Database, DatabaseUrls
from stemma.store.settings import REPOSITORY, Settings

HTML = {"Accept": "text/html"}
USUAL = {"discount": 0.1, "amount": 400, "segment": "Consumer", "category": "Paper"}
_LEAVE = REPOSITORY / "samples" / "policies" / "hr" / "leave.yaml"
POLICY = _LEAVE.read_text("utf-8")
TESTS = _LEAVE.with_suffix(".tests.yaml").read_text("utf-8")


@dataclass
class Desk:
    """A client that bears a key which may do everything and asks for pages, and keys of other roles."""

    client: httpx.Client
    keys: dict[Role, str]
    database: Database

    def get(self, address: str, role: Role | None = None, **query: Any) -> httpx.Response:
        """A page, as somebody in this role sees it."""
        return self.client.get(address, params=query or None, headers=self._as(role))

    def post(self, address: str, role: Role | None = None, **fields: str) -> httpx.Response:
        """Send a form; what the answer left for the next page is forgotten."""
        answer = self.client.post(address, data=fields, headers=self._as(role))
        self.client.cookies.clear()
        return answer

    def decide(self, **said: Any) -> dict[str, Any]:
        """A decision about a discount, over HTTP."""
        event = {"type": "DiscountRequested", "data": USUAL | said, "entity": "<b>CG</b>"}
        answer = self.client.post("/api/v1/decisions/finance", json={"event": event})
        assert answer.status_code == 201, answer.text
        decided: dict[str, Any] = answer.json()
        return decided

    def _as(self, role: Role | None) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.keys[role]}"} if role else {}


@pytest.fixture(scope="module")
def desk(
    tmp_path_factory: pytest.TempPathFactory,
    new_database: Callable[[], DatabaseUrls],
    drop_database: Callable[[DatabaseUrls], None],
    serve: Callable[..., AbstractContextManager[httpx.Client]],
    issue_key: Callable[..., IssuedKey],
) -> Iterator[Desk]:
    urls = new_database()
    settings = Settings(home=tmp_path_factory.mktemp("governance"))
    with Database(urls) as database:
        with Ledger(urls, settings) as ledger:
            publish_samples(database, ledger, local_principal())
        keys = {role: issue_key(settings, urls, role=role).key for role in (Role.BUILDER, Role.REVIEWER, Role.VIEWER)}
        with serve(create_app(settings, database=database)) as client:
            client.headers.update(HTML)
            opened = Desk(client, keys, database)
            # The baseline decides, so that each test knows what is said.
            opened.post("/switches", node="finance", flag="learning", value="false", reason="Nothing is drawn here.")
            yield opened
    drop_database(urls)


@pytest.mark.parametrize(
    ("page", "hint"),
    [
        ("/decisions", "Nothing was decided yet"),
        ("/decisions/review", "Nothing waits"),
        ("/events", "Nothing was told yet"),
        ("/policies", "No policy is published yet"),
        ("/learning", "No node tries variants"),
        ("/learning/savings", "No node tries variants"),
        ("/learning/days", "No node tries variants"),
        ("/replay?again=true", "Nothing was decided yet"),
        ("/replay/shadow", "Nothing runs in the shadow"),
        ("/switches", "There is no node yet"),
    ],
)
def test_an_empty_studio_says_what_to_do(visitor: httpx.Client, page: str, hint: str) -> None:
    answer = visitor.get(page, headers=HTML)
    assert answer.status_code == 200 and hint in answer.text


# Policies


def test_a_policy_tells_its_rules_and_who_may_change_them(desk: Desk) -> None:
    page = desk.get("/policies/finance.discounts", Role.VIEWER).text
    assert "More than half of this customer&#39;s orders lost money." in page
    assert "Owner and Admin may publish a higher one" in page and "Write the next version" not in page
    assert "Write the next version" in desk.get("/policies/finance.discounts").text
    assert desk.get("/policies/finance.discounts@9").status_code == 404
    assert desk.get("/policies/Not+A+Name").status_code == 422
    assert desk.get("/policies/finance.discounts/diff", against="hr.leave").text.count("<ins>") > 3


def test_the_editor_says_what_is_wrong_beside_the_text(desk: Desk) -> None:
    wrong = POLICY.replace("days > days_left", "days > </textarea>").replace("\n", "\r\n")
    page = desk.post("/policies/-/check", policy=wrong, tests=TESTS)
    assert page.status_code == 200
    assert "Policy, line 64, column 15" in page.text and "bundles[0].rules[2].when" in page.text
    assert page.text.count("days &gt; &lt;/textarea&gt;") == 2 and "</textarea>\n\n" not in page.text
    right = desk.post("/policies/-/check", policy=POLICY, tests=TESTS).text
    assert "nothing is wrong" in right and right.count(">passed<") == 11
    failing = desk.post(
        "/policies/-/check", policy=POLICY.replace("notice_per_day: 2", "notice_per_day: 0"), tests=TESTS
    )
    assert "golden cases fail" in failing.text


@pytest.mark.parametrize("text", ["", "a: [", "a: \0", "x" * 40_000, "[" * 30, "- &a [*a]", "name: \ud83d"])
def test_no_text_breaks_the_editor(desk: Desk, text: str) -> None:
    form = {"policy": text.encode("utf-8", "replace").decode(), "tests": text.encode("utf-8", "replace").decode()}
    page = desk.post("/policies/-/check", **form)
    assert page.status_code == 200 and "thing" in page.text


def test_a_policy_is_compared_simulated_and_published_once(desk: Desk) -> None:
    editor = desk.get("/policies/-/edit", of="hr.leave").text
    policy, tests = (unescape(text) for text in re.findall(r"<textarea[^>]*>\n(.*?)</textarea>", editor, re.DOTALL))
    assert "version: 1.1.0" in policy and "There is no changelog." in editor
    policy = policy.replace('changelog: ""', "changelog: Fewer may be away.").replace(
        "most_away: 0.4", "most_away: 0.3"
    )
    review = desk.post("/policies/-/review", policy=policy, tests=tests)
    assert review.status_code == 200 and "policy › parameters › most_away" in review.text
    assert "<del>0.4</del>" in review.text and "There are no past events" in review.text
    token = re.findall(r'name="once" value="([^"]+)"', review.text)[0]
    form = {"policy": policy, "tests": tests, "once": token}
    first, again = desk.post("/policies", **form), desk.post("/policies", **form)
    assert (first.status_code, first.headers["Location"]) == (303, "/policies/hr.leave@1.1.0")
    assert again.headers["Location"] == first.headers["Location"]
    assert "Fewer may be away." in desk.get("/policies").text
    # Nothing that somebody wrote is lost where it cannot be published.
    taken = desk.post("/policies", policy=policy.replace("most_away: 0.3", "most_away: 0.2"), tests=tests)
    assert taken.status_code == 409 and "most_away: 0.2" in taken.text and "published already" in taken.text
    failing = desk.post(
        "/policies/-/review", policy=policy, tests=tests.replace("verdict: approve", "verdict: deny", 1)
    )
    assert failing.status_code == 422 and "golden cases fail" in failing.text


def test_only_who_may_publishes(desk: Desk) -> None:
    written = POLICY.replace("version: 1.0.0", "version: 7.0.0")
    review = desk.post("/policies/-/review", Role.BUILDER, policy=written, tests=TESTS)
    assert "Your role may not publish" in review.text and "Publish hr.leave@7.0.0</button>" not in review.text
    assert desk.post("/policies", Role.BUILDER, policy=written, tests=TESTS).status_code == 403
    assert desk.get("/policies/-/edit", Role.VIEWER).status_code == 403
    assert desk.get("/policies/hr.leave@7").status_code == 404


# Decisions and events


def test_a_decision_tells_why_and_what_was_known(desk: Desk) -> None:
    decided = desk.decide()
    page = desk.get(f"/decisions/{decided['id']}", Role.VIEWER).text
    assert "The discount is a usual one." in page and "/policies/finance.discounts@1.0.0#margin-usual" in page
    assert "made again: the same verdict" in page and decided["entry_hash"] in page
    assert "&lt;b&gt;CG&lt;/b&gt;" in page and "<b>CG</b>" not in page and "Approve…" not in page
    assert "Owner, Admin and Reviewer may decide it" in page
    event = desk.get(f"/events/{decided['event_id']}").text
    assert decided["id"] in event and "<dd>Consumer</dd>" in event
    listed = desk.get("/decisions", node="finance", state="waiting", verdict="approve", entity="<b>CG</b>").text
    assert decided["id"] in listed and decided["id"] not in desk.get("/decisions", node="hr").text
    for address in (f"/decisions/{uuid4()}", f"/events/{uuid4()}"):
        assert desk.get(address).status_code == 404
    assert desk.get("/decisions", state="gone").status_code == 422
    late = desk.get("/events", since="yesterday")
    assert late.status_code == 422 and 'value="yesterday"' in late.text and "This is no time." in late.text


def test_what_waits_is_settled_once_with_a_reason(desk: Desk) -> None:
    address = f"/decisions/{desk.decide(discount=0.2)['id']}"
    assert address in desk.get("/decisions/review").text
    assert "Deny this?" in desk.get(f"{address}/resolve", Role.REVIEWER, verdict="deny").text
    wordless = desk.post(f"{address}/resolve", Role.REVIEWER, verdict="deny", reason=" ")
    assert wordless.status_code == 422 and 'class="wrong"' in wordless.text
    assert desk.post(f"{address}/resolve", Role.BUILDER, verdict="deny", reason="No.").status_code == 403
    assert desk.post(f"{address}/resolve", Role.REVIEWER, verdict="escalate").status_code == 422
    done = desk.post(f"{address}/resolve", Role.REVIEWER, verdict="deny", reason="Not this year.")
    assert (done.status_code, done.headers["Location"]) == (303, address)
    page = desk.get(address).text
    assert "Not this year." in page and "denied" in page and address not in desk.get("/decisions/review").text
    again = desk.post(f"{address}/resolve", Role.REVIEWER, verdict="approve")
    assert again.status_code == 303 and "Not this year." in desk.get(address).text
    assert desk.get(f"{address}/resolve", verdict="approve").status_code == 303


def test_what_nobody_settled_in_time_is_denied(desk: Desk) -> None:
    decided = desk.decide(discount=0.2)
    with desk.database.owner() as connection:
        connection.execute("ALTER TABLE approvals DISABLE TRIGGER frozen")
        connection.execute(
            "UPDATE approvals SET requested_at = now() - interval '2 days', expires_at = now() - interval '1 day'"
            " WHERE id = %s",
            (decided["approval_id"],),
        )
        connection.execute("ALTER TABLE approvals ENABLE TRIGGER frozen")
    assert decided["id"] not in desk.get("/decisions/review").text
    assert "Nobody decided in time." in desk.get(f"/decisions/{decided['id']}").text


# Learning and replay


def test_learning_and_replay_say_what_they_cannot_tell(desk: Desk) -> None:
    assert "finance.discounts@1.0.0" in desk.get("/learning", node="finance").text
    for page in ("/learning", "/learning/savings", "/learning/days"):
        assert desk.get(page, node="nobody").status_code == 404
    few = desk.get("/learning/savings", node="finance")
    assert few.status_code == 200 and "it takes 30" in few.text
    assert desk.get("/learning/savings", node="finance", metric="luck").status_code == 422


def test_another_policy_is_asked_about_past_decisions(desk: Desk) -> None:
    desk.decide(discount=0.07)
    found = desk.get("/replay", policy="finance.discounts", variant="cautious").text
    assert "No rule speaks of a discount of this size." in found
    assert "all of them" in desk.get("/replay", again="true").text
    unknown = desk.get("/replay", policy="finance.refunds")
    assert unknown.status_code == 404 and 'value="finance.refunds"' in unknown.text
    assert "has no variant" in desk.get("/replay", policy="finance.discounts", variant="bold").text
    assert desk.get("/replay", policy="finance.discounts", last="0").status_code == 422
    assert desk.get("/replay/shadow", node="hr").status_code == 404


# Switches


def test_the_kill_switch_takes_a_reason_and_acts(desk: Desk) -> None:
    stop = {"node": "*", "flag": "stopped", "value": "true"}
    wordless = desk.post("/switches", **stop, reason="")
    assert wordless.status_code == 422 and "Say why, in a sentence." in wordless.text
    assert desk.post("/switches", Role.REVIEWER, **stop, reason="Now.").status_code == 403
    assert "Stop everything" not in desk.get("/switches", Role.VIEWER).text
    assert desk.post("/switches", **stop, reason="The prices are <wrong>.").status_code == 303
    assert "The prices are &lt;wrong&gt;." in desk.get("/switches").text
    assert desk.decide()["verdict"] == "escalate"
    assert "stopped with all" in desk.get("/switches/finance").text
    assert desk.post("/switches", node="*", flag="stopped", value="", reason="They are right.").status_code == 303
    assert desk.post("/switches", node="*", flag="stopped", value="", reason="Again.").status_code == 404
    assert "Stop everything" in desk.get("/switches").text


def test_a_node_is_steered_by_its_own_page(desk: Desk) -> None:
    other = desk.post("/switches", node="finance", flag="policy", value="hr.leave@1", reason="A slip.")
    assert other.status_code == 422 and 'value="hr.leave@1"' in other.text and "A slip." in other.text
    done = desk.post("/switches", node="finance", flag="shadow", value="finance.discounts@1.0.0", reason="To compare.")
    assert done.headers["Location"] == "/switches/finance"
    page = desk.get("/switches/finance").text
    assert "To compare." in page and "the baseline decides everything" in page
    assert "finance.discounts@1.0.0" in desk.get("/replay/shadow", node="finance").text
    assert desk.get("/switches/nobody").status_code == 404
    assert desk.post("/switches", node="nobody", flag="stopped", value="true", reason="x").status_code == 404
    assert desk.post("/switches", node="finance", flag="mood", value="true", reason="x").status_code == 422
