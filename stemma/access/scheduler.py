"""The outside scheduler: cron, n8n or another program that starts jobs by name, with one token instead of a key."""

from __future__ import annotations

import hmac
from typing import Final

from stemma.access.permissions import Role
from stemma.access.principal import Principal
from stemma.errors import Forbidden, Unauthenticated
from stemma.store.settings import Settings

SCHEDULER_HEADER: Final = "x-internal-token"

_HINT: Final = "Send STEMMA_INTERNAL_TOKEN of the studio in the header x-internal-token; an API key is not taken here."
# Whatever kinds of jobs there are, and no more than a builder may.
_SCOPES: Final = frozenset(f"{name}:*" for name in ("jobs", "ingest", "search", "evals", "map", "publish", "social"))


def authenticate_scheduler(settings: Settings, given: str | None) -> Principal:
    """The scheduler as a principal, for the right token.

    Raises Forbidden with code `internal_token_unset` where the studio has none, else Unauthenticated with code
    `internal_token_missing` or `internal_token_invalid`.
    """
    if settings.internal_token is None:
        what = "This studio takes no jobs from outside schedulers."
        hint = "Set STEMMA_INTERNAL_TOKEN to at least 16 random characters and start it again."
        raise Forbidden("internal_token_unset", what, hint=hint)
    if given is None:
        raise Unauthenticated("internal_token_missing", "This takes the internal token.", hint=_HINT)
    if not hmac.compare_digest(given.encode(), settings.internal_token.get_secret_value().encode()):
        raise Unauthenticated("internal_token_invalid", "This is not the internal token.", hint=_HINT)
    return Principal("internal:scheduler", Role.BUILDER, _SCOPES)
