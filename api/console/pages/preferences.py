"""What a browser may choose for itself: the theme."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Form, Response

from api.access import allow
from api.console.forms import redirect
from api.console.themes import COOKIE, KEPT_SECONDS, Theme
from api.limits import limited
from api.sessions import local_path

router = APIRouter(route_class=limited("console"), include_in_schema=False)


@router.post("/theme", dependencies=[allow(None, counted="console")])
async def choose_theme(theme: Annotated[Theme, Form()], back: Annotated[str, Form(max_length=4096)] = "/") -> Response:
    """Keep the choice in a cookie and go back to the page."""
    response = redirect(local_path(back))
    if theme is Theme.AUTO:
        response.delete_cookie(COOKIE, httponly=True, samesite="strict")
    else:
        response.set_cookie(COOKIE, theme, max_age=KEPT_SECONDS, httponly=True, samesite="strict")
    return response
