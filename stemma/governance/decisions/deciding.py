"""Making a decision: load the policy, assemble the context, judge, and say what is to be written.

Between a request and its commit lie one look at the database and the evaluation. Versions of nodes and policies never
change, so that they are kept once loaded; which of them is in force is read each time.
"""

from __future__ import annotations

import contextlib
import hashlib
import time
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from typing import Any, Final
from uuid import UUID, uuid4

from psycopg.types.json import Jsonb

from stemma.access.principal import Principal
from stemma.approvals import requests
from stemma.errors import Conflict, InvalidInput, NotFound
from stemma.governance import nodes, policies
from stemma.governance.decisions import context, flags, review
from stemma.governance.decisions.judging import Rested, judge, rested, takes_effect
from stemma.governance.decisions.model import CHAIN, Decision, State
from stemma.governance.decisions.similar import Vector, Vectors, text_of
from stemma.governance.evaluation import Applicable, Verdict
from stemma.governance.events import catalog, recording, types
from stemma.governance.events.model import Event, NewEvent
from stemma.governance.events.types import EventType
from stemma.governance.learning import stats
from stemma.governance.learning.drawing import Draw, draw, new_seed
from stemma.governance.learning.stats import VariantStats
from stemma.governance.nodes import Node
from stemma.governance.policy import BASELINE, Level, Ruling
from stemma.ledger.change import Change
from stemma.ledger.entries import Entry, NewEntry, format_time
from stemma.ledger.writer import Statement
from stemma.notify.messages import Message
from stemma.notify.outbox import enqueue
from stemma.registry.references import check_name, parse_reference
from stemma.store.database import Connection, Database
from stemma.store.settings import Settings

PERMISSION: Final = "decide:write"
_TRIES: Final = 5
_KEPT: Final = 128
_AS_THEY_ARE: Final = (
    "id", "node", "node_version", "event_id", "event_type", "entity", "correlation_id", "policy", "policy_version",
    "variant", "approval_id", "due_at", "on_silence", "occurred_at", "decided_at", "decided_by", "latency_ms",
)  # fmt: skip

# What would be approved alone is only written while nobody has stopped the node. The chain's lock is held by now, and
# whoever sets a flag holds it, too.
_INSERT: Final = f"""
    WITH context AS (
        INSERT INTO decision_contexts (sha256, content) VALUES (%(context_sha256)s, %(content)s) ON CONFLICT DO NOTHING
    ), made AS (
        INSERT INTO decisions (id, node, node_version, event_id, event_type, entity, correlation_id, policy,
            policy_version, policy_sha256, variant, draw, verdict, level, reasons, verdict_sha256, context_sha256,
            state, effect, approval_id, due_at, on_silence, occurred_at, decided_at, decided_by, latency_ms, seq,
            entry_hash)
        SELECT %(id)s, %(node)s, %(node_version)s, %(event_id)s, %(event_type)s, %(entity)s, %(correlation_id)s,
            %(policy)s, %(policy_version)s, %(policy_sha256)s, %(variant)s, %(draw)s, %(verdict)s, %(level)s,
            %(reasons)s, %(verdict_sha256)s, %(context_sha256)s, %(state)s, %(effect)s, %(approval_id)s, %(due_at)s,
            %(on_silence)s, %(occurred_at)s, %(decided_at)s, %(decided_by)s, %(latency_ms)s, %(seq)s, %(entry_hash)s
        WHERE %(effect)s::text IS DISTINCT FROM 'approve' OR NOT {flags.is_stopped("%(node)s")}
        RETURNING id
    ), remembered AS (
        INSERT INTO decision_embeddings (decision_id, model_key, node, text_sha256, embedding, occurred_at)
        SELECT id, %(model_key)s, %(node)s, %(text_sha256)s, %(vector)s::vector, %(occurred_at)s FROM made
        WHERE %(model_key)s::text IS NOT NULL
    )
    SELECT id FROM made
"""


