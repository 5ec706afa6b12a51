"""How a document gets its title when no metadata gives one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import PurePosixPath

from stemma.knowledge.models import Heading

MAX_TITLE = 200


def document_title(headings: Sequence[Heading], fallback: str) -> str:
    """The first heading where it is an outermost one or the only one, else `fallback`.

    A text whose first heading is nested (`## Usage` before `# API`) has no heading for the whole.
    """
    if headings and headings[0].level == min(heading.level for heading in headings):
        return shortened(headings[0].title)
    return fallback


def title_from_uri(uri: str) -> str:
    """A readable name out of a URI: `pypi:pgvector` is `pgvector`, `notes/road-map.md` is `road-map`."""
    scheme, colon, rest = uri.partition(":")
    if colon and scheme.isalpha() and "/" not in scheme:
        return shortened(rest)
    path = PurePosixPath(uri)
    return shortened(path.stem or path.name or uri)


def shortened(title: str) -> str:
    """One line of at most 200 characters."""
    return " ".join(title.split())[:MAX_TITLE].rstrip()
