"""Chromium: found, missing and not starting; what it makes of HTML, and what a page cannot do there."""

from __future__ import annotations

import io
import socket
from collections.abc import Iterator
from pathlib import Path

import pypdfium2
import pytest
from PIL import Image
from playwright.sync_api import Browser

from stemma import browser, browser_install
from stemma.errors import Unavailable
from stemma.store.settings import Settings

CARD = """<!DOCTYPE html><style>body { margin: 0; background: #c00; color: #fff }</style><h1>Stemma card</h1>"""


@pytest.fixture
def bare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """A machine without any browser."""
    monkeypatch.delenv("STEMMA_CHROMIUM", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("PLAYWRIGHT_BROWSERS_PATH", str(tmp_path / "downloads"))
    return Settings(home=tmp_path / "home")


def _executable(path: Path, program: str = "exit 0") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{program}\n")
    path.chmod(0o755)
    return path


def test_the_named_one_comes_first_then_the_system_s_then_a_download(bare: Settings, tmp_path: Path) -> None:
    with pytest.raises(Unavailable) as missing:
        browser.find(bare)
    assert missing.value.code == "chromium_missing" and "make browser" in (missing.value.hint or "")
    downloaded = _executable(tmp_path / "downloads" / "chromium-1234" / "chrome-linux" / "chrome")
    assert browser.find(bare) == downloaded
    system = _executable(tmp_path / "chromium-browser")
    assert browser.find(bare) == system
    named = _executable(tmp_path / "mine" / "browser")
    assert browser.find(bare.model_copy(update={"chromium": str(named)})) == named


def test_a_named_one_that_is_none_is_told_with_the_setting(bare: Settings, tmp_path: Path) -> None:
    _executable(tmp_path / "chromium")
    settings = bare.model_copy(update={"chromium": str(tmp_path / "nothing")})
    for look in (browser.find, browser_install.find_or_install):
        with pytest.raises(Unavailable) as missing:
            look(settings)
        assert (missing.value.code, missing.value.field) == ("chromium_missing", "STEMMA_CHROMIUM")


def test_one_that_does_not_start_is_told_with_its_reason(bare: Settings, tmp_path: Path) -> None:
    path = _executable(tmp_path / "chromium", "echo libnss3.so: cannot open shared object file >&2; exit 127")
    with pytest.raises(Unavailable) as broken:
        browser.version(path)
    assert broken.value.code == "chromium_not_starting" and "libnss3.so" in broken.value.message
    with pytest.raises(Unavailable) as broken, browser.launched(bare):
        pass
    assert broken.value.code == "chromium_not_starting"


def test_without_a_network_installing_fails_at_once_and_says_so(
    bare: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        monkeypatch.setenv("PLAYWRIGHT_DOWNLOAD_HOST", f"http://127.0.0.1:{closed.getsockname()[1]}")
        _executable(tmp_path / "apt-get", "echo 'E: Temporary failure resolving a mirror'; exit 100")
        with pytest.raises(Unavailable) as failed:
            browser_install.find_or_install(bare)
    assert failed.value.code == "chromium_not_installed" and "ECONNREFUSED" in failed.value.message


# A real one


@pytest.fixture(scope="module")
def running() -> Iterator[Browser]:
    try:
        browser.find(Settings())
    except Unavailable as error:
        pytest.skip(str(error))
    with browser.launched(Settings()) as opened:
        yield opened


def test_it_tells_its_version() -> None:
    try:
        path = browser.find(Settings())
    except Unavailable as error:
        pytest.skip(str(error))
    assert browser.version(path).split()[-1][0].isdigit()


def test_a_page_becomes_a_picture_of_that_size(running: Browser) -> None:
    picture = Image.open(io.BytesIO(browser.render_png(running, CARD, width=320, height=200)))
    assert (picture.format, picture.size) == ("PNG", (320, 200))
    assert picture.convert("RGB").getpixel((319, 199)) == (0xCC, 0, 0)


def test_a_page_becomes_a_pdf_with_its_text(running: Browser) -> None:
    with pypdfium2.PdfDocument(browser.render_pdf(running, CARD)) as document:
        assert len(document) == 1
        assert "Stemma card" in document[0].get_textpage().get_text_range()


def test_a_page_reaches_nothing_and_runs_nothing(running: Browser, tmp_path: Path) -> None:
    (tmp_path / "secret.html").write_text("<h1>secret</h1>")
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0)
        address = f"http://127.0.0.1:{server.getsockname()[1]}"
        page = f"""{CARD}<img src="{address}/a"><iframe src="file://{tmp_path}/secret.html"></iframe>
            <link rel="stylesheet" href="{address}/b"><script>document.body.textContent = "ran"</script>
            <meta http-equiv="refresh" content="0; url={address}/c">"""
        made = browser.render_pdf(running, page)
        with pytest.raises(BlockingIOError):
            server.accept()
    with pypdfium2.PdfDocument(made) as document:
        text = document[0].get_textpage().get_text_range()
    assert "Stemma card" in text and "secret" not in text and "ran" not in text
