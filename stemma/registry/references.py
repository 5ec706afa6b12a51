"""References: `name`, `name@latest`, `name@1`, `name@1.2`, `name@1.2.3`.

All but the last are aliases, resolved when they are read: the newest stable version that fits. A pre-release is found
by its full version alone.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from stemma.errors import InvalidInput
from stemma.registry.semver import Version, parse_version

MAX_NAME: Final = 100
LATEST: Final = "latest"

_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*(\.[A-Za-z0-9][A-Za-z0-9_-]*)*")
_ALIAS: Final = re.compile(r"(0|[1-9][0-9]{0,14})(?:\.(0|[1-9][0-9]{0,14}))?")


@dataclass(frozen=True, slots=True)
class Reference:
    """A name with an exact version, or with the major and minor that the newest stable one is to have."""

    name: str
    version: Version | None = None
    major: int | None = None
    minor: int | None = None

    def __str__(self) -> str:
        if self.version is not None:
            return f"{self.name}@{self.version}"
        wanted = [str(number) for number in (self.major, self.minor) if number is not None]
        return f"{self.name}@{'.'.join(wanted) or LATEST}"

    def fits(self, version: Version) -> bool:
        """Whether a version is one that this may resolve to."""
        if self.version is not None:
            return str(version) == str(self.version)
        return version.is_stable and self.major in (None, version.major) and self.minor in (None, version.minor)


def parse_reference(text: str, *, field: str = "reference") -> Reference:
    """What a text refers to; raises InvalidInput."""
    name, at, wanted = text.partition("@")
    check_name(name, field=field)
    if not at or wanted == LATEST:
        return Reference(name)
    if alias := _ALIAS.fullmatch(wanted):
        return Reference(name, major=int(alias[1]), minor=int(alias[2]) if alias[2] else None)
    return Reference(name, parse_version(wanted, field=field))


def check_name(name: str, *, field: str = "name") -> None:
    """Raises InvalidInput for what cannot name a document."""
    if len(name) > MAX_NAME or not _NAME.fullmatch(name):
        hint = f"Write up to {MAX_NAME} letters, digits, `-`, `_` and dots, such as finance.discounts."
        raise InvalidInput("name_invalid", f"{name[:MAX_NAME]!r} is no name.", field=field, hint=hint)
