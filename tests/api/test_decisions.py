"""Decisions over HTTP: one round of the loop, double posts, similar cases, a kill switch and `kill -9` under load."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest

from api.app import create_app
from stemma.access.keys import IssuedKey
from stemma.knowledge.embedding import Embedder
from stemma.ledger.verification import verify
from stemma.store.database import Database
from stemma.store.settings import REPOSITORY, Settings

DECISIONS = "/api/v1/decisions"
SAMPLES = REPOSITORY / "samples"
CLIENTS = 32
ASKED = {"discount": 0.05, "amount": 100, "segment": "Corporate", "category": "Paper"}
# Corporate customers are approved at AL1 while nothing is known of similar ones; this one acts alone.
CASE = """\
cases:
  - name: more than is ever given
    event: {type: DiscountRequested, data: {discount: 0.8, amount: 400, segment: Consumer, category: Binders}}
    expect: {verdict: deny, level: AL3, rules: [margin/beyond_highest]}
"""
ALONE = ("when: confidence >= 0.9 && amount * discount <= 50.0", "when: confidence >= 0.0")


def text(*path: str) -> str:
    return (SAMPLES.joinpath(*path)).read_text("utf-8")


def publish_samples(client: httpx.Client, *replaced: tuple[str, str]) -> None:
    policy = text("policies", "finance", "discounts.yaml")
    tests = text("policies", "finance", "discounts.tests.yaml")
    for before, after in replaced:
        assert before in policy
        policy = policy.replace(before, after)
        tests = CASE
    sent = [
        client.post("/api/v1/event-types", json={"event_type": text("event_types", "DiscountRequested.yaml")}),
        client.post("/api/v1/policies", json={"policy": policy, "tests": tests}),
        client.post("/api/v1/nodes", json={"node": text("nodes", "finance.yaml")}),
    ]
    assert [answer.status_code for answer in sent] == [201] * 3, [answer.text for answer in sent]


def decide(client: httpx.Client, key: str | None = None, **data: Any) -> httpx.Response:
    headers = {"Idempotency-Key": key} if key else {}
    body = {"event": {"type": "DiscountRequested", "entity": "ada", "data": {**ASKED, **data}}}
    return client.post(f"{DECISIONS}/finance", json=body, headers=headers)


@pytest.fixture(scope="module")
def asked(
    studio: tuple[Settings, Database], equip: Callable[[Settings], Embedder], serve: Any
) -> Iterator[httpx.Client]:
    """A client of a studio that has the samples and the encoder."""
    settings, database = studio
    equip(settings)
    with serve(create_app(settings, database=database)) as client:
        publish_samples(client)
        yield client


def test_an_event_is_decided_shown_resolved_and_replayed(asked: httpx.Client) -> None:
    made = decide(asked)
    assert made.status_code == 201, made.text
    said = made.json()
    assert (said["verdict"], said["level"], said["state"], said["effect"]) == ("approve", "AL1", "waiting", None)
    assert said["policy"] == "finance.discounts" and said["on_silence"] == "deny" and said["due_at"]
    assert [reason["rule"] for reason in said["reasons"]] == ["margin/usual"]
    path = f"{DECISIONS}/{said['id']}"
    shown = asked.get(path).json()
    assert shown["context"]["similar"] == said["similar"] and shown["event"]["data"] == ASKED
    assert asked.get(f"{path}/replay").json()["same"] is True
    assert said["id"] in [one["id"] for one in asked.get(f"{DECISIONS}/waiting").json()["data"]]
    switch = "/api/v1/flags/finance/stopped"
    asked.put(switch, json={"value": True, "reason": "A test."}).raise_for_status()
    refused = asked.post(f"{path}/resolution", json={"verdict": "approve"})
    assert (refused.status_code, refused.json()["code"]) == (409, "node_stopped")
    assert "Release the switch first" in refused.json()["hint"]
    asked.delete(switch, params={"reason": "It is over."}).raise_for_status()
    resolved = asked.post(f"{path}/resolution", json={"verdict": "approve"})
    assert resolved.json()["effect"] == "approve" and resolved.json()["state"] == "resolved"
    again = asked.post(f"{path}/resolution", json={"verdict": "deny", "reason": "No."})
    assert (again.status_code, again.json()["code"]) == (409, "decision_not_waiting")
    listed = asked.get(DECISIONS, params={"node": "finance", "state": "resolved"}).json()["data"]
    assert said["id"] in [one["id"] for one in listed]
    alias = asked.post("/decisions/finance", json={"event_id": said["event_id"]})
    assert alias.status_code == 201 and alias.json()["event_id"] == said["event_id"]


def test_both_ways_of_being_asked_say_the_same(asked: httpx.Client) -> None:
    """A content type with a parameter goes the ordinary way, which knows keys that were used on the quick one."""
    key = str(uuid4())
    body = json.dumps({"event": {"type": "DiscountRequested", "entity": "bea", "data": ASKED}}).encode()
    sent = [
        asked.post(f"{DECISIONS}/finance", content=body, headers={"Content-Type": content_type, "Idempotency-Key": key})
        for content_type in ("application/json", "application/json; charset=utf-8")
    ]
    assert [answer.status_code for answer in sent] == [201, 201] and sent[0].json() == sent[1].json()
    assert sent[1].headers["Idempotency-Replayed"] == "true"
    refused = asked.post(f"{DECISIONS}/finance", json={"event": {"type": "DiscountRequested"}})
    assert refused.status_code == 422 and refused.json()["errors"][0]["field"] == "event.data"


def test_the_next_decision_finds_the_last_one(asked: httpx.Client) -> None:
    first = decide(asked, category="Copiers", segment="Home Office", region="West").json()
    second = decide(asked, category="Copiers", segment="Home Office", region="West").json()
    third = decide(asked, category="Copiers", segment="Home Office", region="East").json()
    assert second["similar"][0]["decision_id"] == first["id"] and second["similar"][0]["distance"] == 0
    nearest = {case["decision_id"]: case["distance"] for case in third["similar"]}
    assert nearest[second["id"]] == nearest[first["id"]] > 0


def test_what_cannot_be_decided_is_told(asked: httpx.Client) -> None:
    def code(answer: httpx.Response) -> tuple[int, str]:
        return answer.status_code, answer.json()["code"]

    event = {"type": "DiscountRequested", "data": ASKED}
    path = f"{DECISIONS}/finance"
    assert code(asked.post(path, json={})) == (422, "request_invalid")
    assert code(asked.post(path, json={"event": event, "event_id": str(uuid4())})) == (422, "request_invalid")
    assert code(asked.post(path, json={"event_id": str(uuid4())})) == (404, "event_unknown")
    assert code(asked.post(f"{DECISIONS}/nowhere", json={"event": event})) == (404, "node_unknown")
    assert code(decide(asked, discount="ten percent")) == (422, "event_data_invalid")
    assert code(asked.get(f"{DECISIONS}/{uuid4()}")) == (404, "decision_unknown")
    assert code(asked.put("/api/v1/flags/*/stopped", json={"value": "on", "reason": "A test."})) == (
        422,
        "flag_value_invalid",
    )


def test_posts_that_come_twice_are_one_decision(asked: httpx.Client) -> None:
    key, answers = str(uuid4()), []

    def post() -> None:
        answers.append(decide(asked, key, category="Labels"))

    threads = [threading.Thread(target=post) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {answer.status_code for answer in answers} <= {201, 409}
    last = decide(asked, key, category="Labels")
    made = {answer.text for answer in [*answers, last] if answer.status_code == 201}
    assert len(made) == 1 and last.headers["Idempotency-Replayed"] == "true"
    listed = asked.get(DECISIONS, params={"limit": 200}).json()["data"]
    assert [one["id"] for one in listed].count(last.json()["id"]) == 1
    other = decide(asked, key, category="Paper")
    assert (other.status_code, other.json()["code"]) == (422, "idempotency_key_reused")


HOSTILE = json.loads((REPOSITORY / "tests" / "governance" / "hostile.json").read_text("utf-8"))


def test_policies_that_fail_approve_nothing(asked: httpx.Client) -> None:
    """Errors inside `||`, values of another type, and events that nobody expects are escalated or refused."""
    inputs = "  items: {type: numbers, from: /event/data/items}\n  note: {type: text, from: /event/data/note}\n"
    policy = text("policies", "finance", "discounts.yaml")
    usual = "        when: discount <= usual\n"
    assert usual in policy and "inputs:\n" in policy
    asked.post("/api/v1/event-types", json={"event_type": HOSTILE_TYPE}).raise_for_status()
    node = text("nodes", "finance.yaml").replace("name: finance\n", "name: hostile\n")
    node = node.replace("finance.discounts@1", "hostile.discounts").replace("DiscountRequested:", "Anything:")
    for number, condition in enumerate(HOSTILE["conditions"]):
        hostile = policy.replace(usual, f"        when: {json.dumps(condition)}\n")
        hostile = hostile.replace("inputs:\n", f"inputs:\n{inputs}").replace("[DiscountRequested]", "[Anything]")
        hostile = hostile.replace("name: finance.", "name: hostile.").replace("node: finance", "node: hostile")
        hostile = hostile.replace("version: 1.0.0", f"version: 1.0.{number}")
        published = asked.post("/api/v1/policies", json={"policy": hostile, "tests": HOSTILE_CASE})
        assert published.status_code == 201, published.text
        if number == 0:
            assert asked.post("/api/v1/nodes", json={"node": node}).status_code == 201
        for data in (
            *({**ASKED, **given} for given in HOSTILE["data"]),
            {**ASKED, "items": [1.0] * 3_000, "note": "x" * 20_000},
            {},
        ):
            answer = asked.post(f"{DECISIONS}/hostile", json={"event": {"type": "Anything", "data": data}})
            assert answer.status_code in (201, 413, 422), answer.text
            assert answer.json().get("verdict", "refused") in ("refused", "escalate"), (condition, answer.text)


HOSTILE_CASE = """\
cases:
  - name: another type
    event: {type: DiscountRequested, data: {}}
    expect: {verdict: escalate, level: AL0, rules: [events]}
