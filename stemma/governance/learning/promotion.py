"""Making a variant the baseline: proposed by what the outcomes say, approved by a person, published as a new version.

What is approved is the exact policy that will be published, with its golden cases. Nothing is published without an
approval, and nothing where another policy decides at the node by then.
"""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any, Final
from uuid import uuid4

from psycopg.types.json import Jsonb

from stemma.access.permissions import PERMISSIONS, Role
from stemma.access.principal import Principal
from stemma.approvals import grants
from stemma.approvals.catalog import get_approval, get_content
from stemma.approvals.model import Approval
from stemma.approvals.model import State as Decided
from stemma.approvals.requests import MAX_DIFF, Proposal, request
from stemma.errors import Conflict, StemmaError
from stemma.governance import nodes, policies
from stemma.governance.learning.assessment import Assessment, Comparison, assess
from stemma.governance.learning.catalog import Promotion, State, of_variant
from stemma.governance.learning.standing import Standing, reference, standing
from stemma.governance.learning.successor import Successor, successor
from stemma.governance.nodes import Node
from stemma.ledger.change import Change
from stemma.ledger.journal import audited
from stemma.ledger.writer import Statement
from stemma.notify.messages import Message
from stemma.notify.outbox import enqueue
from stemma.registry import catalog
from stemma.registry.differences import differences
from stemma.registry.model import Published
from stemma.registry.semver import Version, parse_version
from stemma.store.database import Connection

__all__ = ["Assessment", "assess", "propose", "propose_due", "settle_due"]

KIND: Final = "promotion"
LIFETIME: Final = timedelta(days=14)
STUDIO: Final = Principal("studio", Role.ADMIN, frozenset({"decide:write", "decide:publish"}))
"""Who proposes what the outcomes say and publishes what a person approved."""


def propose(connection: Connection, principal: Principal, node: Node) -> Change[Promotion]:
    """Propose the variant that the outcomes say is better, and ask for the approval.

    Raises Forbidden; Conflict where the node does not learn, no variant is better, or this one is proposed already.
    """
    principal.require("decide:write")
    stand = standing(connection, node)
    found = _candidate(stand)
    if found is None:
        whys = " ".join(f"{one.rate.variant}: {one.why}" for one in stand.assessment.variants)
        raise Conflict("nothing_to_promote", f"No variant of {stand.policy.reference} is better. {whys}", field="node")
    return _propose(connection, principal, stand, found)


def propose_due(connection: Connection, principal: Principal, node: Node) -> Change[Promotion] | None:
    """The same where there is something to propose that was not proposed before: what was declined is not asked again.

    None where there is not, or where the node does not learn.
    """
    if node.learning is None:
        return None
    stand = standing(connection, node)
    found = _candidate(stand)
    if found is None or of_variant(connection, node.name, stand.policy.reference, found.rate.variant) is not None:
        return None
    return _propose(connection, principal, stand, found)


def settle_due(connection: Connection) -> tuple[Change[Promotion], ...]:
    """One change for each proposed promotion whose approval is settled: published, or declined."""
    rows = connection.execute(
        "SELECT node, policy, variant FROM promotions WHERE state = 'proposed' ORDER BY position"
    ).fetchall()
    changes = []
    for row in rows:
        promotion = of_variant(connection, *row)
        assert promotion is not None
        approval = get_approval(connection, promotion.approval_id)
        if approval.state is not Decided.PENDING:
            changes.append(_settle(connection, promotion, approval))
    return tuple(changes)


def _candidate(stand: Standing) -> Comparison | None:
    return next((one for one in stand.assessment.variants if one.rate.variant == stand.assessment.candidate), None)


def _propose(connection: Connection, principal: Principal, stand: Standing, found: Comparison) -> Change[Promotion]:
    variant, policy = found.rate.variant, stand.policy
    made = _successor(connection, policy, variant, found)
    asked = request(
        connection,
        principal,
        Proposal(
            kind=KIND,
            subject=_resource(stand.node, policy.reference, variant),
            content=made.canonical,
            media_type="application/json",
            diff=_diff(policy, made),
            reason=found.why,
            deciders=tuple(sorted(PERMISSIONS["decide:publish"] & PERMISSIONS["approvals:decide"])),
            lifetime=LIFETIME,
        ),
    )
    promotion = Promotion(
        id=uuid4(),
        node=stand.node,
        policy=policy.reference,
        variant=variant,
        evidence=stand.assessment.content(),
        approval_id=asked.result(()).id,
        state=State.PROPOSED,
        published=None,
        proposed_at=datetime.now(UTC),
        settled_at=None,
    )
    taken = Conflict("promotion_open", f"{variant} of {policy.reference} is proposed already.", field="node")
    insert = Statement(
        "INSERT INTO promotions (id, node, policy, variant, evidence, approval_id, state, proposed_at)"
        " VALUES (%(id)s, %(node)s, %(policy)s, %(variant)s, %(evidence)s, %(approval_id)s, 'proposed',"
        " %(proposed_at)s) ON CONFLICT DO NOTHING",
        {name: getattr(promotion, name) for name in Promotion.__slots__} | {"evidence": Jsonb(promotion.evidence)},
        rows=1,
        refusal=taken,
    )
    return _step("promotion.proposed", principal, promotion, found.why, insert).joined(asked)


