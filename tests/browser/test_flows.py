"""What somebody does in the console: sign in, search, upload, choose a theme, sign out; with scripts and without."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from playwright.sync_api import Browser, BrowserContext, expect
from playwright.sync_api import Page as Tab

from api.sessions import COOKIE


@pytest.fixture(params=[True, False], ids=["scripts", "no-scripts"])
def tab(browser: Browser, console: Any, request: pytest.FixtureRequest) -> Iterator[Tab]:
    """A tab of somebody who is not signed in yet."""
    context: BrowserContext = browser.new_context(base_url=console.url, java_script_enabled=request.param)
    yield context.new_page()
    context.close()


def test_from_signing_in_to_signing_out(console: Any, tab: Tab) -> None:
    tab.goto("/search?q=bread")
    expect(tab).to_have_url(f"{console.url}/sign-in?next=/search%3Fq%3Dbread")
    tab.get_by_label("API key").fill("stm_wrong")
    tab.get_by_role("button", name="Sign in").click()
    expect(tab.get_by_role("alert")).to_be_visible()
    tab.get_by_label("API key").fill(console.issued.key)
    tab.get_by_role("button", name="Sign in").click()
    expect(tab).to_have_url(f"{console.url}/search?q=bread")
    expect(tab.get_by_role("heading", name="Bread")).to_be_visible()

    tab.get_by_label("What to look for").fill("exact scan")
    tab.get_by_role("button", name="Search").click()
    expect(tab.locator("mark").first).to_be_visible()
    expect(tab).to_have_url(f"{console.url}/search?q=exact+scan&mode=hybrid")
    tab.get_by_role("link", name="Vector search").first.click()
    expect(tab.get_by_role("heading", level=1)).to_have_text("Vector search")

    tab.goto("/search")
    tab.get_by_label("Document").set_input_files({"name": "run.exe", "mimeType": "", "buffer": b"MZ\0\0"})
    tab.get_by_role("button", name="Upload").click()
    expect(tab.locator(".notice.bad")).to_be_visible()

    tab.get_by_label("Theme").select_option("narco-noir")
    tab.get_by_role("button", name="Set the theme").click()
    expect(tab.locator("html")).to_have_attribute("data-theme", "narco-noir")

    tab.get_by_role("button", name="Sign out").click()
    expect(tab).to_have_url(f"{console.url}/sign-in")
    assert COOKIE not in {cookie["name"] for cookie in tab.context.cookies()}


def test_the_menu_of_a_phone_opens_and_closes(console: Any, browser: Browser) -> None:
    context = browser.new_context(base_url=console.url, viewport={"width": 390, "height": 844})
    context.add_cookies([{"name": COOKIE, "value": console.session.cookie, "url": console.url}])
    phone = context.new_page()
    phone.goto("/")
    link = phone.get_by_role("link", name="Keys")
    expect(link).to_be_hidden()
    phone.get_by_role("button", name="Menu").click()
    expect(link).to_be_visible()
    phone.keyboard.press("Escape")
    expect(link).to_be_hidden()
    context.close()
