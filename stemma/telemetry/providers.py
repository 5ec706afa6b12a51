"""How the providers of models stand: by the calls of the last minutes, and by a look at a server of one's own.

Nothing is asked of a provider that charges. The first look belongs to whoever records health (`recorder`), every minute.
"""

from __future__ import annotations

from typing import Final

from stemma.store.database import Connection, Database
from stemma.telemetry.checks import Check, CheckStatus
from stemma.telemetry.health import ERROR_RATE

_MINUTES: Final = 15
_FEWEST: Final = 5
_RECENT: Final = """
    SELECT provider, count(*) FILTER (WHERE status <> 'cancelled'), count(*) FILTER (WHERE status = 'error')
    FROM provider_usage WHERE ts > now() - make_interval(mins => %s) GROUP BY provider ORDER BY provider
"""


def check_providers(database: Database) -> dict[str, Check]:
    """How each provider that was called within a quarter of an hour did, by `provider/` and its name."""
    return {f"provider/{name}": _judged(*counts) for name, *counts in database.read(_recent)}


def _recent(connection: Connection) -> list[tuple[str, int, int]]:
    return connection.execute(_RECENT, (_MINUTES,)).fetchall()


def _judged(calls: int, errors: int) -> Check:
    status: CheckStatus = "ok"
    if calls >= _FEWEST and errors > ERROR_RATE * calls:
        status = "failed" if errors == calls else "degraded"
    detail = f"{errors:,} of {calls:,} calls failed within {_MINUTES} minutes."
    return Check(status, required=False, detail=detail)
