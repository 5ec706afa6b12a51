"""The table of tools: every one that there is. A new tool is a module beside this one, and a line here."""

from __future__ import annotations

from typing import Final

from stemma.agents.tools.deciding import DECIDE
from stemma.agents.tools.files import READ, WRITE
from stemma.agents.tools.knowledge import SEARCH
from stemma.agents.tools.metrics import METRICS
from stemma.agents.tools.model import Tool
from stemma.agents.tools.records import DECISION, RECEIPT
from stemma.agents.tools.web import FETCH
from stemma.agents.tools.work import MATERIALIZE

TOOLS: Final[dict[str, Tool]] = {
    tool.name: tool for tool in (SEARCH, DECISION, RECEIPT, METRICS, READ, WRITE, FETCH, MATERIALIZE, DECIDE)
}
