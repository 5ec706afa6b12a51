"""What a policy says: the model of the YAML that people write and of the JSON that is published.

How its rules are read:

- A bundle is a list of rules, of which the first whose condition holds answers; a bundle in which none holds is silent.
- Among the answers of several bundles the strictest counts: deny before escalate before approve.
- Where every bundle is silent, `default` answers.
- `autonomy` lists bands from AL3 down to AL1; the first whose condition holds is the level, else it is AL0.
- Beyond a limit nothing is decided alone: the level is AL0, and what would be approved is escalated.
- What cannot be told, an input that is missing or a condition that fails, is escalated.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints

from stemma.rules.language import MAX_EXPRESSION, MAX_ITEMS, MAX_NUMBER, MAX_TEXT, Type

MAX_RULES: Final = 50
MAX_CONDITIONS: Final = 16_000
"""Characters of all conditions of a policy together: compiling them takes less than 100 ms."""
MAX_COST: Final = 200_000
"""Units of work of all conditions of a policy together, at worst (`stemma.rules.language`)."""
BASELINE: Final = "baseline"
"""The variant that every policy has: its parameters as they stand."""


class Ruling(StrEnum):
    """What a policy can say to a request."""

    APPROVE = "approve"
    DENY = "deny"
    ESCALATE = "escalate"


class Level(StrEnum):
    """How far it is decided alone. At AL0 a person decides; at AL1 a person confirms what is proposed; at AL2 it is
    done and a person is told, who can take it back; at AL3 it is done.
    """

    AL0 = "AL0"
    AL1 = "AL1"
    AL2 = "AL2"
    AL3 = "AL3"


def _as_double(value: Any) -> Any:
    return float(value) if type(value) is int else value


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, strict=True)


Id = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_-]{0,62}$")]
Name = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]{0,62}$")]
Prose = Annotated[str, StringConstraints(min_length=1, max_length=1_000, pattern=r"\S")]
Condition = Annotated[str, StringConstraints(min_length=1, max_length=MAX_EXPRESSION)]
Number = Annotated[float, BeforeValidator(_as_double), Field(ge=-MAX_NUMBER, le=MAX_NUMBER)]
Text = Annotated[str, StringConstraints(max_length=MAX_TEXT)]
Value = (
    bool
    | Number
    | Text
    | Annotated[list[Number], Field(max_length=MAX_ITEMS)]
    | Annotated[list[Text], Field(max_length=MAX_ITEMS)]
)
_Ruling = Annotated[Ruling, Field(strict=False)]
_Level = Annotated[Level, Field(strict=False)]


class Input(_Part):
    """A variable of the conditions, and where its value comes from: a JSON Pointer (RFC 6901) that begins with `/event`
    or `/context`. Without a default it has to be there.
    """

    type: Annotated[Type, Field(strict=False)]
    source: Annotated[str, Field(alias="from", max_length=300, pattern=r"^/(event|context)(/([^~/]|~[01])*)+$")]
    description: Prose | None = None
    default: Value | None = None


class Rule(_Part):
    """When its condition holds, this is the answer, for this reason."""

    id: Id
    when: Condition
    then: _Ruling
    reason: Prose


class Bundle(_Part):
    """Rules about one question, of which the first that holds answers."""

    id: Id
    description: Prose | None = None
    rules: Annotated[list[Rule], Field(min_length=1, max_length=MAX_RULES)]


class Default(_Part):
    """The answer where no rule holds."""

    then: _Ruling
    reason: Prose


class Band(_Part):
    """A level of autonomy, and when it may be used."""

    level: _Level
    when: Condition


class Limit(_Part):
    """A bound on an input of numbers, beyond which nothing is decided alone."""

    input: Name
    at_least: Number | None = None
    at_most: Number | None = None
    reason: Prose


class Escalation(_Part):
    """Who decides what is escalated, and what holds when they did not within so many hours: it is denied, or stays
    open. It is never approved, because what failed is escalated, too.
    """

    to: Prose
    within_hours: Annotated[Number, Field(gt=0, le=24 * 90)]
    then: Literal["deny", "escalate"]


class Variant(_Part):
    """Other values for some parameters, to be tried against the baseline."""

    description: Prose | None = None
    parameters: Annotated[dict[Name, Value], Field(min_length=1, max_length=MAX_RULES)]


class Policy(_Part):
    """A policy as written."""

    name: Annotated[str, StringConstraints(max_length=100, pattern=r"^[a-z0-9_.-]*$")]
    version: str
    changelog: str
    description: Prose
    node: Id
    events: Annotated[
        list[Annotated[str, StringConstraints(pattern=r"^[A-Za-z][A-Za-z0-9_.-]{0,99}$")]],
        Field(min_length=1, max_length=20),
    ]
    inputs: Annotated[dict[Name, Input], Field(min_length=1, max_length=MAX_RULES)]
    parameters: Annotated[dict[Name, Value], Field(max_length=MAX_RULES)] = {}
    variants: Annotated[dict[Id, Variant], Field(max_length=20)] = {}
    limits: Annotated[list[Limit], Field(max_length=MAX_RULES)] = []
    bundles: Annotated[list[Bundle], Field(min_length=1, max_length=MAX_RULES)]
    default: Default
    autonomy: Annotated[list[Band], Field(max_length=3)] = []
    escalation: Escalation

    def content(self) -> dict[str, Any]:
        """What is published: all but name, version and changelog, without what is said by leaving it out."""
        return self.model_dump(
            mode="json", by_alias=True, exclude={"name", "version", "changelog"}, exclude_defaults=True
        )

    @classmethod
    def of_content(cls, content: Any, *, name: str, version: str, changelog: str) -> Policy:
        """The policy that was published with this content."""
        return cls.model_validate({**content, "name": name, "version": version, "changelog": changelog})


def type_of(value: Value) -> Type:
    """The type that a parameter has by its value; an empty list is one of texts."""
    if isinstance(value, bool):
        return Type.BOOLEAN
    if isinstance(value, str):
        return Type.TEXT
    if isinstance(value, list):
        return Type.NUMBERS if value and not isinstance(value[0], str) else Type.TEXTS
    return Type.NUMBER
