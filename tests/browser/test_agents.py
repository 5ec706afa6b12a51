"""A conversation with an agent in a browser: it streams, breaks off and goes on, is stopped, and leaves no trace."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import httpx
import pytest
from playwright.sync_api import Browser, Route, expect
from playwright.sync_api import Page as Tab

from api.app import create_app
from api.sessions import COOKIE
from stemma.access import sessions
from stemma.access.authentication import recognise
from stemma.access.keys import IssuedKey
from stemma.access.permissions import Role
from stemma.ledger.service import Ledger
from stemma.store.database import Database, DatabaseUrls
from stemma.store.settings import Settings
from tests.llm.upstream import Answer, Upstream


@dataclass
class Talk:
    """A studio whose model is `upstream`; `tab(role)` is a tab of somebody who is signed in."""

    url: str
    database: Database
    upstream: Upstream
    tab: Callable[[Role], Tab]


@pytest.fixture(scope="module")
def talk(
    browser: Browser,
    tmp_path_factory: pytest.TempPathFactory,
    new_database: Callable[[], DatabaseUrls],
    drop_database: Callable[[DatabaseUrls], None],
    serve: Callable[..., AbstractContextManager[httpx.Client]],
    issue_key: Callable[..., IssuedKey],
) -> Iterator[Talk]:
    urls = new_database()
    with Upstream() as upstream, Database(urls) as database:
        home = tmp_path_factory.mktemp("talk")
        settings = Settings(home=home, llm_providers="local", local_model_url=upstream.url)
        with serve(create_app(settings, database=database)) as client:
            url = str(client.base_url).rstrip("/")
            opened = []

            def tab(role: Role) -> Tab:
                begun = sessions.begin(
                    recognise(database, settings, issue_key(settings, urls, role=role).key), settings
                )
                with Ledger(urls, settings) as ledger:
                    cookie = ledger.commit(begun).result(20).cookie
                opened.append(browser.new_context(base_url=url))
                opened[-1].add_cookies([{"name": COOKIE, "value": cookie, "url": url}])
                return opened[-1].new_page()

            yield Talk(url, database, upstream, tab)
            for context in opened:
                context.close()
    drop_database(urls)


def calls(talk: Talk) -> list[Any]:
    return talk.database.read(
        lambda c: c.execute("SELECT asked, answered FROM agent_calls ORDER BY position").fetchall()
    )


def ask(tab: Tab, text: str) -> None:
    tab.get_by_label("What you ask").fill(text)
    tab.get_by_role("button", name="Ask", exact=True).click()


def test_an_answer_streams_breaks_off_and_goes_on(talk: Talk) -> None:
    tab = talk.tab(Role.SUPER_ADMIN)
    tab.goto("/agents/nova")
    talk.upstream.say("The heron stands on one leg in the shallow water.")
    ask(tab, "How does a heron stand?")
    expect(tab.locator(".turn.answered").last).to_contain_text("in the shallow water.")
    expect(tab.locator("[data-says=model]")).to_contain_text("loopback-1 (local)")
    job = tab.locator("[data-says=job_id]").inner_text()
    assert len(job) == 36
    assert tab.locator("[data-says=request_id]").inner_text() != "none yet"

    def cut(route: Route) -> None:
        answer = route.fetch()
        body = answer.text()
        route.fulfill(response=answer, body=body[: body.index("one leg")])

    tab.route("**/api/v1/agents/nova", cut)
    talk.upstream.say("It stands on one leg, and then on the other one leg.")
    ask(tab, "And then?")
    expect(tab.locator(".turn.answered").last).to_have_text("It stands on one leg, and then on the other one leg.")
    expect(tab.locator("[data-says=state]")).to_have_text("answered")
    assert tab.locator("[data-says=job_id]").inner_text() != job
    assert [asked for asked, _ in calls(talk)] == ["How does a heron stand?", "And then?"]


def test_a_call_is_stopped_and_what_is_wrong_is_told(talk: Talk, wait_until: Callable[..., None]) -> None:
    tab = talk.tab(Role.SUPER_ADMIN)
    tab.goto("/agents/riven")
    talk.upstream.say(Answer(fails="endless", gap=0.02))
    ask(tab, "Count for ever.")
    expect(tab.locator(".turn.answered")).not_to_have_text("")
    tab.get_by_role("button", name="Stop").click()
    expect(tab.locator("[data-says=state]")).to_have_text("cancelled")
    wait_until(lambda: talk.upstream.totals.open == 0)
    ask(tab, "   ")
    expect(tab.locator("[data-says=state]")).to_contain_text("Nothing is asked.")


def test_the_founder_s_conversation_is_on_the_page_alone(talk: Talk, wait_until: Callable[..., None]) -> None:
    before = calls(talk)
    tab = talk.tab(Role.GODMODE)
    tab.goto("/godmode")
    talk.upstream.say("Nobody will know.")
    tab.get_by_label("Agent").select_option("echo")
    ask(tab, "What do you hear?")
    expect(tab.locator(".turn.answered")).to_contain_text("Nobody will know.")
    expect(tab.locator("[data-says=job_id]")).to_have_text("none: it is not kept")
    talk.upstream.say(Answer(fails="endless", gap=0.02))
    ask(tab, "Go on.")
    expect(tab.locator(".turn.answered").last).not_to_have_text("")
    tab.get_by_role("button", name="Stop", exact=True).click()
    expect(tab.locator("[data-says=state]")).to_have_text("stopped")
    wait_until(lambda: talk.upstream.totals.open == 0)
    tab.get_by_role("switch", name="Stealth").click()
    expect(tab.get_by_role("switch", name="Stealth")).to_be_checked()
    expect(tab.locator(".turn")).to_have_count(0)
    assert calls(talk) == before
