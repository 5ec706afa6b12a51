"""The pages of agents and of GodMode without a browser: asking, reading it again, forgetting, switching, who may."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any

import httpx
import pytest

from api.app import create_app
from stemma.access.keys import IssuedKey
from stemma.access.permissions import Role
from stemma.llm import switches
from stemma.llm.switches import Switches
from stemma.store.database import Database, DatabaseUrls
from stemma.store.settings import Settings
from tests.llm.upstream import Upstream

pytestmark = pytest.mark.usefixtures("loopback_only")

HTML = {"Accept": "text/html,application/xhtml+xml,*/*;q=0.8"}
HERONS = {"tier": "semantic", "text": "The editor likes herons."}
Serve = Callable[..., AbstractContextManager[httpx.Client]]


class Desk:
    """A served studio whose models answer from `upstream`, and clients of it by role."""

    def __init__(self, client: httpx.Client, database: Database, upstream: Upstream, issue: Callable[[Role], str]):
        self.client, self.database, self.upstream, self._issue = client, database, upstream, issue

    def as_role(self, role: Role) -> httpx.Client:
        headers = {**HTML, "Authorization": f"Bearer {self._issue(role)}"}
        return httpx.Client(base_url=self.client.base_url, headers=headers, timeout=30, trust_env=False)


@pytest.fixture(scope="module")
def desk(
    tmp_path_factory: pytest.TempPathFactory,
    new_database: Callable[[], DatabaseUrls],
    drop_database: Callable[[DatabaseUrls], None],
    serve: Serve,
    issue_key: Callable[..., IssuedKey],
) -> Iterator[Desk]:
    urls = new_database()
    with Upstream() as upstream, Database(urls) as database:
        settings = Settings(
            home=tmp_path_factory.mktemp("desk"), llm_providers="local,offline", local_model_url=upstream.url
        )
        key = issue_key(settings, urls, role=Role.SUPER_ADMIN).key
        with serve(create_app(settings, database=database), key=key) as client:
            client.headers.update(HTML)
            yield Desk(client, database, upstream, lambda role: issue_key(settings, urls, role=role).key)
    drop_database(urls)


def test_an_agent_is_asked_and_what_it_said_is_read_again(desk: Desk, wait_until: Callable[..., None]) -> None:
    assert "answers you" in desk.client.get("/agents").text
    assert "What you ask" in desk.client.get("/agents/nova").text
    desk.upstream.say("A heron stands on one leg.")
    form = {"input": "How does a heron stand?", "memory": "true", "once": "heron"}
    began = desk.client.post("/agents/nova/ask", data=form)
    assert began.status_code == 303
    call = began.headers["location"]
    wait_until(lambda: "A heron stands on one leg." in desk.client.get(call).text)
    page = desk.client.get(call).text
    assert "loopback-1" in page and call.rpartition("/")[2] in page
    assert desk.client.post("/agents/nova/ask", data=form).headers["location"] == call
    assert "How does a heron stand?" in desk.client.get("/agents/nova/history").text
    assert "How does a heron stand?" in desk.client.get("/agents/nova").text
    assert "call done" in desk.client.get("/agents/nova/log").text
    assert "1.0.0" in desk.client.get("/agents/nova/prompt").text


def test_what_an_agent_remembers_is_shown_and_forgotten(desk: Desk) -> None:
    given = desk.client.post("/api/v1/agents/lyra/memory", json=HERONS)
    assert given.status_code == 201, given.text
    shown = desk.client.get("/agents/lyra/memory").text
    assert "The editor likes herons." in shown
    done = desk.client.post("/agents/lyra/memory/forget", data={"memory": given.json()["id"]})
    assert (done.status_code, done.headers["location"]) == (303, "/agents/lyra/memory")
    assert "The editor likes herons." not in desk.client.get("/agents/lyra/memory").text
    desk.client.post("/api/v1/agents/lyra/memory", json={"tier": "semantic", "text": "The editor likes owls."})
    assert "remembers 1 thing " in desk.client.get("/agents/lyra/memory/forget").text
    desk.client.post("/agents/lyra/memory/forget")
    assert "owls" not in desk.client.get("/agents/lyra/memory").text


def test_bad_questions_are_refused_with_a_page(desk: Desk) -> None:
    for form, status in (({"input": " "}, 422), ({"input": "x" * 64_001}, 413), ({"input": "a", "role": "King"}, 422)):
        assert desk.client.post("/agents/nova/ask", data=form).status_code == status
    assert desk.client.get("/agents/nobody").status_code == 404
    assert desk.client.post("/agents/nobody/ask", data={"input": "a"}).status_code == 404


def test_who_an_agent_does_not_answer_is_told_so(desk: Desk) -> None:
    with desk.as_role(Role.VIEWER) as viewer:
        page = viewer.get("/agents/nova").text
        assert "does not answer your role" in page and "What you ask" not in page
        assert viewer.post("/agents/nova/ask", data={"input": "Who are you?"}).status_code == 403
        assert viewer.get("/agents/nova/log").status_code == 403
        assert viewer.get("/godmode").status_code == 403
        assert "GodMode" not in viewer.get("/").text


def test_switches_are_thrown_and_an_excluded_agent_answers_nobody(desk: Desk, wait_until: Callable[..., None]) -> None:
    def thrown(name: str, on: bool) -> httpx.Response:
        return desk.client.post("/godmode/switches", data={"name": name, "on": str(on).lower()})

    assert thrown("agent/glitch", True).status_code == 303
    assert thrown("stealth", True).status_code == 303
    on = desk.database.read(switches.read)
    assert on == Switches(stealth=True, excluded=frozenset({"agent/glitch"}))
    assert "Glitch is not called now" in desk.client.get("/agents/glitch").text
    asked = {"input": "What is wrong?"}
    wait_until(lambda: desk.client.post("/api/v1/agents/glitch", json=asked).status_code == 403, seconds=10)
    assert desk.client.post("/api/v1/agents/glitch", json=asked).json()["code"] == "agent_excluded"
    assert "since" in desk.client.get("/godmode").text
    thrown("agent/glitch", False)
    thrown("stealth", False)
    assert desk.database.read(switches.read) == Switches()
    refused = thrown("provider/offline", True)
    assert refused.status_code == 422 and "cannot be excluded" in refused.text


def test_the_kill_switch_is_thrown_without_a_word(desk: Desk) -> None:
    with desk.as_role(Role.GODMODE) as founder:
        for on, words in (("true", "Let nodes act again"), ("false", "Stop everything")):
            assert founder.post("/godmode/stop", data={"on": on}).status_code == 303
            assert words in founder.get("/godmode").text
    query = "SELECT body FROM ledger WHERE kind LIKE 'flag.%%' AND chain <> 'audit'"
    bodies: list[Any] = [bytes(body) for (body,) in desk.database.read(lambda c: c.execute(query).fetchall())]
    assert len(bodies) == 4
    assert all(b'"reason":""' in body for body in bodies)


def test_a_founder_asks_on_the_page_and_nobody_else_does_unlogged(desk: Desk) -> None:
    desk.upstream.say("Nobody will know.")
    form = {"agent": "echo", "input": "What do you hear?"}
    with desk.as_role(Role.GODMODE) as founder:
        assert "Unlogged" in founder.get("/godmode").text
        answer = founder.post("/godmode/ask", data=form)
        assert answer.status_code == 200 and "Nobody will know." in answer.text
        desk.upstream.say("Nor this.")
        assert "Nor this." in founder.post("/agents/echo/ask", data={"input": "And now?"}).text
        assert "What do you hear?" not in founder.get("/agents/echo/history").text
        assert founder.get("/agents/echo").headers["Cache-Control"] == "no-store"
    assert desk.client.post("/godmode/ask", data=form).status_code == 409
