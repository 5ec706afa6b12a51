"""What somebody does in the console: sign in, search, upload, add a paper, choose a theme; with scripts and without."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import UUID

import dagster as dg
import pytest
from playwright.sync_api import Browser, BrowserContext, expect
from playwright.sync_api import Page as Tab

from api.sessions import COOKIE
from resources.instance import open_instance
from stemma.jobs import lifecycle
from stemma.ledger.journal import transition
from stemma.ledger.service import Ledger
from stemma.papers import catalog, planning, steps
from stemma.papers import pages as pdf
from stemma.papers.claims.reading import read_claims
from stemma.store.files import FileStore
from stemma.store.settings import REPOSITORY

SHEETS = REPOSITORY / "samples" / "papers"


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


def test_a_job_is_asked_for_followed_and_cancelled(console: Any, tab: Tab, request: pytest.FixtureRequest) -> None:
    tab.context.add_cookies([{"name": COOKIE, "value": console.session.cookie, "url": console.url}])
    tab.goto("/jobs")
    tab.get_by_role("link", name="Submit a job").click()
    tab.get_by_role("link", name="noop").click()
    tab.get_by_label("Message").fill("good evening")
    tab.get_by_label("Time", exact=True).fill("2020-01-31T06:00")
    tab.get_by_label("Time zone").fill("Europe/Berlin")
    tab.get_by_role("button", name="Submit noop").click()
    expect(tab.locator("#wrong-scheduled_at")).to_contain_text("2020-01-31T06:00:00+01:00 is past")
    expect(tab.get_by_label("Message")).to_have_value("good evening")
    tab.get_by_label("Time", exact=True).fill("")
    # A second click sends nothing where scripts run; `tests/api/test_console.py` sends the form twice.
    tab.get_by_role("button", name="Submit noop").click(click_count=1 if "no-scripts" in request.node.name else 2)
    expect(tab.locator("#state")).to_have_text("queued")

    # Somebody else's change is seen at once where scripts run, and on loading the page again where not.
    job_id = tab.url.rpartition("/")[2]
    with Ledger(console.database.urls, console.settings) as ledger:
        ledger.commit(console.database.read(lambda c: lifecycle.claim(c, UUID(job_id), "run-1"))).result(20)
    if "no-scripts" in request.node.name:
        tab.reload()
    expect(tab.locator("#events")).to_contain_text("Attempt 1 started")
    expect(tab.locator("#state")).to_have_text("running")

    tab.get_by_role("link", name="Cancel").click()
    tab.get_by_role("button", name="Cancel the job").click()
    expect(tab.get_by_role("status").first).to_contain_text("asked to stop")
    expect(tab.locator("#state")).to_have_text("cancelling")


def test_a_log_grows_under_its_reader(console: Any, browser: Browser) -> None:
    @dg.job
    def idle() -> None:
        """Nothing."""

    with open_instance(console.settings, console.database.urls) as instance:
        run = instance.create_run_for_job(idle, status=dg.DagsterRunStatus.STARTED)
        context = browser.new_context(base_url=console.url)
        context.add_cookies([{"name": COOKIE, "value": console.session.cookie, "url": console.url}])
        tab = context.new_page()
        tab.goto(f"/runs/{run.run_id}")
        expect(tab.get_by_text("No line of this level so far.")).to_be_visible()
        instance.report_engine_event("the first chapter is read", run)
        expect(tab.locator("#lines")).to_contain_text("the first chapter is read")
        instance.report_run_failed(run)
        expect(tab.locator("#state")).to_have_text("failed")
        context.close()


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


def test_the_historian_counts_what_comes_and_moves_nothing(console: Any, browser: Browser) -> None:
    context = browser.new_context(base_url=console.url)
    context.add_cookies([{"name": COOKIE, "value": console.session.cookie, "url": console.url}])
    tab = context.new_page()
    tab.goto("/historian?kind=flow.")
    expect(tab.get_by_text("Nothing fits")).to_be_visible()
    told = [transition(kind, subject="page", actor="test", data={}) for kind in ("flow.one", "other.one", "flow.two")]
    with Ledger(console.database.urls, console.settings) as ledger:
        ledger.append(told).result(20)
    link = tab.get_by_role("link", name="2 new entries")
    expect(link).to_be_visible()
    expect(tab.get_by_text("Nothing fits")).to_be_visible()
    link.click()
    expect(tab.get_by_role("row")).to_have_count(3)
    expect(link).to_be_hidden()
    context.close()


def test_an_approval_is_decided_on_a_page_of_its_own(console: Any, tab: Tab) -> None:
    tab.context.add_cookies([{"name": COOKIE, "value": console.session.cookie, "url": console.url}])
    waiting = console.stock.approvals["waiting"]
    tab.goto(f"/approvals/{waiting.id}")
    tab.get_by_role("link", name="Deny…").click()
    tab.get_by_label("Reason").fill(" ")
    tab.get_by_role("button", name="Deny").click()
    expect(tab.get_by_text("Say why, in a sentence.")).to_be_visible()
    tab.get_by_role("link", name="Go back").click()
    expect(tab.get_by_role("link", name="Approve…")).to_be_visible()


def test_a_policy_is_written_and_published(console: Any, tab: Tab, request: pytest.FixtureRequest) -> None:
    scripts = "no-scripts" not in request.node.name
    tab.context.add_cookies([{"name": COOKIE, "value": console.session.cookie, "url": console.url}])
    tab.goto("/policies/hr.leave@1.0.0")
    tab.get_by_role("link", name="Write the next version").click()
    text = tab.get_by_label("Policy", exact=True)

    def write(before: str, after: str) -> None:
        """Type it; where scripts run, that alone has it checked."""
        policy = text.input_value()
        assert before in policy
        text.fill(policy.replace(before, after))
        if not scripts:
            tab.get_by_role("button", name="Check").click()

    expect(tab.locator("#checked")).to_contain_text("There is no changelog.")
    write("most_away: 0.4", "most_away: [")
    expect(tab.locator("#checked")).to_contain_text("It is no YAML")
    write("most_away: [", f"most_away: {0.31 if scripts else 0.32}")
    expect(tab.locator("#checked")).to_contain_text("Policy, line 3, column 12")
    if scripts:
        expect(tab.locator(".gutter .wrong")).to_have_text("3")
        tab.get_by_role("link", name="Policy, line 3, column 12").click()
        expect(text).to_be_focused()
        assert text.evaluate("area => area.value.slice(0, area.selectionStart).split('\\n').length") == 3
    write('changelog: ""', "changelog: Fewer may be away at once.")
    expect(tab.locator("#sum")).to_have_text("nothing is wrong")
    tab.get_by_role("button", name="Compare and simulate").click()
    expect(tab.get_by_role("row", name="policy › parameters › most_away")).to_be_visible()
    tab.get_by_role("button", name="Back to the editor").click()
    expect(text).to_have_value(re.compile("Fewer may be away at once"))
    tab.get_by_role("button", name="Compare and simulate").click()
    tab.get_by_role("button", name="Publish hr.leave@").click()
    expect(tab.get_by_role("status").first).to_contain_text("is published")
    expect(tab.get_by_text("Fewer may be away at once.").first).to_be_visible()


def test_what_waits_is_decided_from_the_queue(console: Any, tab: Tab, request: pytest.FixtureRequest) -> None:
    tab.context.add_cookies([{"name": COOKIE, "value": console.session.cookie, "url": console.url}])
    event = {"type": "LeaveRequested", "data": {"kind": "annual", "days": 30, "notice_days": 1}}
    answer = console.client.post("/api/v1/decisions/hr", json={"event": event})
    assert answer.status_code == 201, answer.text
    asked = answer.json()["id"]
    tab.goto("/decisions/review?node=hr")
    tab.get_by_role("link", name=f"Deny {asked}").click()
    tab.get_by_label("Reason").fill("The days do not suffice.")
    tab.get_by_role("button", name="Deny").click()
    expect(tab.get_by_role("status").first).to_contain_text("Denied.")
    expect(tab.get_by_text("The days do not suffice.")).to_be_visible()
    tab.goto("/decisions/review?node=hr")
    expect(tab.get_by_role("link", name=f"Deny {asked}")).to_have_count(0)


def test_a_paper_is_added_and_seen_while_it_is_read(
    console: Any, tab: Tab, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    scripts = "no-scripts" not in request.node.name
    tab.context.add_cookies([{"name": COOKIE, "value": console.session.cookie, "url": console.url}])
    tab.goto("/papers")
    (tmp_path / "lie.pdf").write_bytes(b"<html></html>")
    tab.get_by_label("PDF", exact=True).set_input_files(tmp_path / "lie.pdf")
    tab.get_by_role("button", name="Add it").click()
    expect(tab.get_by_role("alert")).to_contain_text("The file is no PDF, whatever its name says.")
    sheet = SHEETS / ("s6_wdbc_plane.pdf" if scripts else "s5_ucr_1nn.pdf")
    tab.get_by_label("PDF", exact=True).set_input_files(sheet)
    tab.get_by_role("button", name="Add it").click()
    expect(tab.get_by_text("It is being read: first its words")).to_be_visible()

    # Somebody else works on it: seen at once where scripts run, and on loading the page again where not.
    files, paper_id = FileStore.open_default(console.settings), UUID(tab.url.rpartition("/")[2])
    with Ledger(console.database.urls, console.settings) as ledger:

        def write(prepare: Any) -> None:
            ledger.commit(console.database.read(prepare)).result(20)

        paper = console.database.read(lambda c: catalog.get_paper(c, paper_id))
        read = pdf.read_pages(sheet.read_bytes(), console.settings)
        key = files.write(f"papers/{paper_id}/pages.json", pdf.to_json(read)).key
        write(lambda c: steps.pages_read(c, paper, key, len(read)))
        write(lambda c: steps.claims_found(c, paper, read_claims(read), actor="test"))
        claims = console.database.read(lambda c: catalog.list_claims(c, paper.id))
        write(lambda c: planning.plan_made(c, paper, planning.propose(paper, claims), actor="test"))
    if not scripts:
        tab.reload()
    expect(tab.locator("#plan")).to_contain_text("Method")
    expect(tab.locator(".claims .value").first).to_have_text(claims[0].printed if not claims[0].unit else "97.5 %")
    if scripts:
        expect(tab.get_by_role("button", name="Run it")).to_be_enabled()
    else:
        expect(tab.get_by_text("It cannot be run here")).to_be_visible()
        expect(tab.get_by_role("button", name="Run it")).to_be_disabled()