class NodeStopped(Conflict):
    """The node was stopped between the verdict and its commit; deciding again escalates it."""


@dataclass(frozen=True, slots=True)
class _Known:
    """What a decision is made of, once versions and context are known."""

    node: Node
    policy: Applicable
    found: context.Found
    vector: Vector | None


class Decider:
    """Makes decisions, with what is worth keeping between them. Thread-safe; one per process is enough."""

    def __init__(self, database: Database, settings: Settings) -> None:
        self._database = database
        self._vectors = Vectors(settings)
        self._types: dict[str, EventType] = {}
        self._nodes: dict[str, Node] = {}
        self._policies: dict[str, Applicable] = {}
        self._in_force: dict[str, tuple[str, str | None]] = {}

    def decide(self, principal: Principal, node: str, event: NewEvent | UUID) -> Change[Decision]:
        """Decide about an event at a node: one that was recorded, or a new one, which is recorded with the decision and
        whose id must be new.

        Raises Forbidden; NotFound for a node, policy or event that is not there; InvalidInput for an event that the
        node does not decide, or that cannot be recorded. The commit raises Conflict where a new event's id was recorded
        before, and `NodeStopped` for what is to be decided again.
        """
        principal.require(PERMISSION)
        check_name(node, field="node")
        return self._database.glance(lambda connection: self._decide(connection, principal, node, event))

    def _decide(
        self, connection: Connection, principal: Principal, node: str, asked: NewEvent | UUID
    ) -> Change[Decision]:
        started = time.perf_counter()
        if node not in self._in_force:
            self._in_force[node] = self._node(connection, node).version, None
        recorded: Change[tuple[Event, ...]] | None = None
        if isinstance(asked, UUID):
            event = catalog.get_event(connection, asked)
            known = self._known(connection, node, event)
        else:
            recorded, event, known = self._recorded(connection, principal, node, asked)
        stopped = known.found.either(flags.STOPPED)
        rests_on = rested(event.seen(), context.assembled(known.found, stopped=stopped))
        drawn = _drawn(known)
        verdict = judge(known.policy, rests_on.event, rests_on.context, drawn.variant if drawn else BASELINE)
        decision = _decision(principal, known, event, rests_on, verdict, drawn)
        change = _change(connection, principal, decision, rests_on, known, started)
        return change if recorded is None else _after(recorded, change)

    def _recorded(
        self, connection: Connection, principal: Principal, node: str, asked: NewEvent
    ) -> tuple[Change[tuple[Event, ...]], Event, _Known]:
        """Check the event by the version of its type that was in force last time, and anew where the look finds
        another, or where that one refuses it.
        """
        kept = self._types.get(asked.type)
        if kept is not None:
            with contextlib.suppress(InvalidInput):
                recorded = recording.record(connection, principal, [asked], look=False, types={asked.type: kept})
                (event,) = recorded.result(())
                known = self._known(connection, node, event)
                if known.found.event_type_version == kept.version:
                    return recorded, event, known
        recorded = recording.record(connection, principal, [asked], look=False)
        (event,) = recorded.result(())
        known = self._known(connection, node, event)
        _keep(self._types, asked.type, types.load(connection, event.type))
        return recorded, event, known

    def _known(self, connection: Connection, name: str, event: Event) -> _Known:
        """Begin with the versions that were in force last time, and begin anew where the look finds others."""
        version, override = self._in_force[name]
        for _ in range(_TRIES):
            node = self._node(connection, f"{name}@{version}")
            if event.type not in node.events:
                # A version that was published since then may decide it.
                node = self._node(connection, name)
                _require_decided(node, event)
            vector = self._vectors.of(connection, text_of(node, event.type, event.data))
            reference = parse_reference(override or node.policy)
            found = context.look(
                connection,
                node,
                reference,
                event_type=event.type,
                entity=event.entity,
                occurred_at=event.occurred_at,
                vector=vector,
            )
            if (found.node_version, found.flags.get(flags.POLICY)) == (node.version, override):
                if found.policy_version is None:
                    raise NotFound("policy_unknown", f"There is no policy {reference}.", field="policy")
                self._in_force[name] = node.version, override
                return _Known(
                    node, self._policy(connection, node, f"{reference.name}@{found.policy_version}"), found, vector
                )
            version, override = found.node_version or version, found.flags.get(flags.POLICY)
        raise Conflict("node_changing", f"The node {name} is being changed.", field="node", hint="Try again.")

    def _node(self, connection: Connection, reference: str) -> Node:
        node = self._nodes.get(reference)
        if node is None:
            node = nodes.load(connection, reference)
            _keep(self._nodes, node.reference, node)
        return node

    def _policy(self, connection: Connection, node: Node, reference: str) -> Applicable:
        policy = self._policies.get(reference)
        if policy is None:
            policy = policies.load(connection, reference)
            _keep(self._policies, reference, policy)
        if policy.policy.node != node.name:
            what = f"{reference} is a policy of the node {policy.policy.node}."
            hint = f"Publish a version of it for {node.name}, or a version of the node with another policy."
            raise Conflict("policy_of_another_node", what, field="policy", hint=hint)
        return policy


