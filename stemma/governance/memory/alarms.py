"""Telling of drift: to the Historian, and by `stemma.notify` to whoever subscribed to `drift.alarmed`.

An alarm is told when it begins, once, and only while it is news: a backfill of past years tells of nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from typing import Any, Final
from uuid import UUID, uuid5

from stemma.governance.memory.inputs import Key
from stemma.ledger.change import Change
from stemma.ledger.journal import transition
from stemma.notify.messages import Message
from stemma.notify.outbox import enqueue
from stemma.store.database import Connection

TOPIC: Final = "drift.alarmed"
NEWS_DAYS: Final = 7
_ACTOR: Final = "asset:governance/drift"
_ALARMS: Final = UUID("6d7c0c2e-5a3b-4f2c-9a54-0d9d5a8f7c11")
_BEGINNING: Final = """
    SELECT node, day, content FROM drift_reports AS d
    WHERE alarmed AND node = ANY (%(nodes)s) AND day = ANY (%(days)s) AND day > %(since)s AND NOT coalesce((
        SELECT alarmed FROM drift_reports WHERE node = d.node AND day < d.day ORDER BY day DESC LIMIT 1), false)
    ORDER BY day, node
"""


def beginning(connection: Connection, made: Sequence[Key]) -> list[Change[None]]:
    """What is to be told of reports that were made: those that alarm, where the report before them did not."""
    since = datetime.now(UTC).date() - timedelta(days=NEWS_DAYS)
    wanted = {"nodes": [node for node, _ in made], "days": [day for _, day in made], "since": since}
    rows = connection.execute(_BEGINNING, wanted).fetchall()
    return [_told(*row) for row in rows if row[:2] in set(made)]


def _told(node: str, day: date, content: dict[str, Any]) -> Change[None]:
    of = {measure["of"]: measure["psi"] for measure in content["measures"] if measure["alarmed"]}
    known_as = uuid5(_ALARMS, f"{node} {day}")
    entry = transition(TOPIC, subject=f"node/{node}", actor=_ACTOR, data={"day": str(day), "psi": of})
    text = f"On {day} these differ from what they were: " + ", ".join(f"{name} (PSI {psi})" for name, psi in of.items())
    message = Message(TOPIC, f"{node} drifts", f"{text}.", {"node": node, "day": str(day), "psi": of}, id=known_as)
    return Change((replace(entry, id=known_as),), (enqueue(message),), lambda _: None)
