"""Chromium for assets that make pictures or PDFs; it is started when one is first asked for."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import dagster as dg
from pydantic import PrivateAttr

if TYPE_CHECKING:
    from playwright.sync_api import Browser


class BrowserResource(dg.ConfigurableResource):
    """Renders HTML of any origin: without scripts, the network or files. Raises Unavailable where Chromium is not."""

    _opened: contextlib.ExitStack = PrivateAttr(default_factory=contextlib.ExitStack)
    _browser: Browser | None = PrivateAttr(default=None)

    def teardown_after_execution(self, context: dg.InitResourceContext) -> None:
        """Close it."""
        self._opened.close()

    def png(self, html: str, *, width: int, height: int) -> bytes:
        """A picture of a page, in CSS pixels."""
        from stemma.browser import render_png

        return render_png(self._running(), html, width=width, height=height)

    def pdf(self, html: str) -> bytes:
        """A page as a PDF."""
        from stemma.browser import render_pdf

        return render_pdf(self._running(), html)

    def _running(self) -> Browser:
        from stemma.browser import launched
        from stemma.store.settings import load_settings

        if self._browser is None:
            self._browser = self._opened.enter_context(launched(load_settings()))
        return self._browser
