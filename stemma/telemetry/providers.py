"""How the providers of models stand: by what the router knows of each, by the calls of the last minutes, and by a look
at the studio's own server. `recorder` has it written down every minute.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from stemma.llm.providers.base import Standing
from stemma.store.database import Connection, Database
from stemma.store.settings import Settings
from stemma.telemetry.checks import Check
from stemma.telemetry.health import ERROR_RATE

PROVIDER: Final = "provider/"
LOCAL: Final = "local"
_PATIENCE: Final = 1.0
_MINUTES: Final = 15
_FEWEST: Final = 5
_RECENT: Final = """
    SELECT provider, count(*) FILTER (WHERE status <> 'cancelled'), count(*) FILTER (WHERE status = 'error')
    FROM provider_usage WHERE ts > now() - make_interval(mins => %s) GROUP BY provider ORDER BY provider
"""


def check_providers(settings: Settings, database: Database, standings: Mapping[str, Standing]) -> dict[str, Check]:
    """How each stands, by `provider/` and its name; one that is there is judged by its calls of 15 minutes."""
    found = {name: _seen(standing) for name, standing in standings.items()}
    if settings.local_model_url and standings[LOCAL].state != "disabled":
        found[LOCAL] = _look(settings.local_model_url)
    for name, *counts in database.read(_recent):
        if name in found and found[name].status == "ok":
            found[name] = _judged(*counts)
    return {f"{PROVIDER}{name}": check for name, check in found.items()}


def _seen(standing: Standing) -> Check:
    if standing.state == "disabled":
        return Check("not_running", required=False, detail=standing.detail)
    # The router asks one that did not answer its last look all the same.
    silent = standing.checked_at is not None and not standing.models
    return Check("failed" if silent or standing.state == "resting" else "ok", required=False, detail=standing.detail)


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
