"""Sending a paper to OpenAI's File Search: only where spending is allowed and there is a key.

Nothing here reads answers; what a model says of a paper is `claims.asking`'s business.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from stemma.access.principal import Principal
from stemma.errors import Forbidden, Unavailable
from stemma.ledger.change import Change
from stemma.ledger.journal import audited
from stemma.ledger.writer import Statement
from stemma.papers.intake import subject
from stemma.papers.model import Paper
from stemma.store.database import Connection, database_time
from stemma.store.settings import Settings

if TYPE_CHECKING:
    from openai import OpenAI

_TIMEOUT: Final = 120.0
_SHOWN: Final = 8

_ATTACHED: Final = "UPDATE p2n.papers SET vector_file = %(file)s, updated_at = %(now)s WHERE id = %(id)s"


@dataclass(frozen=True, slots=True)
class Attached:
    """A paper at the provider; both ids are redacted to eight characters and `***`."""

    file: str
    vector_store: str


def attach(paper: Paper, data: bytes, settings: Settings) -> Attached:
    """Upload a paper and put it into a vector store of its own; where that fails, what was uploaded is deleted again.

    Raises Forbidden (`paid_providers_off`, `provider_key_missing`), Unavailable (`provider_failed`).
    """
    if not settings.ff_paid_providers:
        hint = "Set FF_PAID_PROVIDERS to true to allow spending."
        raise Forbidden("paid_providers_off", "This costs money, and paid providers are off.", hint=hint)
    if settings.openai_api_key is None:
        raise Forbidden("provider_key_missing", "There is no key of OpenAI.", hint="Set OPENAI_API_KEY.")
    import openai

    key, url = settings.openai_api_key.get_secret_value(), settings.openai_base_url
    try:
        with openai.OpenAI(api_key=key, base_url=url, timeout=_TIMEOUT, max_retries=1) as client:
            return _attach(client, paper, data)
    except openai.OpenAIError as error:
        # What a provider says may repeat what it was sent.
        what = f"OpenAI did not take the paper: {type(error).__name__}."
        raise Unavailable("provider_failed", what, hint="Try again later.") from error


def _attach(client: OpenAI, paper: Paper, data: bytes) -> Attached:
    import openai

    file = client.files.create(file=(f"{paper.id}.pdf", data, "application/pdf"), purpose="assistants")
    store = None
    try:
        store = client.vector_stores.create(name=f"paper {paper.id}")
        client.vector_stores.files.create(vector_store_id=store.id, file_id=file.id)
    except openai.OpenAIError:
        # What cannot be deleted either is no reason of its own.
        with contextlib.suppress(openai.OpenAIError):
            if store is not None:
                client.vector_stores.delete(store.id)
            client.files.delete(file.id)
        raise
    return Attached(redacted(file.id), redacted(store.id))


def redacted(provider_id: str) -> str:
    """An id of a provider as it may be shown and kept."""
    return f"{provider_id[:_SHOWN]}***"


def recorded(connection: Connection, principal: Principal, paper: Paper, attached: Attached) -> Change[Attached]:
    """Put on record that a paper is at the provider; raises Forbidden."""
    principal.require("papers:write")
    values = {"id": paper.id, "file": attached.file, "now": database_time(connection)}
    meta = {"file": attached.file, "vector_store": attached.vector_store}
    entries = audited(principal, "paper.attached", resource=subject(paper.id), meta=meta, critical=True)
    return Change(entries, (Statement(_ATTACHED, values, rows=1),), lambda _: attached)
