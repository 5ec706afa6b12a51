"""Asking agents over HTTP, against a provider on loopback: answers, streams, tools, errors, cancelling, founders."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest

from api.app import create_app
from stemma.access.keys import IssuedKey
from stemma.access.permissions import Role
from stemma.access.principal import local_principal
from stemma.agents import history, records, roster
from stemma.agents.model import Call, ModelPreference
from stemma.agents.prompts import find
from stemma.agents.roster import load
from stemma.errors import InvalidInput
from stemma.jobs import lifecycle
from stemma.jobs.catalog import get_job, list_events
from stemma.jobs.model import Job, JobState
from stemma.jobs.submission import JobRequest, submit
from stemma.ledger.service import Ledger
from stemma.store.database import Connection, Database, DatabaseUrls
from stemma.store.settings import Settings
from tests.llm.upstream import Answer, Upstream

NAMES = [agent.name for agent in load()]
Event = tuple[int, str, dict[str, Any]]


@dataclass(frozen=True)
class Place:
    """A studio whose agents are answered by a provider on loopback."""

    settings: Settings
    database: Database
    upstream: Upstream
    client: httpx.Client
    keys: dict[Role, str]

    def ask(
        self, agent: str, asked: str = "What is known?", *, role: Role | None = None, **more: Any
    ) -> httpx.Response:
        body = {"input": asked, "memory_state": "off", **more}
        return self.client.post(f"/api/v1/agents/{agent}", json=body, headers=self.bearer(role))

    @contextmanager
    def stream(
        self, agent: str, asked: str = "What is known?", *, role: Role | None = None
    ) -> Iterator[httpx.Response]:
        body = {"input": asked, "memory_state": "off", "stream": True}
        headers = self.bearer(role)
        with self.client.stream("POST", f"/api/v1/agents/{agent}", json=body, headers=headers) as response:
            assert response.status_code == 200, response.read()
            yield response

    def bearer(self, role: Role | None) -> dict[str, str]:
        return {} if role is None else {"Authorization": f"Bearer {self.keys[role]}"}

    def job(self, job_id: str) -> Job:
        return self.database.read(lambda connection: get_job(connection, UUID(job_id)))

    def timeline(self, job_id: str) -> list[tuple[str, dict[str, Any]]]:
        found = self.database.read(lambda connection: list_events(connection, UUID(job_id)))
        return [(event.kind, event.data) for event in found]

    def count(self, table: str) -> int:
        with self.database.snapshot() as connection:
            row = connection.execute(f"SELECT count(*) FROM {table}").fetchone()
        assert row is not None
        return int(row[0])


@pytest.fixture(scope="module")
def place(
    tmp_path_factory: pytest.TempPathFactory,
    new_database: Callable[[], DatabaseUrls],
    drop_database: Callable[[DatabaseUrls], None],
    issue_key: Callable[..., IssuedKey],
    serve: Any,
) -> Iterator[Place]:
    urls = new_database()
    with Upstream() as upstream:
        settings = Settings(
            home=tmp_path_factory.mktemp("relay"),
            local_model_url=upstream.url,
            llm_providers="local",
            llm_retries=0,
            llm_max_answer_bytes=20_000,
            api_requests_per_minute=10**6,
        )
        with Database(urls) as database, serve(create_app(settings, database=database)) as client:
            keys = {role: issue_key(settings, urls, role=role).key for role in Role}
            client.headers["Authorization"] = f"Bearer {keys[Role.SUPER_ADMIN]}"
            yield Place(settings, database, upstream, client, keys)
    drop_database(urls)


@pytest.fixture(autouse=True)
def forget(place: Place) -> None:
    place.upstream.clear()


def read(response: httpx.Response) -> Iterator[Event]:
    """The events of a stream as they come."""
    fields: dict[str, str] = {}
    for line in response.iter_lines():
        if line:
            name, _, value = line.partition(": ")
            fields[name] = value
        elif "event" in fields:
            yield int(fields["id"]), fields["event"], json.loads(fields["data"])
            fields = {}


def text_of(events: list[Event]) -> str:
    return "".join(data["text"] for _, kind, data in events if kind == "token")


@pytest.mark.parametrize("name", NAMES)
def test_every_agent_answers_and_is_kept(place: Place, name: str) -> None:
    place.upstream.say("Four words are enough.")
    response = place.ask(name, context={"page": 3})
    answer = response.json()
    assert response.status_code == 200, answer
    assert (answer["text"], answer["agent"]["name"], answer["provider"]) == ("Four words are enough.", name, "local")
    assert (response.headers["x-agent"], response.headers["x-job-id"]) == (name, answer["job_id"])
    assert answer["request_id"] == response.headers["x-request-id"]
    assert answer["usage"]["tokens_out"] == 4
    (asked,) = place.upstream.asked
    assert roster.load().find(name).prompt.text.strip() in asked.text and '{"page": 3}' in asked.text
    kept = place.client.get(f"/api/v1/agents/{name}/calls/{answer['job_id']}").json()
    assert (kept["answered"], kept["state"], kept["context"]) == ("Four words are enough.", "done", {"page": 3})
    assert [kind for kind, _ in place.timeline(answer["job_id"])] == ["submitted", "started", "done"]
    listed = place.client.get(f"/api/v1/agents/{name}/calls", params={"limit": 1}).json()
    assert listed["data"][0] == kept


def test_a_stream_ends_when_all_of_it_is_kept(place: Place) -> None:
    place.upstream.say("one two three four five")
    with place.stream("nova") as response:
        events = []
        for event in read(response):
            events.append(event)
            if event[1] == "done":
                kept = place.client.get(f"/api/v1/agents/nova/calls/{response.headers['x-job-id']}").json()
    assert [seq for seq, _, _ in events] == list(range(1, len(events) + 1))
    assert (events[0][1], events[-1][1], text_of(events)) == ("start", "done", "one two three four five")
    assert (kept["state"], kept["answered"]) == ("done", "one two three four five")
    assert events[-1][2]["usage"]["tokens_out"] == 5


def test_whoever_comes_back_goes_on_where_they_were(place: Place) -> None:
    place.upstream.say(Answer("word " * 100, gap=0.02))
    with place.stream("nova") as response:
        job_id = response.headers["x-job-id"]
        seen = []
        for event in read(response):
            seen.append(event)
            if event[1] == "token":
                break
    # The connection is gone and the call goes on; the first follower comes while it runs, the other after.
    path = f"/api/v1/agents/nova/calls/{job_id}/events"
    for _ in range(2):
        with place.client.stream("GET", path, headers={"Last-Event-ID": str(seen[-1][0])}) as response:
            rest = list(read(response))
        events = seen + rest
        assert [seq for seq, _, _ in events] == list(range(1, len(events) + 1))
        assert (events[-1][1], text_of(events)) == ("done", ("word " * 100))
        assert place.job(job_id).state is JobState.DONE
    assert place.client.get(path, headers={"Last-Event-ID": "9999"}).status_code == 422


def test_what_is_written_down_is_what_was_streamed_from_wherever(place: Place) -> None:
    place.upstream.say(Answer("word " * 40, gap=0.02))
    with place.stream("nova") as response:
        events, job_id = list(read(response)), UUID(response.headers["x-job-id"])
    for after in range(len(events)):
        found = place.database.read(lambda connection, after=after: history.list_streamed(connection, job_id, after))
        assert [one.seq for one in found] == [seq for seq, _, _ in events[after:]]
        said = [one.event if isinstance(one.event, str) else one.event[1] for one in found]
        assert said == [data["text"] if kind == "token" else data for _, kind, data in events[after:]]


def test_cancelling_stops_the_provider(place: Place, wait_until: Callable[..., None]) -> None:
    place.upstream.say(Answer(fails="endless", gap=0.02))
    with place.stream("riven") as response:
        job_id = response.headers["x-job-id"]
        events = read(response)
        assert next(event for event in events if event[1] == "token")
        path = f"/api/v1/agents/riven/calls/{job_id}/cancel"
        assert place.client.post(path, headers=place.bearer(Role.ADMIN_AGENT)).status_code == 404
        assert place.client.post(path).status_code == 200
        assert list(events)[-1][1] == "cancelled"
    wait_until(lambda: place.upstream.served[0].ended == "left")
    assert place.job(job_id).state is JobState.CANCELLED
    again = place.client.post(path)
    assert (again.status_code, again.json()["code"]) == (409, "job_cancelled")
    assert [kind for kind, _ in place.timeline(job_id)][-2:] == ["cancel_requested", "cancelled"]


def test_a_job_that_is_cancelled_elsewhere_stops_too(place: Place, wait_until: Callable[..., None]) -> None:
    place.upstream.say(Answer(fails="endless", gap=0.02))
    with place.stream("riven") as response:
        events = read(response)
        next(events)
        job_id = UUID(response.headers["x-job-id"])
        with Ledger(place.database.urls, place.settings) as ledger:
            change = place.database.read(lambda c: lifecycle.cancel(c, local_principal(), job_id))
            ledger.commit(change).result(20)
        assert list(events)[-1][1] == "cancelled"


def test_tools_are_used_and_told_of(place: Place) -> None:
    place.upstream.say(
        Answer(tool_calls=(("search_index", '{"query": "bread"}'), ("search_index", "{nonsense"), ("no_such", "{}"))),
        "Here is what I found.",
    )
    with place.stream("nova") as response:
        events, job_id = list(read(response)), response.headers["x-job-id"]
    answered = [data for _, kind, data in events if kind == "tool_answered"]
    assert [(one["tool"], one["ok"]) for one in answered][1:] == [("search_index", False), ("no_such", False)]
    assert (events[-1][1], events[-1][2]["rounds"], text_of(events)) == ("done", 2, "Here is what I found.")
    told = [kind for kind, _ in place.timeline(job_id)]
    assert told == ["submitted", "started", *["tool_called", "tool_answered"] * 3, "done"]
    asked = place.upstream.asked[-1]
    assert [turn["role"] for turn in asked.messages][-3:] == ["tool", "tool", "tool"]


def test_a_model_that_only_asks_for_tools_is_stopped(place: Place) -> None:
    agent = roster.load().find("nova")
    place.upstream.say(*[Answer(tool_calls=(("search_index", '{"query": "x"}'),))] * (agent.tool_rounds + 1))
    response = place.ask("nova")
    assert (response.status_code, response.json()["code"]) == (503, "tool_rounds_exhausted")
    assert place.upstream.asked[-1].tools == []


@pytest.mark.parametrize(
    ("agent", "body", "status", "code"),
    [
        ("nobody", {}, 404, "agent_unknown"),
        ("nova", {"input": "  "}, 422, "input_empty"),
        ("nova", {"input": "x" * 64_001}, 422, "request_invalid"),
        ("nova", {"context": {"all": "x" * 64_001}}, 413, "context_too_long"),
        ("nova", {"role": "Viewer"}, 403, "agent_role_forbidden"),
        ("nova", {"role": "GODMODE"}, 403, "role_beyond_own"),
        ("nova", {"role": "NOBODY"}, 422, "request_invalid"),
    ],
)
def test_what_cannot_be_asked_is_refused(
    place: Place, agent: str, body: dict[str, Any], status: int, code: str
) -> None:
    before = place.count("jobs")
    response = place.client.post(f"/api/v1/agents/{agent}", json={"input": "Hello?", **body})
    assert (response.status_code, response.json()["code"]) == (status, code)
    assert (place.count("jobs"), place.upstream.served) == (before, [])


@pytest.mark.parametrize("role", Role)
def test_an_agent_answers_the_roles_of_its_file(place: Place, role: Role) -> None:
    response = place.ask("echo", role=role)
    answers = role in roster.load().find("echo").roles
    assert response.status_code == (200 if answers else 403)
    listed = place.client.get("/api/v1/agents/echo", headers=place.bearer(role)).json()
    assert listed["may_call"] is answers


def test_calls_are_read_by_who_made_them_and_by_operators(place: Place) -> None:
    job_id = place.ask("lyra", role=Role.ADMIN_AGENT).json()["job_id"]
    path = f"/api/v1/agents/lyra/calls/{job_id}"
    seen = {role: place.client.get(path, headers=place.bearer(role)).status_code for role in Role}
    assert seen[Role.ADMIN_AGENT] == seen[Role.SUPER_ADMIN] == 200
    assert {seen[role] for role in (Role.BUILDER, Role.REVIEWER, Role.VIEWER)} == {404}
    listed = place.client.get("/api/v1/agents/lyra/calls", headers=place.bearer(Role.BUILDER)).json()
    assert listed["data"] == []
    events = place.client.get(f"{path}/events", headers=place.bearer(Role.BUILDER))
    assert events.status_code == 404
    of_another = path.replace("lyra", "echo")
    asked = (("GET", of_another), ("GET", f"{of_another}/events"), ("POST", f"{of_another}/cancel"))
    assert [place.client.request(*one).status_code for one in asked] == [404] * 3


def test_a_repeated_request_leads_to_the_first_call(place: Place) -> None:
    headers = {"Idempotency-Key": str(uuid4())}
    body = {"input": "Once?", "memory_state": "off"}
    first = place.client.post("/api/v1/agents/nova", json=body, headers=headers)
    again = place.client.post("/api/v1/agents/nova", json=body, headers=headers)
    assert (first.status_code, again.status_code, len(place.upstream.served)) == (200, 202, 1)
    assert again.json()["job_id"] == first.json()["job_id"]
    events = place.client.get(again.json()["events"])
    assert "event: done" in events.text


def test_a_founders_call_leaves_no_row_and_ends_with_its_connection(
    place: Place, wait_until: Callable[..., None]
) -> None:
    tables = ("jobs", "job_events", "agent_calls", "agent_chunks")
    place.ask("nova")
    before = {table: place.count(table) for table in tables}
    answer = place.ask("nova", role=Role.GODMODE)
    assert (answer.status_code, answer.json()["job_id"], "x-job-id" in answer.headers) == (200, None, False)
    place.upstream.say(Answer(fails="endless", gap=0.02))
    with place.stream("nova", role=Role.GODMODE) as response:
        assert next(event for event in read(response) if event[1] == "token")
    wait_until(lambda: place.upstream.served[-1].ended == "left")
    assert {table: place.count(table) for table in tables} == before
    headers = {**place.bearer(Role.GODMODE), "Idempotency-Key": "of a founder"}
    refused = place.client.post("/api/v1/agents/nova", json={"input": "Hm?"}, headers=headers)
    assert (refused.status_code, refused.json()["code"]) == (422, "idempotency_not_kept")


def test_a_call_whose_process_died_ends_as_lost(place: Place) -> None:
    call = Call(roster.load().find("nova"), local_principal(), "request-1", "test", "Anyone?")

    def begin(connection: Connection) -> Any:
        return records.begin(connection, call, find(connection, call.agent), "api-that-died")

    with Ledger(place.database.urls, place.settings) as ledger:
        job = ledger.commit(place.database.read(begin)).result(20)
        with place.database.transaction() as connection:
            connection.execute("UPDATE jobs SET lease_until = now() - interval '1 s' WHERE id = %s", (job.id,))
            streamed = '["so ", "far"]'
            connection.execute("INSERT INTO agent_chunks VALUES (%s, 1, %s)", (job.id, streamed))
        for change in place.database.read(lifecycle.reap):
            ledger.commit(change).result(20)
    assert place.job(str(job.id)).state is JobState.ERROR
    with place.client.stream("GET", f"/api/v1/agents/nova/calls/{job.id}/events") as response:
        events = list(read(response))
    assert (text_of(events), events[-1][1], events[-1][2]["code"]) == ("so far", "error", "job_lost")


def test_calls_are_not_submitted_as_jobs(place: Place) -> None:
    request = JobRequest("agent:call", {"agent": "nova"})
    with pytest.raises(InvalidInput, match="begins by a request of its own"):
        place.database.read(lambda connection: submit(connection, local_principal(), request))


def test_the_log_of_an_agent_names_calls_and_not_what_was_said(place: Place) -> None:
    answer = place.ask("velora", "A secret question").json()
    lines = place.client.get("/api/v1/agents/velora/log", params={"limit": 2}).json()["data"]
    assert [line["event"] for line in lines] == ["call_started", "call_done"]
    for line in lines:
        assert (line["job_id"], line["request_id"]) == (answer["job_id"], answer["request_id"])
        assert (line["agent"], line["role"]) == ("velora", "SUPER_ADMIN")
    assert "secret" not in json.dumps(lines)
    assert place.client.get("/api/v1/agents/velora/log", headers=place.bearer(Role.VIEWER)).status_code == 403


BROKEN = {
    "garbage": (Answer(fails="garbage"), 502, "provider_garbage"),
    "half a frame": (Answer(fails="half_frame"), 502, "provider_garbage"),
    "a cut connection": (Answer(fails="dies"), 503, "provider_unavailable"),
    "an answer without its end": (Answer(fails="ends"), 503, "provider_unavailable"),
    "an error in the middle": (Answer(fails="error"), 503, "provider_unavailable"),
    "a stall": (Answer(fails="stall"), 504, "provider_timeout"),
    "nothing at all": (Answer(wait=3600), 504, "provider_timeout"),
    "tokens without end": (Answer(fails="endless"), 502, "answer_too_long"),
    "arguments without end": (Answer(tool_calls=(("search_index", "x " * 11_000),)), 502, "answer_too_long"),
    "too many requests": (Answer(status=429), 503, "provider_rate_limited"),
}


@pytest.mark.parametrize(("broken", "status", "code"), BROKEN.values(), ids=BROKEN)
def test_whatever_a_provider_does_the_call_ends(
    place: Place,
    monkeypatch: pytest.MonkeyPatch,
    wait_until: Callable[..., None],
    broken: Answer,
    status: int,
    code: str,
) -> None:
    if status == 504:
        impatient = roster.load().find("glitch").model_copy(update={"model": ModelPreference(timeout=0.5)})
        monkeypatch.setitem(roster.load()._agents, "glitch", impatient)
    place.upstream.say(broken, broken)
    with place.stream("glitch") as response:
        *_, (_, kind, said) = read(response)
        job = place.job(response.headers["x-job-id"])
    assert (kind, said["code"]) == ("error", code) and said["message"]
    assert (job.state, job.error_code) == (JobState.ERROR, code)
    whole = place.ask("glitch")
    assert (whole.status_code, whole.json()["code"]) == (status, code)
    wait_until(lambda: place.upstream.totals.open == 0)
    # And the next one is served.
    monkeypatch.undo()
    assert place.ask("glitch").json()["text"] == Answer().text


# The last of this module, since a provider that fails again and again is not asked for a while.
def test_a_storm_of_refusals_leaves_no_call_open(place: Place) -> None:
    place.upstream.say(*[Answer(status=429, headers=(("Retry-After", "0"),))] * 100)

    def one(_: int) -> tuple[str, str, JobState]:
        with place.stream("glitch") as response:
            *_, (_, kind, said) = read(response)
            return kind, said["code"], place.job(response.headers["x-job-id"]).state

    with ThreadPoolExecutor(12) as callers:
        ended = set(callers.map(one, range(36)))
    assert ended == {
        ("error", "provider_rate_limited", JobState.ERROR),
        ("error", "provider_resting", JobState.ERROR),
    }
