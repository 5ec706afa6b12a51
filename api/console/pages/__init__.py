"""One module per page or family of pages; each has a `router` that is listed here."""

from typing import Final

from fastapi import APIRouter

from api.console.pages import overview, preferences

ROUTERS: Final[tuple[APIRouter, ...]] = (overview.router, preferences.router)
