"""The versions of what is remembered by days, apart from what makes it: naming one imports none of that."""

from __future__ import annotations

from typing import Final

FEATURES: Final = "1"
SNAPSHOTS: Final = "1"
SCORECARDS: Final = "1"
DRIFT: Final = "1"
