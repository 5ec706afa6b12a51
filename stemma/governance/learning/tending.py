"""What learning does by itself, whoever looks: it stops what does harm and settles promotions that were decided."""

from __future__ import annotations

import contextlib
import logging
from typing import Any

from stemma.errors import Conflict, Unavailable
from stemma.governance.learning.promotion import STUDIO, settle_due
from stemma.governance.learning.stopping import stop_harmful
from stemma.ledger.change import Change
from stemma.ledger.service import Ledger
from stemma.store.database import Connection, Database

logger = logging.getLogger(__name__)


def due(connection: Connection) -> tuple[Change[Any], ...]:
    """One change for each variant that does harm and each promotion whose approval is settled."""
    return (*stop_harmful(connection, STUDIO), *settle_due(connection))


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
