"""Letting somebody download what a run wrote, as long as the store still has those very bytes."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from datetime import timedelta
from typing import Any, Final, cast

from stemma.errors import Conflict, NotFound
from stemma.ledger.receipts import Receipt
from stemma.store.files import FileStore
from stemma.store.settings import Settings
from stemma.store.signed_urls import LONGEST_NAME, SignedUrl, sign

_HOLDS: Final = timedelta(minutes=5)


def sign_artifact(settings: Settings, receipts: Iterable[Receipt], sha256: str) -> SignedUrl:
    """A URL for five minutes, by which the file with this hash that these receipts name can be saved.

    Raises NotFound with code `artifact_unknown` where they name none, and Conflict with code `artifact_replaced` where
    the store has other bytes under its key by now, or none.
    """
    found = next((one for receipt in receipts for one in receipt.artifacts if one.sha256 == sha256), None)
    if found is None or found.is_listing:
        raise NotFound("artifact_unknown", "The run wrote no such file.", field="sha256")
    store = FileStore.open_default(settings)
    try:
        with store.open(found.name) as file:
            same = hashlib.file_digest(cast(Any, file), "sha256").hexdigest() == sha256
    except NotFound:
        same = False
    if not same:
        hint = "A later run has written it anew; the receipts of its asset say which."
        raise Conflict("artifact_replaced", f"{found.name} is not what this run wrote any more.", hint=hint)
    name = found.name.rpartition("/")[2]
    return sign(settings, found.name, _HOLDS, name=name if len(name) <= LONGEST_NAME and '"' not in name else None)
