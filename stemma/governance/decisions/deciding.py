"""Making a decision: load the policy, assemble the context, judge, and say what is to be written.

Between a request and its commit lie one look at the database, which those share who ask at the same time, and the
evaluation. Versions of nodes and policies never change, so that they are kept once loaded; which of them is in force is
read each time.
"""

from __future__ import annotations

import contextlib
import hashlib
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from typing import Any, Final
from uuid import UUID, uuid4

from stemma.access.principal import Principal
from stemma.approvals import requests
from stemma.errors import Conflict, InvalidInput, NotFound, StemmaError, Unavailable
from stemma.governance import nodes, policies
from stemma.governance.decisions import context, flags, review
from stemma.governance.decisions.judging import Rested, judge, rested, takes_effect
from stemma.governance.decisions.model import CHAIN, Decision, State
from stemma.governance.decisions.similar import Vectors, text_of
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
from stemma.ledger.writer import Statement, row
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
    "policy_sha256", "variant", "draw", "verdict", "level", "verdict_sha256", "context_sha256", "state", "effect",
    "approval_id", "due_at", "on_silence", "occurred_at", "decided_at", "decided_by", "latency_ms",
)  # fmt: skip

# What would be approved alone is only written while nobody has stopped the node. The chain's lock is held by now, and
# whoever sets a flag holds it, too.
_INSERT: Final = f"""
    WITH given AS MATERIALIZED (
        SELECT * FROM ROWS FROM (json_to_recordset(%(rows)s::json) AS (
            id uuid, node text, node_version text, event_id uuid, event_type text, entity text, correlation_id text,
            policy text, policy_version text, policy_sha256 text, variant text, draw jsonb, verdict text, level text,
            reasons jsonb, verdict_sha256 text, context_sha256 text, content text, state text, effect text,
            approval_id uuid, due_at timestamptz, on_silence text, occurred_at timestamptz, decided_at timestamptz,
            decided_by text, latency_ms float8, seq bigint, entry_hash text, model_key text, text_sha256 text,
            vector vector)) WITH ORDINALITY AS rows (
            id, node, node_version, event_id, event_type, entity, correlation_id, policy, policy_version, policy_sha256,
            variant, draw, verdict, level, reasons, verdict_sha256, context_sha256, content, state, effect, approval_id,
            due_at, on_silence, occurred_at, decided_at, decided_by, latency_ms, seq, entry_hash, model_key,
            text_sha256, vector, place)
    ), context AS (
        INSERT INTO decision_contexts (sha256, content)
        SELECT decode(context_sha256, 'hex'), convert_to(content, 'UTF8') FROM given ON CONFLICT DO NOTHING
    ), made AS (
        INSERT INTO decisions (id, node, node_version, event_id, event_type, entity, correlation_id, policy,
            policy_version, policy_sha256, variant, draw, verdict, level, reasons, verdict_sha256, context_sha256,
            state, effect, approval_id, due_at, on_silence, occurred_at, decided_at, decided_by, latency_ms, seq,
            entry_hash)
        SELECT id, node, node_version, event_id, event_type, entity, correlation_id, policy, policy_version,
            decode(policy_sha256, 'hex'), variant, draw, verdict, level, reasons, decode(verdict_sha256, 'hex'),
            decode(context_sha256, 'hex'), state, effect, approval_id, due_at, on_silence, occurred_at, decided_at,
            decided_by, latency_ms, seq, decode(entry_hash, 'hex')
        FROM given WHERE effect IS DISTINCT FROM 'approve' OR NOT {flags.is_stopped("given.node")} ORDER BY place
        RETURNING id
    ), remembered AS (
        INSERT INTO decision_embeddings (decision_id, model_key, node, text_sha256, embedding, occurred_at)
        SELECT id, model_key, node, decode(text_sha256, 'hex'), vector, occurred_at FROM given JOIN made USING (id)
        WHERE model_key IS NOT NULL
    )
    SELECT id FROM made
"""


class NodeStopped(Conflict):
    """The node was stopped between the verdict and its commit; deciding again escalates it."""


@dataclass(frozen=True, slots=True)
class Asked:
    """What somebody asks a node to decide: an event that was recorded, or a new one."""

    principal: Principal
    node: str
    event: NewEvent | UUID


@dataclass(frozen=True, slots=True)
class _Known:
    """What was looked for, and what was found."""

    wanted: context.Wanted
    found: context.Found


Decided = Change[Decision] | StemmaError


