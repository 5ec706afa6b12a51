"""The versions of what is made of a paper, apart from what makes it: naming one imports none of that."""

from __future__ import annotations

from typing import Final

PAGES: Final = "pages-1"
CLAIMS: Final = "claims-1"
PLAN: Final = "plan-1"
REPORT: Final = "1"
