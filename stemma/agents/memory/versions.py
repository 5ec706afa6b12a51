"""The version of what is distilled of memories, apart from what distils it: naming it imports none of that."""

from __future__ import annotations

from typing import Final

DISTILLING: Final = "1"