class _Case:
    """A decision in the making: what is asked, what it is tried with, and what came of it."""

    __slots__ = ("asked", "decided", "event", "newest", "node", "override", "recorded", "version")

    asked: Asked
    version: str | None
    override: str | None
    node: Node
    event: Event
    recorded: Change[tuple[Event, ...]] | None
    newest: bool
    decided: Decided | None

    def __init__(self, asked: Asked) -> None:
        self.asked = asked
        self.version = self.override = self.recorded = self.decided = None
        self.newest = False

    @property
    def text(self) -> str:
        """By which similar cases are found."""
        return text_of(self.node, self.event.type, self.event.data)

    @contextlib.contextmanager
    def refusable(self) -> Iterator[None]:
        """A block whose error is what comes of this one."""
        try:
            yield
        except StemmaError as error:
            self.decided = error


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
        (decided,) = self._database.glance(lambda connection: self._decide(connection, [Asked(principal, node, event)]))
        if isinstance(decided, StemmaError):
            raise decided
        return decided

    def decide_all(self, asked: Sequence[Asked]) -> list[Change[Decision] | Exception]:
        """The same for many that look at the database together; gives for each what it is, or what `decide` raises."""
        try:
            return [*self._database.glance(lambda connection: self._decide(connection, asked))]
        except Unavailable as error:
            return [error] * len(asked)
        except Exception as error:
            # What nobody foresaw of one fails that one alone.
            return [error] if len(asked) == 1 else [self.decide_all([one])[0] for one in asked]

    def _decide(self, connection: Connection, asked: Sequence[Asked]) -> list[Decided]:
        """Begin with the versions that were in force last time, and begin anew where the look finds others."""
        started = time.perf_counter()
        cases = [_Case(one) for one in asked]
        for _ in range(_TRIES):
            for case in _open(cases):
                with case.refusable():
                    self._prepare(connection, case)
            if not (tried := _open(cases)):
                break
            for case, known in zip(tried, self._known(connection, tried), strict=True):
                with case.refusable():
                    if self._holds(connection, case, known):
                        case.decided = self._decided(connection, case, known, started)
        return [case.decided or _changing(case.asked.node) for case in cases]

    def _prepare(self, connection: Connection, case: _Case) -> None:
        """Find the event and the node that decides it, in the versions that are tried."""
        asked = case.asked
        if case.version is None:
            asked.principal.require(PERMISSION)
            check_name(asked.node, field="node")
            if asked.node not in self._in_force:
                self._in_force[asked.node] = self._node(connection, asked.node).version, None
            case.version, case.override = self._in_force[asked.node]
        if isinstance(asked.event, UUID):
            case.event = catalog.get_event(connection, asked.event)
        else:
            case.recorded = self._recorded(connection, case, asked.event)
            (case.event,) = case.recorded.result(())
        case.node = self._node(connection, f"{asked.node}@{case.version}")
        if case.event.type not in case.node.events:
            # A version that was published since then may decide it.
            case.node = self._node(connection, asked.node)
            _require_decided(case.node, case.event)

    def _recorded(self, connection: Connection, case: _Case, event: NewEvent) -> Change[tuple[Event, ...]]:
        """Check the event by the version of its type that was in force last time, and anew where that one refuses it,
        or where the look found another.
        """
        principal = case.asked.principal
        kept = self._types.get(event.type)
        if kept is not None and not case.newest:
            with contextlib.suppress(InvalidInput):
                return recording.record(connection, principal, [event], look=False, types={event.type: kept})
        case.newest = True
        recorded = recording.record(connection, principal, [event], look=False)
        _keep(self._types, event.type, types.load(connection, event.type))
        return recorded

    def _known(self, connection: Connection, cases: Sequence[_Case]) -> list[_Known]:
        vectors = self._vectors.of(connection, [case.text for case in cases])
        wanted = [
            context.Wanted(case.node, parse_reference(case.override or case.node.policy), case.event, vector)
            for case, vector in zip(cases, vectors, strict=True)
        ]
        return [*map(_Known, wanted, context.look(connection, wanted))]

    def _holds(self, connection: Connection, case: _Case, known: _Known) -> bool:
        """Whether what was tried is in force; else what is to be tried next is noted."""
        found, node = known.found, known.wanted.node
        in_force = found.node_version, found.flags.get(flags.POLICY)
        if in_force != (node.version, case.override):
            case.version, case.override = in_force[0] or case.version, in_force[1]
            return False
        if found.policy_version is None:
            raise NotFound("policy_unknown", f"There is no policy {known.wanted.policy}.", field="policy")
        self._in_force[node.name] = node.version, case.override
        if case.recorded is not None and not case.newest and found.event_type_version != case.event.type_version:
            case.newest = True
            return False
        return True

    def _decided(self, connection: Connection, case: _Case, known: _Known, started: float) -> Change[Decision]:
        node, event, found = case.node, case.event, known.found
        policy = self._policy(connection, node, f"{known.wanted.policy.name}@{found.policy_version}")
        stopped = found.either(flags.STOPPED)
        rests_on = rested(event.seen(), context.assembled(found, stopped=stopped))
        drawn = _drawn(node, policy, found)
        verdict = judge(policy, rests_on.event, rests_on.context, drawn.variant if drawn else BASELINE)
        principal = case.asked.principal
        decision = _decision(principal, known, policy, rests_on, verdict, drawn)
        change = _change(connection, principal, decision, rests_on, known, policy, started)
        return change if case.recorded is None else _after(case.recorded, change)

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


