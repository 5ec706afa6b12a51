"""How a document gets its title when no metadata gives one."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import PurePosixPath

from stemma.knowledge.models import Heading

MAX_TITLE = 200

_WORDS = re.compile(r"\w+")
_WORDS_ABOVE_TITLE = 120


def document_title(text: str, headings: Sequence[Heading], fallback: str) -> str:
    """The first heading where it names the whole text, else `fallback`.

    It does when hardly any words stand above it, no heading is further out, and either no other is as far out
    or it holds the fallback name. `Sponsors` as the first of ten equal headings is no title.
    """
    if not headings or len(_WORDS.findall(text, 0, headings[0].start)) > _WORDS_ABOVE_TITLE:
        return fallback
    first, outermost = headings[0], min(heading.level for heading in headings)
    alone = sum(heading.level == outermost for heading in headings) == 1
    if first.level == outermost and (alone or bare_name(fallback) in bare_name(first.title)):
        return shortened(first.title)
    return fallback


def bare_name(name: str) -> str:
    """A name without case and punctuation, to compare `Charset-Normalizer` with `charset_normalizer`."""
    return "".join(filter(str.isalnum, name.lower()))


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
