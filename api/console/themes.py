"""The two themes, and which of them a browser has chosen; without a choice the system's preference decides."""

from __future__ import annotations

from enum import StrEnum
from typing import Final

from fastapi import Request

COOKIE: Final = "stemma_theme"
KEPT_SECONDS: Final = 365 * 86400


class Theme(StrEnum):
    """A theme by the name that tokens.css gives it; `AUTO` is the system's preference."""

    AUTO = "auto"
    NARCO_NOIR = "narco-noir"
    VIBELABZ_CLEAN = "vibelabz-clean"

    @property
    def title(self) -> str:
        """Its name as people read it."""
        return {"auto": "System", "narco-noir": "Narco Noir", "vibelabz-clean": "VibeLabz Clean"}[self.value]


def chosen(request: Request) -> Theme:
    """The theme that the browser's cookie names."""
    given = request.cookies.get(COOKIE)
    return Theme(given) if given in set(Theme) else Theme.AUTO