def _require_decided(node: Node, event: Event) -> None:
    if event.type not in node.events:
        hint = f"It decides {', '.join(node.events)}."
        what = f"The node {node.name} does not decide events of the type {event.type}."
        raise InvalidInput("event_not_decided", what, field="event.type", hint=hint)


def _keep(kept: dict[str, Any], reference: str, loaded: Any) -> None:
    if len(kept) >= _KEPT:
        kept.clear()
    kept[reference] = loaded


def _drawn(known: _Known) -> Draw | None:
    """The variant that decides, where the node learns and the policy has others than the baseline."""
    guardrails, policy = known.node.learning, known.policy
    if guardrails is None or not policy.policy.variants or known.found.flag(flags.LEARNING) is False:
        return None
    counted = {row[0]: VariantStats(row[0], row[1], row[2], row[3], _time(row[4]), row[5]) for row in known.found.stats}
    everyone = [counted.get(variant, VariantStats(variant)) for variant in stats.variants_of(policy)]
    return draw(everyone, guardrails, new_seed())


def _time(text: str | None) -> datetime | None:
    return datetime.fromisoformat(text) if text else None


def _decision(
    principal: Principal,
    known: _Known,
    event: Event,
    rests_on: Rested,
    verdict: Verdict,
    drawn: Draw | None,
) -> Decision:
    """The decision but for what its commit adds: its deadline and its place in the chain."""
    final = takes_effect(verdict)
    return Decision(
        id=uuid4(),
        node=known.node.name,
        node_version=known.node.version,
        event_id=event.id,
        event_type=event.type,
        entity=event.entity,
        correlation_id=event.correlation_id,
        policy=known.policy.policy.name,
        policy_version=known.policy.policy.version,
        variant=verdict.variant,
        verdict=verdict.verdict,
        level=verdict.level,
        reasons=verdict.reasons,
        state=State.FINAL if final else State.WAITING,
        effect=verdict.verdict if final else None,
        approval_id=None,
        due_at=None,
        on_silence=None if final else known.policy.policy.escalation.then,
        settled_by=None,
        settled_reason=None,
        settled_at=None,
        occurred_at=event.occurred_at,
        decided_at=datetime.now(UTC),
        decided_by=principal.actor,
        latency_ms=0.0,
        seq=0,
        entry_hash="",
        policy_sha256=known.policy.sha256,
        verdict_sha256=verdict.sha256,
        context_sha256=hashlib.sha256(rests_on.content).hexdigest(),
        draw=drawn.content() if drawn else None,
        event=rests_on.event,
        context=rests_on.context,
    )


