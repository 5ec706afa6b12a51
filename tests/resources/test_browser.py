"""The browser as a resource of a run."""

from __future__ import annotations

import dagster as dg
import pytest

from resources.browser import BrowserResource
from stemma.browser import find
from stemma.errors import Unavailable
from stemma.store.settings import Settings


@dg.asset
def card(browser: BrowserResource) -> dg.MaterializeResult:
    made = [browser.png("<h1>One</h1>", width=64, height=64), browser.pdf("<h1>Two</h1>")]
    return dg.MaterializeResult(metadata={"starts": str([content[:5] for content in made])})


def test_an_asset_renders_with_it() -> None:
    try:
        find(Settings())
    except Unavailable as error:
        pytest.skip(str(error))
    result = dg.materialize([card], resources={"browser": BrowserResource()})
    (event,) = result.asset_materializations_for_node("card")
    assert event.metadata["starts"].value == str([b"\x89PNG\r", b"%PDF-"])


def test_a_run_without_one_fails_with_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STEMMA_CHROMIUM", "/nonexistent")
    with pytest.raises(Unavailable) as missing:
        dg.materialize([card], resources={"browser": BrowserResource()})
    assert missing.value.code == "chromium_missing"
