"""`stemma browser` with and without a Chromium."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from stemma.browser import find
from stemma.errors import Unavailable
from stemma.store.settings import Settings


def test_status_and_install_show_the_one_that_is_there(done: Callable[..., Any]) -> None:
    try:
        path = find(Settings())
    except Unavailable as error:
        pytest.skip(str(error))
    shown = done("browser", "status")
    assert shown["path"] == str(path) and shown["version"]
    assert done("browser", "install") == shown


@pytest.mark.parametrize("command", ["status", "install"])
def test_a_setting_that_names_none_is_one_line(
    stemma: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, command: str
) -> None:
    monkeypatch.setenv("STEMMA_CHROMIUM", str(tmp_path))
    ended = stemma("browser", command)
    assert (ended.code, ended.out, len(ended.err.splitlines())) == (5, "", 1)
    assert "chromium_missing" in ended.err and "STEMMA_CHROMIUM" in ended.err
