"""The versions of the knowledge products, apart from what makes them: naming one imports none of that."""

from __future__ import annotations

from typing import Final

EMBEDDING: Final = "1"
INDEX: Final = "1"