def _settle(connection: Connection, promotion: Promotion, approval: Approval) -> Change[Promotion]:
    if approval.state is not Decided.APPROVED:
        return _decline(promotion, f"Its approval is {approval.state}.")
    node = nodes.load(connection, promotion.node)
    now = policies.find(connection, reference(connection, node)).reference
    if now != promotion.policy:
        return _decline(promotion, f"{now} decides at {promotion.node} by now.")
    approved = Successor.of_canonical(get_content(connection, approval.id).data)
    try:
        publishing = policies.publish(connection, STUDIO, approved.policy, approved.tests)
    except StemmaError as error:
        return _decline(promotion, f"It cannot be published any more: {error.message}")
    published = publishing.result(()).reference
    done = replace(promotion, state=State.PUBLISHED, published=published, settled_at=datetime.now(UTC))
    why = f"{published} has {promotion.variant} as its baseline."
    consumed = grants.consume(connection, STUDIO, approval.id)
    return _step("promotion.published", STUDIO, done, why, _update(done)).joined(publishing).joined(consumed)


def _decline(promotion: Promotion, why: str) -> Change[Promotion]:
    declined = replace(promotion, state=State.DECLINED, settled_at=datetime.now(UTC))
    return _step("promotion.declined", STUDIO, declined, why, _update(declined))


def _update(promotion: Promotion) -> Statement:
    return Statement(
        "UPDATE promotions SET state = %s, published = %s, settled_at = %s WHERE id = %s AND state = 'proposed'",
        (promotion.state.value, promotion.published, promotion.settled_at, promotion.id),
        rows=1,
        refusal=Conflict("promotion_settled", f"The promotion {promotion.id} was settled already."),
    )


def _step(action: str, principal: Principal, promotion: Promotion, why: str, row: Statement) -> Change[Promotion]:
    """A step of a promotion in the audit chain, at the Historian, and in the outbox."""
    data = {
        "promotion": str(promotion.id),
        "node": promotion.node,
        "policy": promotion.policy,
        "variant": promotion.variant,
        "approval": str(promotion.approval_id),
        "published": promotion.published,
        "why": why,
    }
    entries = audited(principal, action, resource=f"promotion:{promotion.id}", meta=data, critical=True)
    title = f"{promotion.variant} of {promotion.policy}: promotion {promotion.state}"
    return Change(entries, (row, enqueue(Message(action, title, why, data))), lambda _: promotion)


def _successor(connection: Connection, policy: Published, variant: str, found: Comparison) -> Successor:
    major = parse_version(policy.version).major
    newest = catalog.newest_of_major(connection, policies.KIND, policy.name, major)
    assert newest is not None
    version = Version(newest.major, newest.minor + 1, 0)
    return successor(policy, variant, version=version, changelog=_changelog(policy, variant, found))


def _changelog(policy: Published, variant: str, found: Comparison) -> str:
    return f"Makes the variant {variant} of {policy.version} the baseline. {found.why}"


def _diff(policy: Published, made: Successor) -> str:
    """What differs, part by part, for whoever decides."""
    after = {"policy": _content(made.policy), "tests": json.loads(made.tests)["cases"]}
    lines = []
    for one in differences(policy.content, after):
        lines.append(f"{one.step} {one.path}")
        lines += [
            f"{sign} {json.dumps(value, ensure_ascii=False)}"
            for sign, value in (("-", one.before), ("+", one.after))
            if value is not None
        ]
    return "\n".join(lines)[:MAX_DIFF]


def _content(text: str) -> dict[str, Any]:
    return {name: value for name, value in json.loads(text).items() if name not in ("name", "version", "changelog")}


def _resource(node: str, policy: str, variant: str) -> str:
    return f"{node}: {variant} of {policy}"
