"""Who acts: the caller of a route or command, after it has proved who it is."""

from __future__ import annotations

import getpass
from collections.abc import Iterable
from dataclasses import dataclass
from uuid import UUID

from stemma.access.permissions import PERMISSIONS, SCOPES, Role, covers, permissions_of
from stemma.errors import Forbidden


@dataclass(frozen=True, slots=True)
class Principal:
    """A caller with its role and scopes. `actor` is what ledger entries name: `key:<id>` or `local:<user name>`.

    Who acts in a session acts with the key that was traded for it.
    """

    actor: str
    role: Role
    scopes: frozenset[str]
    key_id: UUID | None = None
    session_id: UUID | None = None

    @property
    def founder(self) -> bool:
        """Whether its role is GODMODE: nothing is kept of what it says."""
        return self.role is Role.GODMODE

    def kept(self, text: str) -> str:
        """What is kept of the words that it gives beside what it does: none of a founder's."""
        return "" if self.founder else text

    def may(self, permission: str) -> bool:
        """Whether its role has the permission and one of its scopes covers it."""
        return self.role in PERMISSIONS[permission] and any(covers(scope, permission) for scope in self.scopes)

    def require(self, permission: str) -> None:
        """Raises Forbidden unless it may."""
        if self.role not in PERMISSIONS[permission]:
            roles = ", ".join(sorted(PERMISSIONS[permission]))
            hint = f"{permission} takes one of the roles {roles}."
            raise Forbidden("role_forbidden", f"The role {self.role} may not do this.", hint=hint)
        if not self.may(permission):
            hint = "Ask for a key with this scope."
            raise Forbidden("scope_missing", f"This key has no scope that covers {permission}.", hint=hint)

    def require_within(self, role: Role, scopes: Iterable[str]) -> None:
        """Raises Forbidden where a key with this role and these scopes could do what this principal cannot."""
        if not permissions_of(role) <= permissions_of(self.role):
            raise Forbidden(
                "role_beyond_own",
                f"The role {role} may do what the role {self.role} may not.",
                field="role",
                hint="A key cannot make one that is mightier than itself.",
            )
        beyond = [scope for scope in scopes if not any(covers(own, scope) for own in self.scopes)]
        if beyond:
            raise Forbidden(
                "scope_beyond_own",
                f"The scopes of this key do not cover {', '.join(beyond)}.",
                field="scopes",
                hint="A key cannot make one that is mightier than itself.",
            )


def local_principal() -> Principal:
    """Whoever runs a command on this machine: they hold the database and the keys, and may do everything."""
    try:
        name = getpass.getuser()
    except (KeyError, OSError):
        name = "unknown"
    return Principal(f"local:{name}", Role.SUPER_ADMIN, frozenset(f"{scope}:*" for scope in SCOPES))
