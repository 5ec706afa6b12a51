"""Reading a page of the network: by the studio's one fetcher, from hosts that the agent was granted."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from pydantic import Field

from stemma.agents.tools.model import Arguments, Found, Tool, Use

if TYPE_CHECKING:
    from stemma.store.fetch import Fetched

MAX_BYTES: Final = 2_000_000
_DATA: Final = frozenset({"application/json", "application/xml", "text/csv", "text/xml"})


class Address(Arguments):
    """A page."""

    url: str = Field(min_length=1, max_length=2_000, description="http or https, on a host that is allowed")


def _fetch(use: Use, wanted: Address) -> Found:
    from stemma.knowledge.convert import convert
    from stemma.store.fetch import fetch

    settings = use.studio.settings
    bounded = settings.model_copy(update={"fetch_max_bytes": min(MAX_BYTES, settings.fetch_max_bytes)})
    fetched = fetch(wanted.url, bounded, allow=use.studio.reachable, hosts=use.grant.hosts)
    uri, media_type = _kind(fetched)
    document = convert(fetched.body, uri=uri, media_type=media_type, settings=settings)
    content = {"url": fetched.url, "title": document.title, "sha256": fetched.sha256, "text": document.text}
    return Found(content, facts={"bytes": len(fetched.body)})


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
