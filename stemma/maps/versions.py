"""The versions of what is done to layers, apart from what does it: naming one imports none of that."""

from __future__ import annotations

from typing import Final

CLEANING: Final = "1"
"""Changes when the same rows would be judged otherwise."""
TILING: Final = "1"
"""Changes when the same features would get other tiles."""
