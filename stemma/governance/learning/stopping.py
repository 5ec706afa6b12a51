"""The stop rule: a variant that does harm loses its traffic, at once and for as long as its version is in force.

The next version of the policy learns anew.
"""

from __future__ import annotations

from datetime import UTC, datetime

from stemma.access.principal import Principal
from stemma.errors import Conflict
from stemma.governance.learning.assessment import Comparison
from stemma.governance.learning.standing import Standing, standing
from stemma.governance.nodes import Node
from stemma.ledger.change import Change
from stemma.ledger.journal import audited
from stemma.ledger.writer import Statement
from stemma.notify.messages import Message
from stemma.notify.outbox import enqueue
from stemma.store.database import Connection

TOPIC = "variant.stopped"


def stop_harmful(connection: Connection, principal: Principal, node: Node) -> tuple[Change[str], ...]:
    """One change for each variant of a node that does harm; its result is the variant's name.

    Raises Conflict where the node does not learn, NotFound where its policy is gone.
    """
    stand = standing(connection, node)
    return tuple(_stop(principal, stand, found) for found in stand.assessment.harmful)


def _stop(principal: Principal, stand: Standing, found: Comparison) -> Change[str]:
    variant, policy = found.rate.variant, stand.policy.reference
    data = {"node": stand.node, "policy": policy, "variant": variant, "why": found.why}
    entries = audited(principal, TOPIC, resource=f"variant/{stand.node}/{policy}/{variant}", meta=data, critical=True)
    stop = Statement(
        "UPDATE policy_variants_stats SET stopped_at = %(at)s, stopped_why = %(why)s, updated_at = %(at)s"
        " WHERE (node, policy, variant) = (%(node)s, %(policy)s, %(variant)s) AND stopped_at IS NULL",
        {**data, "at": datetime.now(UTC)},
        rows=1,
        refusal=Conflict("variant_stopped", f"{variant} of {policy} was stopped already."),
    )
    told = Message(TOPIC, f"{variant} of {policy} was stopped at {stand.node}", found.why, data)
    return Change(entries, (stop, enqueue(told)), lambda _: variant)
