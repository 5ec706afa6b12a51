"""Reading a page of the network: by the studio's one fetcher, from hosts that the agent was granted.

A secret of the agent goes along where a model names it and the agent's file says to which host; the model never sees
its value, not even where that host repeats it.
"""

from __future__ import annotations

import dataclasses
import hashlib
import re
from typing import TYPE_CHECKING, Final

from pydantic import Field, SecretStr

from stemma.agents.model import SecretUse
from stemma.agents.tools.model import Arguments, Found, Tool, Use
from stemma.agents.vault.secrets import hidden, open_secret
from stemma.errors import Forbidden, InvalidInput, StemmaError

if TYPE_CHECKING:
    from stemma.store.fetch import Credential, Fetched

MAX_BYTES: Final = 2_000_000
_DATA: Final = frozenset({"application/json", "application/xml", "text/csv", "text/xml"})
_SENDABLE: Final = re.compile(r"[!-~]([ -~]*[!-~])?")


class Address(Arguments):
    """A page."""

    url: str = Field(min_length=1, max_length=2_000, description="http or https, on a host that is allowed")
    secret: str | None = Field(
        default=None, min_length=1, max_length=63, description="Name of a secret that its host asks for"
    )


def _fetch(use: Use, wanted: Address) -> Found:
    value = None if wanted.secret is None else _opened(use, wanted.secret)
    values = () if value is None else (value,)
    try:
        title, text, fetched = _read(use, wanted, values)
    except StemmaError as error:
        # A server that redirects can put what it was sent into an address, and so into an error's words.
        hint = None if error.hint is None else hidden(error.hint, *values)
        raise type(error)(error.code, hidden(error.message, *values), field=error.field, hint=hint) from None
    content = {"url": hidden(fetched.url, *values), "title": title, "sha256": fetched.sha256, "text": text}
    return Found(content, facts={"bytes": len(fetched.body)})


def _read(use: Use, wanted: Address, values: tuple[SecretStr, ...]) -> tuple[str, str, Fetched]:
    """The title and the text of a page, without the values of secrets, and where it came from."""
    from stemma.knowledge.convert import convert
    from stemma.store.fetch import fetch

    settings = use.studio.settings
    bounded = settings.model_copy(update={"fetch_max_bytes": min(MAX_BYTES, settings.fetch_max_bytes)})
    credential = None if wanted.secret is None else _credential(use.grant.secrets[wanted.secret], *values)
    fetched = fetch(wanted.url, bounded, allow=use.studio.reachable, hosts=use.grant.hosts, credential=credential)
    if values:
        # Before it is converted, which can tear a value apart, and after, which can put one together.
        body = hidden(fetched.body.decode("latin-1"), *values).encode("latin-1")
        fetched = dataclasses.replace(fetched, body=body, sha256=hashlib.sha256(body).hexdigest())
    uri, media_type = _kind(fetched)
    document = convert(fetched.body, uri=uri, media_type=media_type, settings=settings)
    return hidden(document.title, *values), hidden(document.text, *values), fetched


def _opened(use: Use, name: str) -> SecretStr:
    """The agent's secret; raises Forbidden where its file does not say whom to send it, NotFound, Unavailable."""
    if name not in use.grant.secrets:
        hint = f"Allowed are {', '.join(sorted(use.grant.secrets)) or 'none'}."
        raise Forbidden("secret_refused", f"The secret {name} is not allowed.", field="secret", hint=hint)
    studio, agent = use.studio, use.context.agent.name
    value = studio.database.read(lambda connection: open_secret(connection, studio.settings, agent, name))
    if not _SENDABLE.fullmatch(value.get_secret_value()):
        # What speaks HTTP would repeat it in its error.
        raise InvalidInput("secret_not_sendable", f"The secret {name} holds what no header can.", field="secret")
    return value


def _credential(permitted: SecretUse, value: SecretStr) -> Credential:
    from stemma.store.fetch import Credential

    said = f"{permitted.scheme} {value.get_secret_value()}".strip()
    return Credential(permitted.host, permitted.header, SecretStr(said))


def _kind(fetched: Fetched) -> tuple[str, str | None]:
    """As what the document is read: data in text as plain text, everything else as what its sender calls it."""
    declared = fetched.content_type.partition(";")[0].strip().lower()
    if declared in _DATA or declared.endswith(("+json", "+xml")):
        return "data.txt", "text/plain"
    return fetched.url, declared or None


FETCH: Final = Tool(
    "fetch_url",
    "Fetches a document from a host that is allowed, and gives its text.",
    Address,
    ("ingest:write",),
    _fetch,
)