def _open(cases: Sequence[_Case]) -> list[_Case]:
    return [case for case in cases if case.decided is None]


def _changing(node: str) -> Conflict:
    return Conflict("node_changing", f"The node {node} is being changed.", field="node", hint="Try again.")


def _require_decided(node: Node, event: Event) -> None:
    if event.type not in node.events:
        hint = f"It decides {', '.join(node.events)}."
        what = f"The node {node.name} does not decide events of the type {event.type}."
        raise InvalidInput("event_not_decided", what, field="event.type", hint=hint)


def _keep(kept: dict[str, Any], reference: str, loaded: Any) -> None:
    if len(kept) >= _KEPT:
        kept.clear()
    kept[reference] = loaded


def _drawn(node: Node, policy: Applicable, found: context.Found) -> Draw | None:
    """The variant that decides, where the node learns and the policy has others than the baseline."""
    guardrails = node.learning
    if guardrails is None or not policy.policy.variants or found.flag(flags.LEARNING) is False:
        return None
    counted = {row[0]: VariantStats(row[0], row[1], row[2], row[3], _time(row[4]), row[5]) for row in found.stats}
    everyone = [counted.get(variant, VariantStats(variant)) for variant in stats.variants_of(policy)]
    return draw(everyone, guardrails, new_seed())


def _time(text: str | None) -> datetime | None:
    return datetime.fromisoformat(text) if text else None


def _decision(
    principal: Principal,
    known: _Known,
    policy: Applicable,
    rests_on: Rested,
    verdict: Verdict,
    drawn: Draw | None,
) -> Decision:
    """The decision but for what its commit adds: its deadline and its place in the chain."""
    final = takes_effect(verdict)
    node, event = known.wanted.node, known.wanted.event
    return Decision(
        id=uuid4(),
        node=node.name,
        node_version=node.version,
        event_id=event.id,
        event_type=event.type,
        entity=event.entity,
        correlation_id=event.correlation_id,
        policy=policy.policy.name,
        policy_version=policy.policy.version,
        variant=verdict.variant,
        verdict=verdict.verdict,
        level=verdict.level,
        reasons=verdict.reasons,
        state=State.FINAL if final else State.WAITING,
        effect=verdict.verdict if final else None,
        approval_id=None,
        due_at=None,
        on_silence=None if final else policy.policy.escalation.then,
        settled_by=None,
        settled_reason=None,
        settled_at=None,
        occurred_at=event.occurred_at,
        decided_at=datetime.now(UTC),
        decided_by=principal.actor,
        latency_ms=0.0,
        seq=0,
        entry_hash="",
        policy_sha256=policy.sha256,
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
    policy: Applicable,
    started: float,
) -> Change[Decision]:
    asked = None
    if decision.state is State.WAITING:
        proposal = review.proposal(decision, policy.policy.escalation)
        asked = requests.request(connection, principal, proposal, now=known.found.now)
        approval = asked.result(())
        decision = replace(decision, approval_id=approval.id, due_at=approval.expires_at)
    decision = replace(decision, latency_ms=round((time.perf_counter() - started) * 1000, 3))
    refusal = NodeStopped("node_stopped", f"The node {decision.node} was stopped.", field="node", hint="Ask again.")
    companions = [Statement(_INSERT, partial(_row, decision, rests_on, known), 1, refusal, as_rows=True)]
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


def _row(decision: Decision, rests_on: Rested, known: _Known, stored: tuple[Entry, ...]) -> str:
    vector = known.wanted.vector
    return row(
        {
            **{name: getattr(decision, name) for name in _AS_THEY_ARE},
            "reasons": [{"rule": reason.rule, "text": reason.text} for reason in decision.reasons],
            "content": rests_on.content.decode(),
            "seq": stored[0].seq,
            "entry_hash": stored[0].entry_hash,
            "model_key": vector.model_key if vector else None,
            "text_sha256": vector.text_sha256 if vector else None,
            "vector": vector.literal if vector else None,
        }
    )


def _told(decision: Decision) -> Statement:
    """The notification of what was done at AL2, where a person is told."""
    done = "approved" if decision.effect is Ruling.APPROVE else "denied"
    why = " ".join(reason.text for reason in decision.reasons)
    data = {"decision": str(decision.id), "node": decision.node, "effect": done}
    return enqueue(Message("decision.acted", f"{decision.node}: {decision.event_type} was {done}", why, data))
