"""Why a document could not be read: the error that every format raises and that quarantines the document."""

from __future__ import annotations

from stemma.errors import InvalidInput


class Unreadable(InvalidInput):
    """One document cannot be read; the rest of its source can. `code` and the message go into quarantine."""

    title = "Unreadable document"
