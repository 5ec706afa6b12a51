"""The one table of permissions: every permission there is, and which roles have it.

A permission is `capability:action`. A key reaches a permission when its role has it and one of its scopes covers it:
`ingest:*` covers `ingest:write`. A route or command that needs a permission names one of this table.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final


class Role(StrEnum):
    """What a principal is in the studio. The first three are those of the agent relay, the others those of a team."""

    GODMODE = "GODMODE"
    SUPER_ADMIN = "SUPER_ADMIN"
    ADMIN_AGENT = "ADMIN_AGENT"
    OWNER = "Owner"
    ADMIN = "Admin"
    BUILDER = "Builder"
    REVIEWER = "Reviewer"
    VIEWER = "Viewer"


_TOP: Final = frozenset({Role.GODMODE, Role.SUPER_ADMIN, Role.OWNER})
_ADMINS: Final = _TOP | {Role.ADMIN}
_BUILDERS: Final = _ADMINS | {Role.BUILDER, Role.ADMIN_AGENT}
_EVERYONE: Final = frozenset(Role)

PERMISSIONS: Final[dict[str, frozenset[Role]]] = {
    "search:read": _EVERYONE,
    "ingest:read": _EVERYONE,
    "ingest:write": _BUILDERS,
    "ledger:read": _EVERYONE,
    "ledger:verify": _BUILDERS | {Role.REVIEWER},
    "jobs:read": _EVERYONE,
    "jobs:write": _BUILDERS,
    "jobs:operate": _BUILDERS,
    "approvals:read": _EVERYONE,
    "approvals:request": _BUILDERS,
    "approvals:decide": _ADMINS | {Role.REVIEWER},
    "approvals:withdraw-any": _ADMINS,
    "telemetry:read": _EVERYONE,
    "publish:sign": _BUILDERS,
    "decide:read": _EVERYONE,
    "decide:write": _BUILDERS,
    "decide:publish": _ADMINS,
    "decide:review": _ADMINS | {Role.REVIEWER},
    "decide:operate": _ADMINS,
    "map:read": _EVERYONE,
    "map:read-members": _EVERYONE - {Role.VIEWER},
    "map:write": _BUILDERS,
    "llm:run": _BUILDERS,
    "llm:read": _EVERYONE,
    "llm:budget": _ADMINS,
    "agents:read": _EVERYONE,
    "agents:call": _EVERYONE,
    "agents:remember": _BUILDERS,
    "agents:operate": _ADMINS,
    "papers:read": _EVERYONE,
    "papers:write": _BUILDERS,
    "papers:review": _BUILDERS | {Role.REVIEWER},
    "papers:run": _BUILDERS,
    "admin:keys": _ADMINS,
    "admin:audit": _ADMINS,
    "admin:notify": _ADMINS,
    "admin:erase": _TOP,
    "admin:vault": _TOP,
    "admin:founder": _TOP,
}

SCOPES: Final = (
    "feeds", "llm", "ingest", "search", "jobs", "agents", "decide", "prompts", "evals", "papers", "map", "publish",
    "social", "approvals", "ledger", "telemetry", "admin",
)  # fmt: skip
"""The capabilities that a scope can name, as `capability:*` or `capability:action`."""


def covers(scope: str, permission: str) -> bool:
    """Whether a scope such as `ingest:*` or `ingest:write` covers a permission."""
    capability, _, action = scope.partition(":")
    wanted, _, what = permission.partition(":")
    return capability == wanted and action in ("*", what)


def permissions_of(role: Role) -> frozenset[str]:
    """Every permission that a role has."""
    return frozenset(permission for permission, roles in PERMISSIONS.items() if role in roles)