"""
HOSTILE_TYPE = """\
name: Anything
version: 1.0.0
changelog: First version.
description: Whatever somebody sends.
schema: {type: object}
"""


@dataclass
class Told:
    """What clients were told: the decision of each answered request, and the requests without an answer."""

    answered: dict[str, dict[str, Any]] = field(default_factory=dict)
    unanswered: set[str] = field(default_factory=set)
    refused: list[str] = field(default_factory=list)


@dataclass
class Served:
    """The API as a process of its own, and clients of it."""

    port: int
    key: str
    log: Path
    wait_until: Callable[..., None]
    process: subprocess.Popen[bytes] | None = None

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
        with self.log.open("ab") as written:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "api"], cwd=REPOSITORY, stderr=written, env=environment
            )
        try:
            self.wait_until(self._alive, seconds=120)
            yield
        finally:
            self.process.kill()
            self.process.wait()

    def _alive(self) -> bool:
        assert self.process is not None and self.process.poll() is None, self.log.read_text()
        with contextlib.suppress(httpx.TransportError):
            return httpx.get(f"http://127.0.0.1:{self.port}/healthz", trust_env=False).status_code == 200
        return False

    def client(self) -> httpx.Client:
        headers = {"Authorization": f"Bearer {self.key}"}
        return httpx.Client(base_url=f"http://127.0.0.1:{self.port}", headers=headers, timeout=60, trust_env=False)

    def ask(self, client: httpx.Client, request: str, told: Told) -> bool:
        """Ask for a decision under this key; False when the server went away before it answered."""
        amount = random.Random(request).choice((100, 400, 900))
        try:
            answer = decide(client, request, amount=amount)
        except httpx.TransportError:
            told.unanswered.add(request)
            return False
        if answer.status_code == 201:
            told.answered[request] = answer.json()
            told.unanswered.discard(request)
        else:
            told.refused.append(answer.text)
        return answer.status_code == 201


@pytest.fixture
def served(
    settings: Settings,
    database: Database,
    issue_key: Callable[..., IssuedKey],
    wait_until: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> Served:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = int(taken.getsockname()[1])
    monkeypatch.setenv("STEMMA_API_PORT", str(port))
    monkeypatch.setenv("STEMMA_API_REQUESTS_IN_FLIGHT", str(CLIENTS + 2))
    return Served(port, issue_key(settings, database.urls).key, tmp_path / "log", wait_until)


def under_load(served: Served, told: Told, answers: int, then: Callable[[httpx.Client], bool]) -> None:
    """Let the clients ask, each the next when the last was answered; after some answers do `then`, and stop where it
    says so after as many more.
    """
    acknowledged = threading.Semaphore(0)
    over = threading.Event()

    def work() -> None:
        with served.client() as client:
            while not over.is_set() and served.ask(client, str(uuid4()), told):
                acknowledged.release()
        acknowledged.release(3 * answers)

    threads = [threading.Thread(target=work) for _ in range(CLIENTS)]
    for thread in threads:
        thread.start()
    for _ in range(answers):
        acknowledged.acquire()
    with served.client() as client:
        if then(client):
            for _ in range(2 * answers):
                acknowledged.acquire()
    over.set()
    for thread in threads:
        thread.join()


def test_a_killed_api_loses_no_decision_that_it_acknowledged(
    served: Served, settings: Settings, database: Database
) -> None:
    told = Told()

    def kill(_: httpx.Client) -> bool:
        assert served.process is not None
        served.process.send_signal(signal.SIGKILL)
        return False

    with served.running():
        with served.client() as client:
            publish_samples(client, ALONE)
        under_load(served, told, 3 * CLIENTS, kill)
    assert told.refused == [] and len(told.answered) >= 3 * CLIENTS and told.unanswered
    with served.running(), served.client() as client:
        assert all(served.ask(client, request, told) for request in sorted(told.unanswered))
    with database.snapshot() as connection:
        rows = dict(connection.execute("SELECT id, encode(entry_hash, 'hex') FROM decisions").fetchall())
        entries = dict(connection.execute(
            "SELECT subject, encode(entry_hash, 'hex') FROM ledger WHERE chain = 'decisions'"
        ).fetchall())  # fmt: skip
        events = connection.execute("SELECT count(*) FROM events").fetchone()
    assert rows == {UUID(said["id"]): said["entry_hash"] for said in told.answered.values()}
    assert entries == {f"decision/{name}": hashed for name, hashed in rows.items()}
    assert events == (len(rows),)
    assert verify(database, settings).clean


def test_nothing_is_approved_after_the_kill_switch(served: Served, settings: Settings, database: Database) -> None:
    told = Told()

    def stop(client: httpx.Client) -> bool:
        answer = client.put("/api/v1/flags/*/stopped", json={"value": True, "reason": "A test."})
        assert answer.status_code == 200, answer.text
        return True

    with served.running():
        with served.client() as client:
            publish_samples(client, ALONE)
        under_load(served, told, 2 * CLIENTS, stop)
    assert told.refused == [] and told.unanswered == set()
    query = "SELECT seq, kind, body FROM ledger WHERE chain = 'decisions' ORDER BY seq"
    with database.snapshot() as connection:
        entries = [(seq, kind, json.loads(bytes(body))["data"]) for seq, kind, body in connection.execute(query)]
    (switched,) = [seq for seq, kind, _ in entries if kind == "flag.set"]
    approved = [seq for seq, kind, data in entries if kind == "decision.decided" and data["effect"] == "approve"]
    after = [data for seq, kind, data in entries if seq > switched]
    assert approved and max(approved) < switched
    assert len(after) >= CLIENTS and {data["rules"][0] for data in after} == {"flag/stopped"}
    assert verify(database, settings).clean
