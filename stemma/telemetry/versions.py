"""The versions of what is summed up by days, apart from what sums it up: naming one imports none of that."""

from __future__ import annotations

from typing import Final

COSTS: Final = "1"
LATENCY: Final = "1"
ERROR_BUDGET: Final = "1"
HEALTH: Final = "1"
