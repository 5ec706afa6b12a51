"""How a template becomes a response: the environment, what every page is given, and the headers of a page.

What a page says belongs to its template and its module in `pages`.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final
from urllib.parse import parse_qsl, urlencode

from fastapi import Request, Response
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape
from starlette.types import Scope

from api.console import files, forms, navigation, words
from api.console.themes import Theme, chosen
from api.problems import Problem
from stemma.access.principal import Principal

TEMPLATES: Final = Path(__file__).with_name("templates")

_VARY: Final = "Cookie, Accept, Accept-Encoding, HX-Request"
_GZIP_LEVEL = 5
_TONES: Final = {
    "good": {
        "ok",
        "ready",
        "active",
        "done",
        "approved",
        "used",
        "valid",
        "present",
        "created",
        "fresh",
        "success",
        "approve",
        "added",
        "passed",
        "reproduced",
        "succeeded",
        "accepted",
    },
    "bad": {
        "failed",
        "error",
        "revoked",
        "denied",
        "expired",
        "broken",
        "invalid",
        "deny",
        "removed",
        "not_reproduced",
        "rejected",
    },
    "warn": {
        *("pending", "waiting", "cancelling", "skipped", "stale", "not_running"),
        *("quarantined", "cancelled", "withdrawn", "erased", "postponed", "cancel_requested"),
        *("escalate", "changed", "inconclusive"),
    },
    "info": {
        "queued",
        "running",
        "starting",
        "started",
        "replaced",
        "building",
        "moved",
        "ingested",
        "extracted",
        "planned",
        "proposed",
    },
}
_UUID: Final = re.compile(r"\b([0-9a-f]{8})(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}\b")
_ASCENDING_SECONDS: Final = ((60, "s"), (3600, "min"), (86400, "h"), (86400 * 365, "d"))


def render(
    request: Request,
    template: str,
    *,
    status: int = 200,
    headers: Mapping[str, str] | None = None,
    store: bool = True,
    **context: Any,
) -> Response:
    """A page of `templates/`, as HTML in the shell.

    It is kept by the browser and asked for again (ETag, 304); with `store=False`, for what is shown once, it is not
    kept at all.
    """
    body = _environment.get_template(template).render(**_shared(request), **context).encode()
    flashed = forms.FLASH_COOKIE in request.cookies
    made = {"Vary": _VARY, "Cache-Control": "private, no-cache" if store else "no-store", **(headers or {})}
    if store and status == 200 and request.method == "GET" and not flashed:
        made["ETag"] = f'W/"{hashlib.sha256(body).hexdigest()[:32]}"'
        if made["ETag"] in request.headers.get("if-none-match", ""):
            return Response(status_code=304, headers=made)
    if "gzip" in request.headers.get("accept-encoding", ""):
        made["Content-Encoding"] = "gzip"
        body = gzip.compress(body, _GZIP_LEVEL)
    response = Response(body, status, made, "text/html")
    if flashed:
        response.delete_cookie(forms.FLASH_COOKIE, httponly=True, samesite="strict")
    return response


def render_problem(scope: Scope, problem: Problem) -> Response:
    """A problem as a page in the shell: what is wrong, where, and what to do.

    Where htmx asked for a part of a page, the whole of what it got stands in the place of the page's content.
    """
    request = Request(scope)
    template = "signed_out.html" if problem.status == 401 else "problem.html"
    retarget = {"HX-Retarget": "#content", "HX-Reselect": "#content", "HX-Reswap": "outerHTML"}
    headers = retarget if "hx-request" in request.headers else {}
    return render(request, template, status=problem.status, headers=headers, store=False, problem=problem)


def _shared(request: Request) -> dict[str, Any]:
    """What every template is given."""
    state = request.scope.get("state", {})
    principal: Principal | None = state.get("principal")
    session = state.get("session")
    settings = request.app.state.settings
    theme = chosen(request)
    return {
        "principal": principal,
        "groups": navigation.shown(principal, settings) if principal else {},
        "path": request.url.path,
        "here": request.url.path + (f"?{request.url.query}" if request.url.query else ""),
        "theme": theme,
        "themes": Theme,
        "csrf_token": session.csrf_token if session else None,
        "htmx_headers": json.dumps({"X-CSRF-Token": session.csrf_token}) if session else None,
        "flash": forms.flash(request),
        "now": datetime.now(UTC),
        "with_query": lambda **changes: with_query(request, **changes),
    }


def with_query(request: Request, **changes: str | int | None) -> str:
    """The address of this page with other values in its query; None takes a value out."""
    kept = [
        (name, value) for name, value in parse_qsl(request.url.query, keep_blank_values=True) if name not in changes
    ]
    query = urlencode([*kept, *((name, value) for name, value in changes.items() if value is not None)])
    return f"{request.url.path}?{query}" if query else request.url.path


def tone(state: str) -> str:
    """The tone in which a state is shown: good, bad, warn, info or plain."""
    return next((name for name, states in _TONES.items() if state in states), "plain")


def size(count: float) -> str:
    """Bytes in words, such as `1.4 MB`."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if count < 1000 or unit == "GB":
            break
        count /= 1000
    return f"{count:,.1f}".removesuffix(".0") + f" {unit}"


