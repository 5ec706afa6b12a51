"""What a signed webhook sets off: it is verified on its very bytes, and its source's kind of job is submitted.

That a repeat is answered as the first was, is the face's business, by the `KeyedRequest` that is given here.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from stemma.access.permissions import Role
from stemma.access.principal import Principal
from stemma.errors import InvalidInput, NotFound
from stemma.jobs import kinds
from stemma.jobs.model import Job
from stemma.jobs.submission import JobRequest, submit
from stemma.ledger.change import Change
from stemma.ledger.idempotency import KeyedRequest
from stemma.notify.source_secrets import Sealing
from stemma.notify.standard_webhooks import verify
from stemma.store.database import Connection
from stemma.store.settings import Settings

_ROUTE: Final = "webhooks"


@dataclass(frozen=True, slots=True)
class Received:
    """A webhook whose signature holds, not read yet."""

    source: str
    job_kind: str
    input_pointer: str
    keyed: KeyedRequest

    @property
    def principal(self) -> Principal:
        """Who asks: the source, which may do what its kind of job takes."""
        needed = {"jobs:write", kinds.find(self.job_kind).permission} - {None}
        return Principal(f"webhook:{self.source}", Role.BUILDER, frozenset(filter(None, needed)))


def authenticate(
    connection: Connection, settings: Settings, name: str, headers: Mapping[str, str], body: bytes
) -> Received:
    """The webhook that these bytes are, from the source of this name.

    Raises NotFound, which says no more than any address that leads nowhere; Unauthenticated as
    `standard_webhooks.verify` does; Unavailable with code `webhook_key_lost`.
    """
    row = connection.execute(
        "SELECT job_kind, input_pointer, secret, CASE WHEN previous_until > clock_timestamp() THEN previous END"
        " FROM webhook_sources WHERE name = %s",
        (name,),
    ).fetchone()
    if row is None:
        raise NotFound("not_found", "There is nothing at this address.")
    job_kind, pointer, *kept = row
    sealing = Sealing.open(settings)
    keys = [sealing.opened(name, bytes(one)) for one in kept if one is not None]
    message_id = verify(keys, headers, body)
    keyed = KeyedRequest(f"webhook:{name}", _ROUTE, message_id, sealing.digest(name, body))
    return Received(name, job_kind, pointer, keyed)


def submitted(connection: Connection, received: Received, body: bytes) -> Change[Job]:
    """The job that the webhook asks for; raises InvalidInput that names what is wrong, and what `submit` raises."""
    given = _pointed(json.loads(body), received.input_pointer)
    if not isinstance(given, dict):
        what = f"What is at {received.input_pointer!r} of the body has to be an object: it becomes the job's input."
        raise InvalidInput("webhook_input_invalid", what, field="body")
    return submit(connection, received.principal, JobRequest(received.job_kind, given))


def _pointed(document: Any, pointer: str) -> Any:
    """What a JSON Pointer (RFC 6901) points at; None where that is nothing."""
    for part in pointer.split("/")[1:]:
        name = part.replace("~1", "/").replace("~0", "~")
        if isinstance(document, dict):
            document = document.get(name)
        elif isinstance(document, list) and name.isascii() and name.isdigit() and int(name) < len(document):
            document = document[int(name)]
        else:
            return None
    return document
