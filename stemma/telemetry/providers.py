"""How the providers of models stand: by the calls of the last minutes, and by a look at the studio's own server.

Nothing is asked of a provider that charges. `recorder` has it looked at every minute.
"""

from __future__ import annotations

from typing import Final

from stemma.store.database import Connection, Database
from stemma.store.settings import Settings
from stemma.telemetry.checks import Check
from stemma.telemetry.health import ERROR_RATE

LOCAL: Final = "provider/local"
_MINUTES: Final = 15
_FEWEST: Final = 5
_PATIENCE: Final = 1.0
_RECENT: Final = """
    SELECT provider, count(*) FILTER (WHERE status <> 'cancelled'), count(*) FILTER (WHERE status = 'error')
    FROM provider_usage WHERE ts > now() - make_interval(mins => %s) GROUP BY provider ORDER BY provider
"""


def check_providers(settings: Settings, database: Database) -> dict[str, Check]:
    """How each provider that was called within a quarter of an hour did, by `provider/` and its name.

    `local` is looked at as well: where its server does not answer, that is what counts.
    """
    found = {f"provider/{name}": _judged(*counts) for name, *counts in database.read(_recent)}
    if settings.local_model_url:
        seen = _look(settings.local_model_url)
        found[LOCAL] = found.get(LOCAL, seen) if seen.status == "ok" else seen
    return found


def _recent(connection: Connection) -> list[tuple[str, int, int]]:
    return connection.execute(_RECENT, (_MINUTES,)).fetchall()


def _judged(calls: int, errors: int) -> Check:
    detail = f"{errors:,} of {calls:,} calls failed within {_MINUTES} minutes."
    bad = calls >= _FEWEST and errors > ERROR_RATE * calls
    return Check("failed" if bad else "ok", required=False, detail=detail)


def _look(url: str) -> Check:
    import httpx

    try:
        httpx.get(f"{url.rstrip('/')}/models", timeout=_PATIENCE, trust_env=False)
    except (httpx.HTTPError, httpx.InvalidURL):
        return Check("not_running", required=False, detail="No server of models answers here.")
    return Check("ok", required=False, detail="A server of models answers.")
