"""Chromium: which one is used, how it is started, and what it makes of HTML.

It is needed for pictures and PDFs and for the tests of pages; everything else works without. Getting one onto the
machine is `stemma.browser_install`'s business.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Final

from stemma.errors import Unavailable
from stemma.store.settings import Settings

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

NAMES: Final = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
"""What the systems' packages call it, in the order of preference."""

FLAGS: Final = (
    "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
)  # fmt: skip
WEBGL_FLAGS: Final = ("--use-angle=swiftshader", "--enable-unsafe-swiftshader")

_DOWNLOADED = ("chromium-*/chrome-linux*/chrome", "chromium-*/chrome-mac*/*.app/Contents/MacOS/*")
_ANSWER_SECONDS = 30
_RENDER_MS = 30_000
_NOWHERE = "http://127.0.0.1:9"


def find(settings: Settings) -> Path:
    """The Chromium that `STEMMA_CHROMIUM` names, else the system's, else the newest that Playwright downloaded.

    Raises Unavailable with code `chromium_missing`.
    """
    if settings.chromium is not None:
        if found := shutil.which(settings.chromium):
            return Path(found)
        what = f"{settings.chromium} is no program that can be run."
        hint = "Name Chromium's executable, or unset it to have one found."
        raise Unavailable("chromium_missing", what, field="STEMMA_CHROMIUM", hint=hint)
    for name in NAMES:
        if found := shutil.which(name):
            return Path(found)
    downloads = itertools.chain.from_iterable(downloads_folder().glob(pattern) for pattern in _DOWNLOADED)
    newest = max(downloads, key=lambda path: path.stat().st_mtime, default=None)
    if newest is not None:
        return newest
    hint = "Run `make browser`, or install Chromium and name it in STEMMA_CHROMIUM where it is not on the PATH."
    raise Unavailable("chromium_missing", "There is no Chromium on this machine.", hint=hint)


def downloads_folder() -> Path:
    """Where Playwright puts the browsers that it downloads."""
    given = os.environ.get("PLAYWRIGHT_BROWSERS_PATH")
    caches = "Library/Caches" if sys.platform == "darwin" else ".cache"
    return Path(given) if given else Path.home() / caches / "ms-playwright"


def version(path: Path) -> str:
    """What a Chromium calls itself, such as `Chromium 150.0.7871.100`; raises Unavailable where it does not start."""
    try:
        told = subprocess.run([path, "--version"], capture_output=True, text=True, timeout=_ANSWER_SECONDS, check=True)
    except (OSError, subprocess.SubprocessError) as error:
        raise _not_starting(path, str(getattr(error, "stderr", None) or error)) from error
    return " ".join(told.stdout.split()[:2])


def _not_starting(path: Path, why: str) -> Unavailable:
    reason = next((line.strip() for line in why.splitlines() if line.strip()), "it said nothing")
    hint = "As root, `python -m playwright install-deps chromium` installs the libraries that it needs."
    return Unavailable("chromium_not_starting", f"{path} does not start: {reason}", hint=hint)


@contextlib.contextmanager
def launched(settings: Settings, *, webgl: bool = False) -> Iterator[Browser]:
    """A headless Chromium for the block, which draws WebGL in software where that is asked for; not inside a running
    event loop.

    Raises Unavailable with code `chromium_missing` or `chromium_not_starting`.
    """
    from playwright.sync_api import Error, sync_playwright

    path = find(settings)
    flags = [*FLAGS, *(WEBGL_FLAGS if webgl else ())]
    with sync_playwright() as playwright:
        try:
            # Chromium refuses its sandbox to root, and nobody else goes without.
            browser = playwright.chromium.launch(executable_path=path, args=flags, chromium_sandbox=os.geteuid() != 0)
        except Error as error:
            raise _not_starting(path, error.message) from error
        with browser:
            yield browser


def render_png(browser: Browser, html: str, *, width: int, height: int) -> bytes:
    """A picture of a page, in CSS pixels. Raises Unavailable with code `rendering_failed`."""
    with _shown(browser, html, width, height) as page:
        return page.screenshot(type="png", animations="disabled")


def render_pdf(browser: Browser, html: str) -> bytes:
    """A page as a PDF: A4, or as its `@page` rule says. Raises Unavailable with code `rendering_failed`."""
    with _shown(browser, html, 1280, 720) as page:
        return page.pdf(format="A4", print_background=True, prefer_css_page_size=True)


@contextlib.contextmanager
def _shown(browser: Browser, html: str, width: int, height: int) -> Iterator[Page]:
    """The page in a profile of its own: whoever wrote it, it runs no script and reaches neither network nor files."""
    from playwright.sync_api import Error

    context = browser.new_context(
        viewport={"width": width, "height": height},
        java_script_enabled=False,
        offline=True,
        service_workers="block",
        # A connection is begun before a request is asked about; this way it leads nowhere.
        proxy={"server": _NOWHERE, "bypass": "<-loopback>"},
    )
    context.set_default_timeout(_RENDER_MS)
    with context:
        try:
            page = context.new_page()
            # Any other reason would put an error page in place of one that wants to go elsewhere.
            page.route("**/*", lambda route: route.abort("aborted"))
            page.set_content(html, wait_until="load")
            yield page
        except Error as error:
            reason = error.message.splitlines()[0]
            raise Unavailable("rendering_failed", f"Chromium did not render the page: {reason}") from error
