"""Recording events: all that come together, or none of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from stemma.access.principal import Principal
from stemma.governance.events.model import Event, NewEvent
from stemma.ledger.change import Change
from stemma.store.database import Connection

MAX_EVENTS: Final = 1_000
"""Events that are recorded together."""


def record(connection: Connection, principal: Principal, events: Sequence[NewEvent]) -> Change[tuple[Event, ...]]:
    """Record 1 to `MAX_EVENTS` events, with one entry in the chain `events`; those that are there already, with the
    same content, stay as they are. The result has all of them, in the order in which they were given.

    Raises Forbidden; InvalidInput that names the place of the first that is wrong, such as `/3/data/amount`; TooLarge;
    Conflict where an id belongs to an event with other content.
    """
    raise NotImplementedError
