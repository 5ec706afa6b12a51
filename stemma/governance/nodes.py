"""Nodes: where decisions of one sort are made. A node says which policy decides, of which events, what is remembered
of them, and what counts as success.

Descriptions only, published as versions in the registry. What is done with them belongs to `decisions`, `learning` and
`memory`.
"""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError, model_validator

from stemma.access.principal import Principal
from stemma.errors import InvalidInput
from stemma.governance import yaml_text
from stemma.governance.policy import Condition, Name, Number, Prose
from stemma.governance.yaml_text import pointer
from stemma.ledger.change import Change
from stemma.registry import catalog, publishing
from stemma.registry.loading import kept
from stemma.registry.model import Draft, Kind, Published
from stemma.registry.references import parse_reference
from stemma.registry.semver import parse_version
from stemma.rules.conditions import language
from stemma.rules.language import Type
from stemma.store.database import Connection

KIND: Final = Kind("node", "node_versions", "decide:publish")
_POLICIES: Final = Kind("policy", "policy_versions", "decide:publish")

EventType = Annotated[str, StringConstraints(pattern=r"^[A-Za-z][A-Za-z0-9_.-]{0,99}$")]
Share = Annotated[Number, Field(ge=0, le=1)]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, strict=True)


class Deciding(_Part):
    """Events of one type, and which members of their data make the text by which similar ones are found."""

    text: Annotated[list[Annotated[str, StringConstraints(min_length=1, max_length=100)]], Field(max_length=20)]


class Similar(_Part):
    """How many similar cases are looked at, and how far back, in days."""

    count: Annotated[int, Field(ge=1, le=100)] = 10
    days: Annotated[int, Field(ge=1, le=3_650)] = 365


class Reward(_Part):
    """What an outcome's metrics make of a decision. Where neither condition holds it counts as neither."""

    metrics: Annotated[dict[Name, Annotated[Type, Field(strict=False)]], Field(min_length=1, max_length=20)]
    success: Condition
    failure: Condition


class Feature(_Part):
    """Something known of an entity at the end of a day: an aggregate over what happened in the days up to it.

    `of` is a JSON Pointer into `/event/data`, `/outcome/metrics`, or one of `/outcome/success`, `/outcome/failure`,
    `/decision/approved`; `share` is the fraction of those that are known in which it is true. `count` counts events
    and takes no `of`. `events` are the types that are looked at, without it those that the node decides.
    """

    aggregate: Literal["count", "sum", "mean", "min", "max", "last", "share", "distinct"]
    of: (
        Annotated[
            str,
            StringConstraints(
                max_length=300,
                pattern=r"^(/(event/data|outcome/metrics)(/([^~/]|~[01])+)+|/outcome/(success|failure)|/decision/approved)$",
            ),
        ]
        | None
    ) = None
    events: Annotated[list[EventType], Field(min_length=1, max_length=20)] | None = None
    days: Annotated[int, Field(ge=1, le=3_650)] = 365
    description: Prose | None = None

    @model_validator(mode="after")
    def _complete(self) -> Feature:
        if (self.of is None) != (self.aggregate == "count"):
            raise ValueError("every aggregate but count needs `of`")
        return self


class Harm(_Part):
    """The stop rule: a variant loses its traffic when it is worse than the baseline by `margin` with `probability`."""

    margin: Share = 0.05
    probability: Annotated[Number, Field(gt=0.5, lt=1)] = 0.95


class Learning(_Part):
    """How variants of the policy are tried, by Thompson sampling within these guardrails.

    Every variant keeps at least `floor` of the draws, those beside the baseline together at most `cap`. A promotion
    is proposed when, after `minimum_samples` outcomes of each, a variant is better than the baseline by `margin`
    with `probability`.
    """

    floor: Annotated[Number, Field(ge=0, le=0.2)] = 0.05
    cap: Annotated[Number, Field(gt=0, le=1)] = 0.5
    minimum_samples: Annotated[int, Field(ge=10)] = 200
    margin: Share = 0.01
    probability: Annotated[Number, Field(gt=0.5, lt=1)] = 0.95
    harm: Harm = Harm()


class Node(_Part):
    """A node as written. `policy` is a reference such as `finance.discounts@1`."""

    name: Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_-]{0,62}$")]
    version: str
    changelog: str
    description: Prose
    policy: str
    entity: Prose
    events: Annotated[dict[EventType, Deciding], Field(min_length=1, max_length=20)]
    similar: Similar = Similar()
    reward: Reward
    features: Annotated[dict[Name, Feature], Field(max_length=50)] = {}
    learning: Learning | None = None

    @model_validator(mode="after")
    def _usable(self) -> Node:
        parse_reference(self.policy)
        if self.learning and len(self.events) and self.learning.floor > self.learning.cap:
            raise ValueError("the floor is above the cap")
        spoken = language(tuple(sorted(self.reward.metrics.items())))
        for condition in (self.reward.success, self.reward.failure):
            spoken.compile(condition)
        return self

    def content(self) -> dict[str, Any]:
        """What is published: all but name, version and changelog."""
        return self.model_dump(mode="json", exclude={"name", "version", "changelog"})

    @property
    def reference(self) -> str:
        """`name@version`."""
        return f"{self.name}@{self.version}"


def read(text: str) -> Node:
    """The node that a YAML text says; raises InvalidInput with the place of the first thing that is wrong."""
    source = yaml_text.read(text, field="node")
    try:
        return Node.model_validate(source.value)
    except ValidationError as invalid:
        first = invalid.errors(include_url=False, include_input=False, include_context=False)[0]
        path = tuple(first["loc"])
        place = source.place(path)
        what = f"line {place.line}, column {place.column}: {pointer(path)}: {first['msg']}."
        raise InvalidInput("node_invalid", what, field="node") from invalid


def publish(connection: Connection, principal: Principal, text: str) -> Change[Published]:
    """Publish what a YAML text says. Raises Forbidden, InvalidInput, Conflict as `stemma.registry.publishing` does;
    NotFound where its policy is not published, InvalidInput where that is another node's.
    """
    principal.require(KIND.permission)
    node = read(text)
    policy = catalog.find(connection, _POLICIES, parse_reference(node.policy))
    if (owner := policy.content["policy"]["node"]) != node.name:
        what = f"{policy.reference} is a policy of the node {owner}."
        raise InvalidInput("policy_of_another_node", what, field="policy")
    draft = Draft(node.name, parse_version(node.version), node.changelog, node.content())
    return publishing.publish(connection, principal, KIND, draft)


def load(connection: Connection, reference: str) -> Node:
    """The node that `finance`, `finance@1` or `finance@1.2.3` refers to now; raises InvalidInput, NotFound."""
    published = catalog.find(connection, KIND, parse_reference(reference))
    return _node(published)


@kept
def _node(published: Published) -> Node:
    return Node.model_validate(
        {
            **published.content,
            "name": published.name,
            "version": published.version,
            "changelog": published.changelog,
        }
    )
