"""What it means that a provider answers with an HTTP status other than 200."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Final

from stemma.llm.failures import ProviderAway, ProviderFailed, away, refused
from stemma.llm.providers.base import Feature, Request

_CODE: Final = re.compile(r"[A-Za-z][A-Za-z0-9_.-]{0,63}")
_SCHEMA_WORDS: Final = ("response_format", "json_schema", "structured output", "grammar")


def refusal(provider: str, status: int, headers: Mapping[str, str], body: bytes) -> ProviderFailed:
    """The error for a status: overload and faults of the provider may pass, the rest is ours or its keys'."""
    if status == 429:
        what = f"The provider {provider} takes no more requests for now."
        hint = "Ask again later, or ask another provider."
        after = retry_after(headers)
        return ProviderAway("provider_rate_limited", provider, what, hint=hint, again=True, retry_after=after)
    if status >= 500 or status in (408, 409, 425):
        failure = away(provider, f"answered with HTTP {status}")
        failure.retry_after = retry_after(headers)
        return failure
    return refused(provider, status, _code(body))


def retry_after(headers: Mapping[str, str]) -> float | None:
    """The seconds of Retry-After (RFC 9110, 10.2.3), also of its variant in milliseconds; None where it says none."""
    with contextlib.suppress(KeyError, ValueError):
        return max(0.0, float(headers["retry-after-ms"]) / 1000)
    given = headers.get("retry-after", "")
    with contextlib.suppress(ValueError):
        return max(0.0, float(given))
    with contextlib.suppress(ValueError, TypeError):
        return max(0.0, (parsedate_to_datetime(given) - datetime.now(UTC)).total_seconds())
    return None


def missing(request: Request, body: bytes) -> Feature | None:
    """Which feature of the request a server says that it does not have, where it does."""
    said = body.decode("utf-8", "replace").lower()
    if request.tools and "tool" in said:
        return "tools"
    if request.schema is not None and any(word in said for word in _SCHEMA_WORDS):
        return "schema"
    return None


def _code(body: bytes) -> str | None:
    """The provider's own code for it: an identifier, for the words beside it may repeat what was asked."""
    try:
        error = json.loads(body)["error"]
        code = error.get("code") or error.get("type")
    except (ValueError, RecursionError, TypeError, KeyError, AttributeError):
        return None
    return code if isinstance(code, str) and _CODE.fullmatch(code) else None
