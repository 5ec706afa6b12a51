"""How learning stands at a node: the policy that decides there now, its variants' counts, and what they say."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from stemma.errors import Conflict
from stemma.governance import nodes, policies
from stemma.governance.decisions import flags
from stemma.governance.evaluation import applied
from stemma.governance.learning.assessment import Assessment, assess
from stemma.governance.learning.drawing import propensities
from stemma.governance.learning.stats import VariantStats, load, variants_of
from stemma.governance.nodes import Learning, Node
from stemma.registry import catalog
from stemma.registry.model import Published
from stemma.store.database import Connection

_PAGE = 200


@dataclass(frozen=True, slots=True)
class Standing:
    """A node that learns: its policy, the guardrails, the counts of each variant, with which propensity each is drawn
    now, and what the outcomes say.
    """

    node: str
    policy: Published
    guardrails: Learning
    stats: tuple[VariantStats, ...]
    propensities: Mapping[str, float]
    assessment: Assessment


def standing(connection: Connection, node: Node) -> Standing:
    """How learning stands there; raises Conflict where the node does not learn, NotFound where its policy is gone."""
    if node.learning is None:
        hint = "Publish a version of the node that says `learning`."
        raise Conflict("node_does_not_learn", f"{node.reference} tries no variants.", field="node", hint=hint)
    policy = policies.find(connection, reference(connection, node))
    stats = load(connection, node.name, policy.reference, variants_of(applied(policy)))
    chances = propensities(stats, node.learning)
    return Standing(node.name, policy, node.learning, stats, chances, assess(stats, node.learning))


def reference(connection: Connection, node: Node) -> str:
    """The policy that decides at a node now: what its flag says, else what the node says."""
    own = (flag.value for flag in flags.list_flags(connection, node.name) if flag.flag == flags.POLICY)
    return next(own, node.policy)


def learning_nodes(connection: Connection) -> Iterator[Node]:
    """Every node that learns, as its newest version says."""
    cursor = None
    while True:
        page = catalog.list_newest(connection, nodes.KIND, cursor=cursor, limit=_PAGE)
        for summary in page.data:
            if (node := nodes.load(connection, summary.reference)).learning is not None:
                yield node
        if (cursor := page.next_cursor) is None:
            return
