"""What the shell lists: the families of pages, who may see each, and which of them the flags switch on."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from stemma.access.principal import Principal
from stemma.store.settings import Settings


@dataclass(frozen=True, slots=True)
class Family:
    """A family of pages. `permission` is one of the table, or None for any known key; `flag` a setting such as
    `ff_evals`, without which the family is not shown. `icon` names a drawing of `templates/icons.html`.
    """

    name: str
    path: str
    icon: str
    permission: str | None = None
    flag: str | None = None

    def shown_to(self, principal: Principal, settings: Settings) -> bool:
        """Whether the flag is on and the principal may read its pages."""
        return (self.permission is None or principal.may(self.permission)) and (
            self.flag is None or bool(getattr(settings, self.flag))
        )

    def holds(self, path: str) -> bool:
        """Whether the page at this path is one of the family."""
        return path == self.path or (self.path != "/" and path.startswith(f"{self.path}/"))


GROUPS: Final[dict[str, tuple[Family, ...]]] = {
    "Studio": (
        Family("Overview", "/", "overview"),
        Family("Search", "/search", "search", "search:read"),
        Family("Agents", "/agents", "agents", "agents:read"),
    ),
    "Work": (
        Family("Jobs", "/jobs", "jobs", "jobs:read"),
        Family("Runs", "/runs", "runs", "jobs:read"),
        Family("Costs", "/costs", "costs", "llm:read", "ff_cost_telemetry"),
        Family("Papers", "/papers", "papers", "papers:read"),
    ),
    "Govern": (
        Family("Decisions", "/decisions", "decisions", "decide:read"),
        Family("Events", "/events", "events", "decide:read"),
        Family("Policies", "/policies", "policies", "decide:read"),
        Family("Learning", "/learning", "learning", "decide:read"),
        Family("Replay", "/replay", "replay", "decide:read"),
        Family("Switches", "/switches", "switches", "decide:read"),
    ),
    "Play": (Family("Map", "/play/map", "map", "map:read", "ff_map_pipeline"),),
    "Record": (
        Family("Approvals", "/approvals", "approvals", "approvals:read"),
        Family("Historian", "/historian", "historian", "ledger:read"),
        Family("Receipts", "/receipts", "receipts", "ledger:read"),
        Family("Ledger", "/ledger", "ledger", "ledger:read"),
    ),
    "Access": (
        Family("Keys", "/keys", "key", "admin:keys"),
        Family("GodMode", "/godmode", "godmode", "admin:founder"),
    ),
}
"""Every family, in the order in which it is listed."""


def families() -> Iterator[Family]:
    """Every family of every group."""
    for group in GROUPS.values():
        yield from group


def shown(principal: Principal, settings: Settings) -> dict[str, list[Family]]:
    """The groups with the families that this principal sees; a group without any is left out."""
    found = {
        name: [family for family in group if family.shown_to(principal, settings)] for name, group in GROUPS.items()
    }
    return {name: group for name, group in found.items() if group}