def duration(seconds: float) -> str:
    """Seconds in words, such as `340 ms`, `12.5 s` or `3 min 04 s`."""
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"


def number(value: float) -> str:
    """A figure with its thousands apart; a fraction to four digits."""
    return f"{value:,}" if isinstance(value, int) else f"{value:,.4f}".rstrip("0").rstrip(".")


def ago(at: datetime, now: datetime) -> str:
    """How long ago a time is, such as `4 min ago`, or how far ahead, such as `in 2 d`."""
    seconds = (now - at).total_seconds()
    away = abs(seconds)
    if away < 5:
        return "just now"
    divisor, unit = 1, "s"
    for limit, name in _ASCENDING_SECONDS:
        unit = name
        if away < limit:
            break
        divisor = limit
    if away >= 86400 * 365:
        return f"{at:%Y-%m-%d}"
    words = f"{int(away // divisor)} {unit}"
    return f"{words} ago" if seconds > 0 else f"in {words}"


def left(until: datetime, now: datetime) -> str:
    """How long there is until a time, in its two largest units, such as `2 d 4 h left`."""
    hours, minutes = divmod(max(int((until - now).total_seconds()), 0) // 60, 60)
    days, hours = divmod(hours, 24)
    if days:
        return f"{days} d {hours} h left"
    if hours:
        return f"{hours} h {minutes} min left"
    return f"{minutes} min left" if minutes else "less than a minute left"


def brief(text: str) -> str:
    """A name with each UUID in it cut to its first part, for lists; the whole belongs into a title beside it."""
    return _UUID.sub(r"\1…", text)


def marked(text: str, spans: Sequence[tuple[int, int]]) -> Markup:
    """A text with its spans marked; they are in order and do not overlap."""
    parts, at = [], 0
    for start, end in spans:
        parts += [escape(text[at:start]), Markup("<mark>{}</mark>").format(text[start:end])]
        at = end
    return Markup("").join([*parts, escape(text[at:])])


def utc(at: datetime) -> str:
    """A time to the second, in UTC."""
    return f"{at.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"


def _make_environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals |= {
        "static": files.address,
        "who_may": words.who_may,
        "levels": words.LEVELS,
        "rulings": words.RULINGS,
        "effects": words.EFFECTS,
        "decision_states": words.STATES,
    }
    environment.filters |= {
        "tone": tone,
        "size": size,
        "duration": duration,
        "ago": ago,
        "left": left,
        "brief": brief,
        "utc": utc,
        "marked": marked,
        "number": number,
        "part": words.part,
        "value": words.value,
        "short": lambda text: text[:12],
        "words": lambda text: text.replace("_", " "),
    }
    return environment


_environment: Final = _make_environment()
