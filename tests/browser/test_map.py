"""The map in a real browser with WebGL: what it draws is what the row ledger says, and how it is used."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator
from typing import Any
from uuid import UUID

import pytest
from playwright.sync_api import Browser, expect
from playwright.sync_api import Page as Tab

from api.sessions import COOKIE
from stemma.access.principal import local_principal
from stemma.jobs import lifecycle as jobs
from stemma.jobs.running import RunningJob
from stemma.ledger.service import Ledger
from stemma.maps import cleaning, lifecycle, tiling
from stemma.maps.catalog import find_layer
from stemma.maps.part_memory import PartMemory
from stemma.maps.registration import register
from stemma.progress import Progress
from stemma.store.files import FileStore


@pytest.fixture
def tab(browser: Browser, console: Any) -> Iterator[Tab]:
    """A signed-in tab."""
    context = browser.new_context(base_url=console.url, viewport={"width": 1280, "height": 900})
    context.add_cookies([{"name": COOKIE, "value": console.session.cookie, "url": console.url}])
    yield context.new_page()
    context.close()


def rendered(tab: Tab) -> int:
    """How much of the layer in question the map draws, once it has drawn it."""
    tab.wait_for_selector("#map[data-idle]", state="attached")
    return int(tab.locator("#counted").get_attribute("data-rendered") or 0)


@pytest.mark.parametrize(
    ("layer", "zoom"), [("crimes", None), ("crimes", 0), ("crimes", 9), ("streets", None), ("wards", None)]
)
def test_what_is_drawn_is_what_the_ledger_releases(console: Any, tab: Tab, layer: str, zoom: int | None) -> None:
    at = "" if zoom is None else f"&at={zoom}/51.5/-0.1"
    tab.goto(f"/play/map?about={layer}{at}")
    assert rendered(tab) == console.layers[layer].ledger.released > 0
    expect(tab.locator("#counted")).to_contain_text("All ")


def test_filters_count_what_they_let_through_and_stay_in_the_address(console: Any, tab: Tab) -> None:
    tab.goto("/play/map?about=crimes&at=7/51.5/-0.1")
    said = {row.split("\t")[0].strip(): row for row in tab.locator("#tables table").first.inner_text().splitlines()}
    burglaries = int(said["Burglary"].split("\t")[1].replace(",", ""))
    for other in ("Arson", "Theft"):
        tab.get_by_role("checkbox", name=re.compile(other)).uncheck()
    assert rendered(tab) == burglaries
    tab.reload()
    assert "only=Burglary" in tab.url
    assert rendered(tab) == burglaries
    tab.get_by_role("checkbox", name=re.compile("Burglary")).uncheck()
    assert rendered(tab) == 0
    tab.goto("/play/map?about=crimes&at=7/51.5/-0.1")
    tab.get_by_label("From").select_option("2020-02")
    assert rendered(tab) == 1000
    tab.get_by_role("checkbox", name="Streets").check()
    tab.wait_for_selector("#map[data-idle]", state="attached")
    assert "on=crimes&on=streets" in tab.url and "from=2020-02" in tab.url
    expect(tab.locator("[data-credit=streets]")).to_be_visible()


def test_something_is_picked_by_mouse_and_by_keyboard(console: Any, tab: Tab) -> None:
    tab.goto("/play/map?about=wards&at=11/51.475/-0.175")
    rendered(tab)
    box = tab.locator("#map canvas").bounding_box()
    assert box is not None
    tab.mouse.click(box["x"] + box["width"] / 2 + 10, box["y"] + box["height"] / 2)
    expect(tab.locator("#picked")).to_contain_text("-0.2/51.45")
    canvas = tab.get_by_role("region", name="Map: arrows move it")
    canvas.focus()
    tab.keyboard.press("ArrowRight")
    expect(tab).not_to_have_url(re.compile(r"-0\.17500"))
    rendered(tab)
    tab.keyboard.press("Enter")
    expect(tab.locator("#picked")).to_contain_text("party")
    expect(tab.locator("#picked")).not_to_contain_text("-0.2/51.45")
    tab.goto("/play/map?about=wards&at=11/0/0")
    rendered(tab)
    tab.get_by_role("region", name="Map: arrows move it").press("Enter")
    expect(tab.locator("#picked")).to_contain_text("There is nothing there.")


def test_a_build_is_followed_to_its_new_tiles(console: Any, tab: Tab) -> None:
    """The job is carried out here as its run would."""
    database, settings, run_id = console.database, console.settings, "run-ponds"
    files = FileStore.open_default(settings)
    with Ledger(database.urls, settings) as ledger:

        def commit(prepare: Callable[[Any], Any]) -> Any:
            return ledger.commit(database.read(prepare)).result(20)

        parks = database.read(lambda connection: find_layer(connection, "parks"))
        layer = parks.layer.model_copy(update={"id": "ponds", "title": "Ponds"})
        ponds = commit(lambda connection: register(connection, local_principal(), layer, folder=parks.folder))
        tab.goto("/play/map?about=ponds")
        expect(tab.get_by_role("checkbox", name="Ponds")).to_be_disabled()
        tab.get_by_role("button", name="Build tiles").click()
        expect(tab.locator("#how .badge")).to_have_text("queued")
        (asked,) = console.client.get("/api/v1/jobs?kind=map:build").json()["data"]
        job = commit(lambda connection: jobs.claim(connection, UUID(asked["id"]), run_id))
        expect(tab.locator("#how .badge")).to_have_text("running")
        RunningJob(database, ledger, job, run_id, threading.Event()).progress(Progress("encoded", "tiles", 3, 4, 0.1))
        expect(tab.get_by_label("Encoded: 3 of 4 tiles")).to_have_js_property("value", 3)
        cleaned, _ = cleaning.clean_layer(files, ponds, settings)
        archive = tiling.build_archive(files, layer, cleaned, None, run_id, PartMemory()).archive
        commit(lambda _: lifecycle.activated(archive))
        commit(lambda connection: jobs.finish(connection, job.id, run_id))
    expect(tab.locator("#how .badge")).to_have_text("done")
    expect(tab.locator("#built")).to_contain_text(archive.sha256)
    # Its map is drawn without loading the page again.
    tab.get_by_role("checkbox", name="Ponds").check()
    expect(tab.locator("#counted")).to_have_attribute("data-rendered", "1")


def test_without_webgl_the_tables_are_pointed_at(console: Any, browser: Browser) -> None:
    context = browser.new_context(base_url=console.url)
    context.add_cookies([{"name": COOKIE, "value": console.session.cookie, "url": console.url}])
    context.add_init_script("HTMLCanvasElement.prototype.getContext = () => null")
    tab = context.new_page()
    tab.goto("/play/map")
    expect(tab.get_by_text("it has no WebGL")).to_be_visible()
    context.close()
