"""Semantic versions, as https://semver.org/spec/v2.0.0.html defines them: their form and their precedence."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import total_ordering
from typing import Final

from stemma.errors import InvalidInput

MAX_VERSION: Final = 64
"""Characters of a version."""
_MAX_NUMBER: Final = 2**53 - 1

# The expression that the specification recommends.
_VERSION: Final = re.compile(
    r"(0|[1-9][0-9]*)\.(0|[1-9][0-9]*)\.(0|[1-9][0-9]*)"
    r"(?:-((?:0|[1-9][0-9]*|[0-9]*[a-zA-Z-][0-9a-zA-Z-]*)(?:\.(?:0|[1-9][0-9]*|[0-9]*[a-zA-Z-][0-9a-zA-Z-]*))*))?"
    r"(?:\+([0-9a-zA-Z-]+(?:\.[0-9a-zA-Z-]+)*))?"
)


@total_ordering
@dataclass(frozen=True, slots=True, eq=False)
class Version:
    """A version. Comparing follows precedence, so that versions that differ in `build` alone are equal."""

    major: int
    minor: int
    patch: int
    prerelease: str = ""
    build: str = ""

    @property
    def is_stable(self) -> bool:
        """Whether it is no pre-release."""
        return not self.prerelease

    def __str__(self) -> str:
        text = f"{self.major}.{self.minor}.{self.patch}"
        text += f"-{self.prerelease}" if self.prerelease else ""
        return f"{text}+{self.build}" if self.build else text

    def __eq__(self, other: object) -> bool:
        return self._precedence == other._precedence if isinstance(other, Version) else NotImplemented

    def __lt__(self, other: Version) -> bool:
        return self._precedence < other._precedence

    def __hash__(self) -> int:
        return hash(self._precedence)

    @property
    def _precedence(self) -> tuple[object, ...]:
        """Item 11: a pre-release before its release, numbers before words, fewer identifiers before more."""
        identifiers = self.prerelease.split(".") if self.prerelease else []
        parts = tuple((0, int(part), "") if part.isdigit() else (1, 0, part) for part in identifiers)
        return self.major, self.minor, self.patch, self.is_stable, parts


def parse_version(text: str, *, field: str = "version") -> Version:
    """The version that a text says; raises InvalidInput for what is none, or is longer than `MAX_VERSION`."""
    found = _VERSION.fullmatch(text) if len(text) <= MAX_VERSION else None
    if found is None or max(map(int, found.group(1, 2, 3))) > _MAX_NUMBER:
        hint = "Write it as semver.org says, such as 1.4.0 or 2.0.0-rc.1."
        raise InvalidInput("version_invalid", f"{text[:MAX_VERSION]!r} is no version.", field=field, hint=hint)
    return Version(int(found[1]), int(found[2]), int(found[3]), found[4] or "", found[5] or "")