def _change(
    connection: Connection,
    principal: Principal,
    decision: Decision,
    rests_on: Rested,
    known: _Known,
    started: float,
) -> Change[Decision]:
    asked = None
    if decision.state is State.WAITING:
        proposal = review.proposal(decision, known.policy.policy.escalation)
        asked = requests.request(connection, principal, proposal, now=known.found.now)
        approval = asked.result(())
        decision = replace(decision, approval_id=approval.id, due_at=approval.expires_at)
    decision = replace(decision, latency_ms=round((time.perf_counter() - started) * 1000, 3))
    refusal = NodeStopped("node_stopped", f"The node {decision.node} was stopped.", field="node", hint="Ask again.")
    companions = [Statement(_INSERT, partial(_row, decision, rests_on, known), rows=1, refusal=refusal)]
    if decision.draw is not None:
        companions.append(stats.drawn(decision.node, decision.policy_reference, decision.variant))
    if decision.state is State.FINAL and decision.level is Level.AL2:
        companions.append(_told(decision))

    def made(stored: tuple[Entry, ...]) -> Decision:
        return replace(decision, seq=stored[0].seq, entry_hash=stored[0].entry_hash.hex())

    change = Change((_entry(principal, decision),), tuple(companions), made)
    return change if asked is None else change.joined(asked)


def _after(recorded: Change[tuple[Event, ...]], change: Change[Decision]) -> Change[Decision]:
    """Both, the event first, since the decision's row names it; with the decision as the result."""
    both = recorded.joined(change)
    decided = slice(len(recorded.entries), None)
    return Change(both.entries, both.companions, lambda stored: change.result(stored[decided]))


def _entry(principal: Principal, decision: Decision) -> NewEntry:
    """What the chain keeps: hashes and names, nothing that the event said."""
    facts = {
        "node": f"{decision.node}@{decision.node_version}",
        "event": str(decision.event_id),
        "policy": decision.policy_reference,
        "policy_sha256": decision.policy_sha256,
        "variant": decision.variant,
        "seed": decision.draw["seed"] if decision.draw else None,
        "verdict": decision.verdict.value,
        "level": decision.level.value,
        "rules": [reason.rule for reason in decision.reasons],
        "verdict_sha256": decision.verdict_sha256,
        "context_sha256": decision.context_sha256,
        "state": decision.state.value,
        "effect": decision.effect.value if decision.effect else None,
        "due_at": format_time(decision.due_at) if decision.due_at else None,
        "on_silence": decision.on_silence,
    }
    return NewEntry(CHAIN, "decision.decided", principal.actor, review.subject(decision.id), facts)


def _row(decision: Decision, rests_on: Rested, known: _Known, stored: tuple[Entry, ...]) -> dict[str, Any]:
    (entry,) = stored[:1]
    vector = known.vector
    return {
        **{name: getattr(decision, name) for name in _AS_THEY_ARE},
        "policy_sha256": bytes.fromhex(decision.policy_sha256),
        "draw": Jsonb(decision.draw) if decision.draw else None,
        "verdict": decision.verdict.value,
        "level": decision.level.value,
        "reasons": Jsonb([{"rule": reason.rule, "text": reason.text} for reason in decision.reasons]),
        "verdict_sha256": bytes.fromhex(decision.verdict_sha256),
        "context_sha256": bytes.fromhex(decision.context_sha256),
        "content": rests_on.content,
        "state": decision.state.value,
        "effect": decision.effect.value if decision.effect else None,
        "seq": entry.seq,
        "entry_hash": entry.entry_hash,
        "model_key": vector.model_key if vector else None,
        "text_sha256": vector.text_sha256 if vector else None,
        "vector": vector.literal if vector else None,
    }


def _told(decision: Decision) -> Statement:
    """The notification of what was done at AL2, where a person is told."""
    done = "approved" if decision.effect is Ruling.APPROVE else "denied"
    why = " ".join(reason.text for reason in decision.reasons)
    data = {"decision": str(decision.id), "node": decision.node, "effect": done}
    return enqueue(Message("decision.acted", f"{decision.node}: {decision.event_type} was {done}", why, data))
