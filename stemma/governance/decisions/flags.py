"""Flags: what stops and steers nodes at once. `stopped` on the node `*` is the kill switch.

They are rows that every decision reads, and reads again in the transaction that commits it, so that no process has to
hear of a change first. A change is an entry of the decisions' own chain: whoever commits a decision holds that chain's
lock, so that each decision was committed before the change, or sees it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final, LiteralString

from psycopg.rows import class_row
from psycopg.types.json import Jsonb

from stemma.access.principal import Principal
from stemma.errors import Conflict, InvalidInput, NotFound
from stemma.governance import nodes, policies
from stemma.governance.decisions.model import CHAIN
from stemma.ledger.change import Change
from stemma.ledger.entries import NewEntry
from stemma.ledger.journal import audited
from stemma.ledger.writer import Statement
from stemma.redaction import redact
from stemma.registry import catalog
from stemma.registry.references import Reference, check_name
from stemma.store.database import Connection

EVERY_NODE: Final = "*"
STOPPED: Final = "stopped"
LEARNING: Final = "learning"
POLICY: Final = "policy"
SHADOW: Final = "shadow"
PERMISSION: Final = "decide:operate"
_MAX_REASON: Final = 1_000
_SET: Final = """
    INSERT INTO node_flags (node, flag, value, reason, set_by, set_at)
    VALUES (%(node)s, %(flag)s, %(value)s, %(reason)s, %(set_by)s, %(set_at)s)
    ON CONFLICT (node, flag) DO UPDATE SET value = excluded.value, reason = excluded.reason,
        set_by = excluded.set_by, set_at = excluded.set_at
"""
_COLUMNS: Final = "node, flag, value, reason, set_by, set_at"


@dataclass(frozen=True, slots=True)
class Flag:
    """A flag of a node, or of all of them (`*`), and who set it for what reason."""

    node: str
    flag: str
    value: Any
    reason: str
    set_by: str
    set_at: datetime


def set_flag(
    connection: Connection, principal: Principal, node: str, flag: str, value: Any, reason: str
) -> Change[Flag]:
    """Set a flag: `stopped` or `learning` to true or false, `policy` or `shadow` to the reference of a policy.

    Raises Forbidden; InvalidInput that names the field; NotFound for a node or policy that is not published.
    """
    principal.require(PERMISSION)
    _check_reason(reason)
    _require_node(connection, node)
    if flag not in _CHECKS:
        hint = f"The flags are {', '.join(_CHECKS)}."
        raise InvalidInput("flag_unknown", f"There is no flag {flag[:63]!r}.", field="flag", hint=hint)
    _CHECKS[flag](connection, node, value)
    made = Flag(node, flag, value, principal.kept(reason), principal.actor, datetime.now(UTC))
    row = {**{name: getattr(made, name) for name in Flag.__slots__}, "value": Jsonb(value)}
    return Change(_entries("flag.set", principal, made), (Statement(_SET, row, rows=1),), lambda _: made)


def clear_flag(connection: Connection, principal: Principal, node: str, flag: str, reason: str) -> Change[Flag]:
    """Take a flag away; gives what it was. Raises Forbidden, InvalidInput, NotFound; Conflict where it changed."""
    principal.require(PERMISSION)
    _check_reason(reason)
    found = _one(connection, node, flag)
    if found is None:
        raise NotFound("flag_not_set", f"{flag[:63]!r} is not set on {node[:63]!r}.", field="flag")
    refusal = Conflict("flag_changed", "The flag was changed meanwhile.", field="flag", hint="Look at it again.")
    statement = Statement(
        "DELETE FROM node_flags WHERE (node, flag, set_at) = (%s, %s, %s)", (node, flag, found.set_at), 1, refusal
    )
    cleared = Flag(node, flag, None, principal.kept(reason), principal.actor, datetime.now(UTC))
    return Change(_entries("flag.cleared", principal, cleared), (statement,), lambda _: found)


def list_flags(connection: Connection, node: str | None = None) -> tuple[Flag, ...]:
    """Every flag that is set, or those of a node and of all nodes; by node and name."""
    with connection.cursor(row_factory=class_row(Flag)) as rows:
        return tuple(
            rows.execute(
                f"SELECT {_COLUMNS} FROM node_flags WHERE %(node)s::text IS NULL OR node IN (%(node)s, '*')"
                " ORDER BY node, flag",
                {"node": node},
            )
        )


def is_stopped(node: LiteralString) -> LiteralString:
    """The SQL condition under which the kill switch, or that of the node which this SQL expression names, is on."""
    return f"EXISTS (SELECT FROM node_flags WHERE node IN ({node}, '*') AND flag = '{STOPPED}' AND value = 'true')"


def require_running(node: str) -> Statement:
    """The guard of what approves elsewhere than at once: it is refused while the node is stopped.

    The change that it accompanies has to write to the decisions' chain, whose lock orders it among changes of flags.
    """
    refusal = Conflict(
        "node_stopped",
        f"The node {node} is stopped: nothing is approved until its switch is released.",
        field="node",
        hint="Release the switch first (`stemma flags clear`), or deny.",
    )
    return Statement(f"SELECT 1 WHERE NOT {is_stopped('%(node)s')}", {"node": node}, rows=1, refusal=refusal)


def _one(connection: Connection, node: str, flag: str) -> Flag | None:
    with connection.cursor(row_factory=class_row(Flag)) as rows:
        return rows.execute(f"SELECT {_COLUMNS} FROM node_flags WHERE (node, flag) = (%s, %s)", (node, flag)).fetchone()


def _entries(kind: str, principal: Principal, flag: Flag) -> tuple[NewEntry, ...]:
    told = {"node": flag.node, "flag": flag.flag, "value": flag.value, "reason": redact(flag.reason).text}
    resource = f"flag/{flag.node}/{flag.flag}"
    return (
        NewEntry(CHAIN, kind, principal.actor, resource, told),
        *audited(principal, kind, resource=resource, meta=told, critical=True),
    )


def _check_reason(reason: str) -> None:
    if not reason.strip():
        raise InvalidInput("reason_missing", "Say why, in a sentence.", field="reason")
    if len(reason) > _MAX_REASON or "\0" in reason or any("\ud800" <= letter <= "\udfff" for letter in reason):
        raise InvalidInput("reason_invalid", f"A reason is text of at most {_MAX_REASON:,} characters.", field="reason")


def _require_node(connection: Connection, node: str) -> None:
    if node != EVERY_NODE:
        check_name(node, field="node")
        catalog.find(connection, nodes.KIND, Reference(node))


def _switch(_: Connection, __: str, value: Any) -> None:
    if type(value) is not bool:
        raise InvalidInput("flag_value_invalid", "This flag is true or false.", field="value")


def _policy(connection: Connection, node: str, value: Any) -> None:
    if type(value) is not str or node == EVERY_NODE:
        what = "This flag is the reference of a policy, such as finance.discounts@1.0.0, on one node."
        raise InvalidInput("flag_value_invalid", what, field="value")
    found = policies.load(connection, value)
    if found.policy.node != node:
        what = f"{found.reference} is a policy of the node {found.policy.node}."
        raise InvalidInput("policy_of_another_node", what, field="value")


_CHECKS: Final[dict[str, Callable[[Connection, str, Any], None]]] = {
    STOPPED: _switch,
    LEARNING: _switch,
    POLICY: _policy,
    SHADOW: _policy,
}
