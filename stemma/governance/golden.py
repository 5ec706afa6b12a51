"""Golden cases: events with the verdict that a policy must give; they live beside it and are published with it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Final

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from stemma.errors import InvalidInput
from stemma.governance.evaluation import Applicable, Verdict, evaluate
from stemma.governance.policy import BASELINE, Level, Ruling

MAX_CASES: Final = 200


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, strict=True)


class Expected(_Part):
    """What has to come out: the verdict, the level, and the ids of the reasons, in order."""

    verdict: Annotated[Ruling, Field(strict=False)]
    level: Annotated[Level, Field(strict=False)]
    rules: list[str]


class Case(_Part):
    """One event in one context, and what has to come out."""

    name: Annotated[str, StringConstraints(min_length=1, max_length=200)]
    event: dict[str, Any]
    context: dict[str, Any] = {}
    variant: str = BASELINE
    expect: Expected


class Cases(_Part):
    """The golden cases of a policy, at least one."""

    cases: Annotated[list[Case], Field(min_length=1, max_length=MAX_CASES)]

    def content(self) -> list[dict[str, Any]]:
        """What is published of them."""
        return [case.model_dump(mode="json", exclude_defaults=True) for case in self.cases]


@dataclass(frozen=True, slots=True)
class Result:
    """How a case went: what came out, and what did not fit, in words; None where all did."""

    case: str
    verdict: Verdict | None
    failure: str | None

    @property
    def passed(self) -> bool:
        """Whether all came out as it had to."""
        return self.failure is None


def run(policy: Applicable, cases: Sequence[Case]) -> tuple[Result, ...]:
    """Evaluate each case."""
    return tuple(_run(policy, case) for case in cases)


def unused(policy: Applicable, results: Sequence[Result]) -> tuple[str, ...]:
    """The ids of the rules that answer in no case."""
    used = {reason.rule for result in results if result.verdict for reason in result.verdict.reasons}
    return tuple(rule.id for bundle in policy.bundles for rule in bundle if rule.id not in used)


def _run(policy: Applicable, case: Case) -> Result:
    try:
        verdict = evaluate(policy, case.event, case.context, variant=case.variant)
    except InvalidInput as error:
        return Result(case.name, None, error.message)
    rules = [reason.rule for reason in verdict.reasons]
    pairs = [
        ("verdict", case.expect.verdict.value, verdict.verdict.value),
        ("level", case.expect.level.value, verdict.level.value),
        ("rules", ", ".join(case.expect.rules), ", ".join(rules)),
    ]
    wrong = [f"{what} is {found or 'none'}, not {wanted or 'none'}" for what, wanted, found in pairs if wanted != found]
    return Result(case.name, verdict, "; ".join(wrong) or None)
