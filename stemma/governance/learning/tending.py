"""What learning does by itself, whoever looks: it stops what does harm, proposes what is better, and settles promotions
that were decided. It may look as often as it likes: `assessment` is made for that.
"""

from __future__ import annotations

import contextlib
import logging
from typing import Any

from stemma.errors import Conflict, StemmaError, Unavailable
from stemma.governance.learning.promotion import STUDIO, propose_due, settle_due
from stemma.governance.learning.standing import learning_nodes
from stemma.governance.learning.stopping import stop_harmful
from stemma.ledger.change import Change
from stemma.ledger.service import Ledger
from stemma.store.database import Connection, Database

logger = logging.getLogger(__name__)


def due(connection: Connection) -> tuple[Change[Any], ...]:
    """One change for each variant that does harm, each that is better, and each promotion whose approval is settled."""
    changes: list[Change[Any]] = []
    for node in learning_nodes(connection):
        try:
            changes += stop_harmful(connection, STUDIO, node)
            if (proposed := propose_due(connection, STUDIO, node)) is not None:
                changes.append(proposed)
        except StemmaError as error:
            # What is wrong with one node keeps no other from losing what does harm.
            logger.warning("nothing is learned at %s: %s", node.name, error)
    return (*changes, *settle_due(connection))


def tend(database: Database, ledger: Ledger) -> int:
    """Write what is due; returns how many this call wrote.

    Another process may write the same, and the ledger may be busy: what is not written now is written by the next look.
    """
    written = 0
    try:
        for future in [ledger.commit(change) for change in database.read(due)]:
            with contextlib.suppress(Conflict):
                future.result()
                written += 1
    except Unavailable as error:
        logger.warning("what was learned is written later: %s", error)
    return written
