"""Why a document could not be read: the error that every format raises and that quarantines the document."""

from __future__ import annotations

from stemma.errors import InvalidInput
from stemma.store.settings import Settings


class Unreadable(InvalidInput):
    """One document cannot be read; the rest of its source can. `code` and the message go into quarantine."""

    title = "Unreadable document"


def too_large(size: int, settings: Settings) -> Unreadable:
    """The refusal of a document over `max_document_bytes`."""
    return Unreadable(
        "too_large",
        f"The document has {size:,} bytes; at most {settings.max_document_bytes:,} are read.",
        hint="Split it, or raise STEMMA_MAX_DOCUMENT_BYTES.",
    )
