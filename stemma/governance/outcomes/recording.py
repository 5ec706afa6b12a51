"""Recording outcomes: what was observed, what it means by the node's reward, and what it adds to the statistics."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from stemma.access.principal import Principal
from stemma.governance.outcomes.model import NewOutcome, Outcome
from stemma.ledger.change import Change
from stemma.store.database import Connection

MAX_OUTCOMES: Final = 1_000
"""Outcomes that are recorded together."""


def record(connection: Connection, principal: Principal, outcomes: Sequence[NewOutcome]) -> Change[tuple[Outcome, ...]]:
    """Record 1 to `MAX_OUTCOMES` outcomes, with an entry of the chain `decisions` for each that says something new.

    Raises Forbidden; InvalidInput that names the place of the first that is wrong; NotFound for an unknown decision;
    Conflict where a decision has not taken effect yet, or another outcome of it came at the same time.
    """
    raise NotImplementedError
