"""One module per page or family of pages; each has a `router` that is listed here."""

from typing import Final

from fastapi import APIRouter

from api.console.pages import keys, overview, preferences, search

ROUTERS: Final[tuple[APIRouter, ...]] = (overview.router, search.router, keys.router, preferences.router)
