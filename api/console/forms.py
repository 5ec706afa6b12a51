"""How a form is answered: by a redirect after the change, and a message that the next page shows once.

So a form works without JavaScript, and loading the page again changes nothing again. What a form has to show besides
its fields is `api.sessions`' business.
"""

from __future__ import annotations

import base64
import binascii
import json
from typing import Final, Literal

from fastapi import Request, Response
from fastapi.responses import RedirectResponse

FLASH_COOKIE: Final = "stemma_flash"

Tone = Literal["good", "bad", "info"]

_FLASH_SECONDS = 60
_LONGEST_FLASH = 500


def redirect(to: str, *, said: str | None = None, tone: Tone = "good") -> Response:
    """Send the browser to another page (303), which shows the message once."""
    response = RedirectResponse(to, status_code=303)
    if said is not None:
        text = base64.urlsafe_b64encode(json.dumps([tone, said[:_LONGEST_FLASH]]).encode()).decode()
        response.set_cookie(FLASH_COOKIE, text, max_age=_FLASH_SECONDS, httponly=True, samesite="strict")
    return response


def flash(request: Request) -> tuple[str, str] | None:
    """The tone and text that the page before left for this one; anything else in the cookie is nothing."""
    given = request.cookies.get(FLASH_COOKIE)
    if given is None:
        return None
    try:
        tone, text = json.loads(base64.urlsafe_b64decode(given))
    except (ValueError, TypeError, binascii.Error, RecursionError):
        return None
    if tone not in ("good", "bad", "info") or not isinstance(text, str):
        return None
    return tone, text[:_LONGEST_FLASH]
