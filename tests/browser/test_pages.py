"""Every page in both themes on a phone and a desk: nothing for axe to find, nothing from elsewhere, not too heavy."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Request, expect
from playwright.sync_api import Page as Tab

from api.console import navigation
from api.console.themes import COOKIE as THEME
from api.console.themes import Theme
from api.sessions import COOKIE as SESSION

SIZES = {"phone": (390, 844), "desk": (1280, 900)}
LOOKS = [(theme, size) for theme in (Theme.NARCO_NOIR, Theme.VIBELABZ_CLEAN) for size in SIZES]
# Every rule of WCAG 2.2 A and AA, and what axe calls best practices.
AXE = {"runOnly": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]}


@pytest.fixture(scope="module")
def contexts(browser: Browser, console: Any) -> Iterator[dict[tuple[Theme, str], BrowserContext]]:
    """One browser context for each theme and width, signed in."""
    made = {}
    for theme, size in LOOKS:
        width, height = SIZES[size]
        context = browser.new_context(viewport={"width": width, "height": height})
        cookies = {THEME: theme.value, SESSION: console.session.cookie}
        context.add_cookies([{"name": name, "value": value, "url": console.url} for name, value in cookies.items()])
        opened = context.new_page()
        context.new_cdp_session(opened).send("Network.setCacheDisabled", {"cacheDisabled": True})
        made[theme, size] = context
    yield made
    for context in made.values():
        context.close()


@pytest.mark.parametrize(("theme", "size"), LOOKS, ids=lambda value: str(value))
def test_a_page(console: Any, contexts: dict[Any, BrowserContext], page: Any, theme: Theme, size: str) -> None:
    tab = contexts[theme, size].pages[0]
    with _watched(tab) as (requests, complaints):
        response = tab.goto(console.url + page.address(console.stock), wait_until="load")
        assert response is not None and response.status == 200
        if page.drawn is not None:
            tab.wait_for_selector(page.drawn, state="attached")
        loaded = sum(request.sizes()["responseBodySize"] for request in requests)
        assert tab.evaluate("document.documentElement.dataset.theme") == theme.value
        found = Axe().run(tab, options=AXE)
        assert found.violations_count == 0, found.generate_report()
    assert complaints == []
    assert [request.url for request in requests if not request.url.startswith(console.url)] == []
    assert loaded <= page.largest
    if size == "phone":
        tab.set_viewport_size({"width": 320, "height": 640})
        assert tab.evaluate("document.documentElement.scrollWidth") <= 320
        tab.set_viewport_size({"width": 390, "height": 844})


@pytest.mark.parametrize(("theme", "size"), LOOKS, ids=lambda value: str(value))
def test_the_page_before_publishing(console: Any, contexts: dict[Any, BrowserContext], theme: Theme, size: str) -> None:
    tab = contexts[theme, size].pages[0]
    tab.goto(console.url + "/policies/-/edit?of=finance.discounts")
    text = tab.get_by_label("Policy", exact=True)
    written = text.input_value().replace('changelog: ""', "changelog: More.").replace("highest: 0.25", "highest: 0.3")
    with _watched(tab) as (_, complaints):
        text.fill(written)
        tab.get_by_role("button", name="Compare and simulate").click()
        expect(tab.get_by_role("heading", level=1)).to_contain_text("Publish finance.discounts@")
        expect(tab.get_by_role("heading", name="Decisions of which it says something else")).to_be_visible()
        found = Axe().run(tab, options=AXE)
        assert found.violations_count == 0, found.generate_report()
    assert complaints == []
    assert tab.evaluate("document.documentElement.scrollWidth <= innerWidth")


@contextlib.contextmanager
def _watched(tab: Tab) -> Iterator[tuple[list[Request], list[str]]]:
    """What the tab asks for and gets, and what its console complains of."""
    requests: list[Request] = []
    complaints: list[str] = []

    def finished(request: Request) -> None:
        requests.append(request)

    def said(message: ConsoleMessage) -> None:
        # Without a graphics card, Chromium tells what drawing WebGL costs.
        if message.type in ("error", "warning") and "GL Driver Message (OpenGL, Performance" not in message.text:
            complaints.append(message.text)

    def failed(error: Exception) -> None:
        complaints.append(str(error))

    listeners = {"requestfinished": finished, "console": said, "pageerror": failed}
    for event, listener in listeners.items():
        tab.on(event, listener)
    try:
        yield requests, complaints
    finally:
        for event, listener in listeners.items():
            tab.remove_listener(event, listener)


def test_a_page_says_the_same_without_javascript(console: Any, page: Any) -> None:
    answer = console.client.get(page.address(console.stock), headers={"Accept": "text/html"})
    assert answer.status_code == 200
    assert answer.text.count("<h1>") == 1
    assert page.text in answer.text
    assert "unsafe-inline" not in answer.headers["Content-Security-Policy"]
    assert " style=" not in answer.text and "<style" not in answer.text


def test_every_family_is_looked_at(console: Any, pages: Any) -> None:
    looked_at = {one.address(console.stock).partition("?")[0] for one in pages}
    assert {family.path for family in navigation.families()} <= looked_at
