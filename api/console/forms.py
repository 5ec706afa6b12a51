"""How a form is answered: by a redirect after the change, and a message that the next page shows once.

So a form works without JavaScript, and loading the page again changes nothing again. A form that makes something holds
a token, under which the change is made once however often the form is sent (`api.idempotency`). What a form has to
show besides is `api.sessions`' business.
"""

from __future__ import annotations

import base64
import binascii
import json
import secrets
from collections.abc import AsyncIterator
from typing import Annotated, Final, Literal

from fastapi import Depends, Form, Request, Response
from fastapi.responses import RedirectResponse

from api.deps import DatabaseDep
from api.idempotency import Once, keyed_by, once_for
from stemma.errors import Conflict, InvalidInput
from stemma.ledger.idempotency import Answer

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


def kept(response: Response) -> Answer:
    """What is kept of a redirect, for a form that is sent again."""
    return Answer(response.status_code, dict(response.headers), b"")


def new_token() -> str:
    """What `parts.once` puts into a form each time it is shown."""
    return secrets.token_urlsafe(16)


async def form_once(
    request: Request, database: DatabaseDep, token: Annotated[str, Form(alias="once", pattern="^[ -~]{0,64}$")] = ""
) -> AsyncIterator[Once]:
    """What commits the form's change; one that was answered before ends here with that answer.

    Raises Conflict with code `form_in_flight`, InvalidInput with code `form_reused`. A form without a token is sent by
    no page of ours and is taken each time.
    """
    if not token:
        yield Once(None)
        return
    try:
        async with once_for(request.app, database, await keyed_by(request, token)) as once:
            yield once
    except Conflict as error:
        if error.code != "idempotency_in_flight":
            raise
        what = "This form was sent a moment ago and is being worked on."
        raise Conflict("form_in_flight", what, hint="Load this page again.") from error
    except InvalidInput as error:
        if error.code != "idempotency_key_reused":
            raise
        what = "This form was sent before, with something else in it."
        raise InvalidInput("form_reused", what, hint="Open the form anew to send another one.") from error


FormOnceDep = Annotated[Once, Depends(form_once, scope="function")]


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
