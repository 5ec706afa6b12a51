"""Whom data is about: a name that is never kept, and the pseudonym that stands for it."""

from __future__ import annotations

import hmac
import unicodedata
from dataclasses import dataclass

from stemma.errors import InvalidInput

_MAX_NAME = 500
_PSEUDONYM_BYTES = 16


@dataclass(frozen=True, slots=True)
class Subject:
    """A person, or whoever else data is about, by the pseudonym that the ledger names."""

    pseudonym: str

    @property
    def reference(self) -> str:
        """What stands as `subject` of an entry that is about them."""
        return f"subject/{self.pseudonym}"


def subject_of(name: str, key: bytes) -> Subject:
    """The subject of this name: HMAC-SHA-256 of its normal form, shortened to 128 bits, in hexadecimal.

    Names that differ in case, compatibility characters (NFKC) or spaces alone are one subject. Raises InvalidInput,
    which does not repeat the name.
    """
    words = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", name).casefold()).split()
    normal = " ".join(words)
    if not 0 < len(normal) <= _MAX_NAME or not normal.isprintable():
        what = f"A subject's name has 1 to {_MAX_NAME} characters, all of them printable."
        raise InvalidInput("subject_invalid", what, field="subject")
    return Subject(hmac.digest(key, normal.encode(), "sha256")[:_PSEUDONYM_BYTES].hex())
