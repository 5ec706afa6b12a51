"""What the registry keeps: kinds of documents, drafts, and published versions."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

import rfc8785

from stemma.errors import InvalidInput, TooLarge
from stemma.registry.references import check_name
from stemma.registry.semver import Version

MAX_CONTENT_BYTES: Final = 1 << 20
MAX_CHANGELOG: Final = 4_000


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of document: what it is called, its table, and the permission that publishing takes."""

    name: str
    table: str
    permission: str


@dataclass(frozen=True, slots=True)
class Draft:
    """A version to be published. Its hash covers the content alone: neither name nor version nor changelog."""

    name: str
    version: Version
    changelog: str
    content: Mapping[str, Any]

    def canonical(self) -> bytes:
        """The content as RFC 8785 says.

        Raises InvalidInput that names the field for a name or changelog that cannot be used and for what is no JSON,
        TooLarge over `MAX_CONTENT_BYTES`.
        """
        check_name(self.name)
        _check_changelog(self.changelog)
        try:
            canonical = rfc8785.dumps(dict(self.content))
        except (rfc8785.CanonicalizationError, UnicodeEncodeError, RecursionError) as error:
            what = "The content cannot be written as canonical JSON."
            raise InvalidInput("content_invalid", what, field="content") from error
        if len(canonical) > MAX_CONTENT_BYTES:
            what = f"The content has {len(canonical):,} bytes; at most {MAX_CONTENT_BYTES:,} are kept."
            raise TooLarge("content_too_large", what, field="content")
        return canonical


@dataclass(frozen=True, slots=True)
class Summary:
    """A published version as listed; `sha256` is over its canonical content, hexadecimal."""

    name: str
    version: str
    sha256: str
    changelog: str
    published_by: str
    published_at: datetime

    @property
    def reference(self) -> str:
        """`name@version`."""
        return f"{self.name}@{self.version}"


@dataclass(frozen=True, slots=True)
class Published(Summary):
    """A published version with its content."""

    content: Mapping[str, Any]


def content_hash(canonical: bytes) -> str:
    """SHA-256 over the canonical content, hexadecimal."""
    return hashlib.sha256(canonical).hexdigest()


def _check_changelog(changelog: str) -> None:
    if not changelog.strip():
        hint = "Say in a sentence what this version changes, and why."
        raise InvalidInput("changelog_missing", "There is no changelog.", field="changelog", hint=hint)
    if len(changelog) > MAX_CHANGELOG:
        raise InvalidInput("changelog_too_long", f"It has more than {MAX_CHANGELOG:,} characters.", field="changelog")
    if "\0" in changelog or any("\ud800" <= character <= "\udfff" for character in changelog):
        what = "It holds U+0000 or half a surrogate pair, which is no text."
        raise InvalidInput("text_invalid", what, field="changelog", hint="Remove that character.")
