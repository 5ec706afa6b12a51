"""Every page in both themes on a phone and a desk: nothing for axe to find, nothing from elsewhere, not too heavy."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from typing import Any, Final

import pytest
from axe_playwright_python.base import AXE_SCRIPT, AxeResults
from playwright.sync_api import Browser, ConsoleMessage, Request, ViewportSize, expect
from playwright.sync_api import Page as Tab

from api.console import navigation
from api.console.themes import COOKIE as THEME
from api.console.themes import Theme
from api.sessions import COOKIE as SESSION
from stemma.store.settings import REPOSITORY

PHONE: ViewportSize = {"width": 390, "height": 844}
NARROWEST: ViewportSize = {"width": 320, "height": 640}
DESK: ViewportSize = {"width": 1280, "height": 900}
# Every rule of WCAG 2.2 A and AA, and what axe calls best practices; what passed would be told at length.
AXE: dict[str, Any] = {
    "runOnly": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"],
    "resultTypes": ["violations"],
}
# A theme is a set of colours and nothing else, as `test_a_theme_is_a_set_of_colours` makes sure.
COLOURS = {**AXE, "runOnly": {"type": "rule", "values": ["color-contrast", "link-in-text-block"]}}
SEEN_IN: Final = ((Theme.NARCO_NOIR, AXE), (Theme.VIBELABZ_CLEAN, COLOURS))


@pytest.fixture(scope="module")
def tab(browser: Browser, console: Any) -> Iterator[Tab]:
    """A signed-in tab in the first theme, the size of a phone."""
    context = browser.new_context(viewport=PHONE, reduced_motion="reduce")
    cookies = {THEME: SEEN_IN[0][0].value, SESSION: console.session.cookie}
    context.add_cookies([{"name": name, "value": value, "url": console.url} for name, value in cookies.items()])
    opened = context.new_page()
    context.new_cdp_session(opened).send("Network.setCacheDisabled", {"cacheDisabled": True})
    yield opened
    context.close()


def test_a_page(console: Any, tab: Tab, page: Any) -> None:
    with _watched(tab) as (requests, complaints):
        response = tab.goto(console.url + page.address(console.stock), wait_until="load")
        assert response is not None and response.status == 200
        if page.drawn is not None:
            tab.wait_for_selector(page.drawn, state="attached")
        loaded = sum(request.sizes()["responseBodySize"] for request in requests)
        _let_axe_look(tab)
    assert complaints == []
    assert [request.url for request in requests if not request.url.startswith(console.url)] == []
    assert loaded <= page.largest


def test_the_page_before_publishing(console: Any, tab: Tab) -> None:
    tab.goto(console.url + "/policies/-/edit?of=finance.discounts")
    text = tab.get_by_label("Policy", exact=True)
    written = text.input_value().replace('changelog: ""', "changelog: More.")
    with _watched(tab) as (_, complaints):
        text.fill(written.replace("highest: 0.25", "highest: 0.3"))
        tab.get_by_role("button", name="Compare and simulate").click()
        expect(tab.get_by_role("heading", level=1)).to_contain_text("Publish finance.discounts@")
        expect(tab.get_by_role("heading", name="Decisions of which it says something else")).to_be_visible()
        _let_axe_look(tab)
    assert complaints == []


def _let_axe_look(tab: Tab) -> None:
    """It finds nothing in either theme, on a phone and on a desk; nothing sticks out sideways, nor on the narrowest.

    One loaded page is resized and coloured anew: what differs is up to style sheets alone. It is left as on a phone.
    """
    # What loads itself anew every few seconds is dimmed until it has come, at which axe must not happen to look.
    tab.evaluate("document.addEventListener('htmx:before:request', (asked) => asked.preventDefault())")
    tab.wait_for_selector(".htmx-request", state="detached")
    tab.evaluate(AXE_SCRIPT)
    assert tab.evaluate("document.documentElement.dataset.theme") == SEEN_IN[0][0].value
    for size in (PHONE, DESK):
        tab.set_viewport_size(size)
        for theme, rules in SEEN_IN:
            tab.evaluate("theme => { document.documentElement.dataset.theme = theme }", theme.value)
            found = AxeResults(tab.evaluate("options => axe.run(options)", rules))
            assert found.violations_count == 0, f"{theme}, {size}: {found.generate_report()}"
        assert tab.evaluate("document.documentElement.scrollWidth <= innerWidth")
    tab.set_viewport_size(NARROWEST)
    assert tab.evaluate("document.documentElement.scrollWidth") <= NARROWEST["width"]
    tab.set_viewport_size(PHONE)


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


def test_a_theme_is_a_set_of_colours() -> None:
    sheets = "\n".join(sheet.read_text("utf-8") for sheet in (REPOSITORY / "api/console/static").glob("*.css"))
    themed = re.findall(r"data-theme[^{}]*\{([^{}]*)\}", sheets)
    declared = {line.partition(":")[0].strip() for rule in themed for line in rule.split(";") if line.strip()}
    assert declared == {"color-scheme", "filter"}


def test_every_family_is_looked_at(console: Any, pages: Any) -> None:
    looked_at = {one.address(console.stock).partition("?")[0] for one in pages}
    assert {family.path for family in navigation.families()} <= looked_at
