"""Applying a policy to an event in a context: a pure function, whose answer depends on nothing else.

Any JSON value is an event or a context; what a policy cannot be applied to is escalated. Nothing that fails is
approved.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from stemma.errors import InvalidInput
from stemma.governance.policy import BASELINE, MAX_CONDITIONS, MAX_COST, Level, Policy, Ruling, type_of
from stemma.governance.yaml_text import Path
from stemma.ledger.entries import canonical
from stemma.registry.loading import kept
from stemma.registry.model import Published
from stemma.rules.conditions import Condition, Language, Values, checked, language
from stemma.rules.language import Type

_STRICTEST: Final = (Ruling.DENY, Ruling.ESCALATE, Ruling.APPROVE)
_MISSING: Final = object()
_FAILED: Final = "The rule could not be evaluated: {}."


@dataclass(frozen=True, slots=True)
class Reason:
    """Why, in plain words, and by which part of the policy: `bundle/rule`, `default`, `limit/<input>`,
    `input/<name>`, `autonomy/<level>` or `events`.
    """

    rule: str
    text: str


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a policy says to an event. `policy` is `name@version`, `policy_sha256` its content's hash."""

    verdict: Ruling
    level: Level
    reasons: tuple[Reason, ...]
    policy: str
    policy_sha256: str
    variant: str

    @property
    def sha256(self) -> str:
        """SHA-256 over the canonical JSON of verdict, level and reasons with the ids of their rules."""
        reasons = [{"rule": reason.rule, "text": reason.text} for reason in self.reasons]
        said = {"verdict": self.verdict.value, "level": self.level.value, "reasons": reasons}
        return hashlib.sha256(canonical(said)).hexdigest()


@dataclass(frozen=True, slots=True)
class Flaw:
    """What keeps a policy from being applied, and in which part of it."""

    path: Path
    message: str


@dataclass(frozen=True, slots=True)
class _Rule:
    id: str
    condition: Condition
    ruling: Ruling
    reason: str


@dataclass(frozen=True, slots=True)
class Applicable:
    """A policy with its conditions compiled."""

    policy: Policy
    sha256: str
    language: Language
    parameters: Mapping[str, Mapping[str, Any]]
    bundles: tuple[tuple[_Rule, ...], ...]
    bands: tuple[tuple[Level, Condition], ...]
    sources: Mapping[str, tuple[str, ...]]

    @property
    def reference(self) -> str:
        """`name@version`."""
        return f"{self.policy.name}@{self.policy.version}"


def applicable(policy: Policy, sha256: str) -> tuple[Applicable | None, tuple[Flaw, ...]]:
    """The policy compiled, with the hash of what is published of it, or why it cannot be."""
    try:
        spoken = language(tuple(sorted(_variables(policy).items())))
    except InvalidInput as error:
        return None, (Flaw(_path_of_variable(policy, error.field or ""), error.message),)
    flaws = list(_disagreements(policy))
    if (length := sum(len(text) for _, text in _conditions(policy))) > MAX_CONDITIONS:
        what = f"The conditions together have {length:,} characters; at most {MAX_CONDITIONS:,} are compiled."
        return None, (*flaws, Flaw(("bundles",), what))
    compiled: dict[Path, Condition] = {}
    for path, text in _conditions(policy):
        try:
            compiled[path] = spoken.compile(text)
        except InvalidInput as error:
            flaws.append(Flaw(path, f"{error.message}{f' {error.hint}' if error.hint else ''}"))
    if (total := sum(condition.cost for condition in compiled.values())) > MAX_COST:
        what = f"The conditions together could take {total:,} units of work; at most {MAX_COST:,} are allowed."
        flaws.append(Flaw(("bundles",), what))
    if flaws:
        return None, tuple(flaws)
    bundles = tuple(
        tuple(
            _Rule(f"{bundle.id}/{rule.id}", compiled["bundles", at, "rules", place, "when"], rule.then, rule.reason)
            for place, rule in enumerate(bundle.rules)
        )
        for at, bundle in enumerate(policy.bundles)
    )
    bands = tuple((band.level, compiled["autonomy", at, "when"]) for at, band in enumerate(policy.autonomy))
    parameters = {name: {**policy.parameters, **variant.parameters} for name, variant in policy.variants.items()}
    sources = {name: _steps(given.source) for name, given in policy.inputs.items()}
    parameters[BASELINE] = policy.parameters
    return Applicable(policy, sha256, spoken, parameters, bundles, bands, sources), ()


def evaluate(policy: Applicable, event: Any, context: Any, *, variant: str = BASELINE) -> Verdict:
    """What the policy says to an event (`{"type": …, …}`) in a context; never raises for what these hold.

    Raises InvalidInput for a variant that the policy does not have.
    """
    if variant not in policy.parameters:
        raise InvalidInput("variant_unknown", f"{policy.reference} has no variant {variant[:63]!r}.", field="variant")

    def verdict(ruling: Ruling, level: Level, reasons: list[Reason]) -> Verdict:
        return Verdict(ruling, level, tuple(reasons), policy.reference, policy.sha256, variant)

    kind = event.get("type") if isinstance(event, Mapping) else None
    if not isinstance(kind, str) or kind not in policy.policy.events:
        why = "This policy is not made for events of this type."
        return verdict(Ruling.ESCALATE, Level.AL0, [Reason("events", why)])
    values, lacking = _read(policy, {"event": event, "context": context})
    if lacking:
        return verdict(Ruling.ESCALATE, Level.AL0, lacking)
    bound = policy.language.bind({**values, **policy.parameters[variant]})
    answers = [answer for bundle in policy.bundles if (answer := _answer(bundle, bound)) is not None]
    if not answers:
        default = policy.policy.default
        answers = [(default.then, Reason("default", default.reason), False)]
    beyond = list(_beyond(policy.policy, values))
    level, failed = _level(policy, bound)
    reasons = [*(reason for _, reason, _ in answers), *beyond, *failed]
    ruling = min((said for said, _, _ in answers), key=_STRICTEST.index)
    if failed or any(error for _, _, error in answers) or (beyond and ruling is Ruling.APPROVE):
        ruling = Ruling.ESCALATE
    return verdict(ruling, Level.AL0 if beyond or ruling is Ruling.ESCALATE else level, reasons)


@kept
def applied(published: Published) -> Applicable:
    """A published policy, ready to be evaluated; the last ones are kept by version and content.

    Raises InvalidInput where it does not fit this version of the studio any more.
    """
    policy = Policy.of_content(
        published.content["policy"], name=published.name, version=published.version, changelog=published.changelog
    )
    compiled, flaws = applicable(policy, published.sha256)
    if compiled is None:
        raise InvalidInput("policy_unusable", f"{published.reference} cannot be applied: {flaws[0].message}")
    return compiled


def _answer(bundle: tuple[_Rule, ...], values: Values) -> tuple[Ruling, Reason, bool] | None:
    """What a bundle says, and whether it says so because a rule failed; None where no rule of it holds."""
    for rule in bundle:
        answer = rule.condition.ask(values)
        if answer.error is not None:
            return Ruling.ESCALATE, Reason(rule.id, _FAILED.format(answer.error)), True
        if answer.holds:
            return rule.ruling, Reason(rule.id, rule.reason), False
    return None


def _level(policy: Applicable, values: Values) -> tuple[Level, list[Reason]]:
    for level, condition in policy.bands:
        answer = condition.ask(values)
        if answer.error is not None:
            return Level.AL0, [Reason(f"autonomy/{level}", _FAILED.format(answer.error))]
        if answer.holds:
            return level, []
    return Level.AL0, []


def _beyond(policy: Policy, values: Mapping[str, Any]) -> Iterator[Reason]:
    for limit in policy.limits:
        value = values[limit.input]
        below = limit.at_least is not None and value < limit.at_least
        if below or (limit.at_most is not None and value > limit.at_most):
            yield Reason(f"limit/{limit.input}", limit.reason)


def _read(policy: Applicable, document: Mapping[str, Any]) -> tuple[dict[str, Any], list[Reason]]:
    """The inputs' values, and what is wrong with them."""
    values: dict[str, Any] = {}
    lacking: list[Reason] = []
    for name, given in policy.policy.inputs.items():
        value = _look_up(document, policy.sources[name])
        if value is _MISSING or (value is None and given.default is not None):
            value = given.default
        try:
            values[name] = checked(name, given.type, value)
        except InvalidInput as error:
            what = f"{name} is missing." if value is None else error.message
            lacking.append(Reason(f"input/{name}", what))
    return values, lacking


def _look_up(document: Any, steps: tuple[str, ...]) -> Any:
    for step in steps:
        if isinstance(document, Mapping) and step in document:
            document = document[step]
        elif isinstance(document, list) and step.isascii() and step.isdigit() and len(step) < 9:
            if (index := int(step)) >= len(document):
                return _MISSING
            document = document[index]
        else:
            return _MISSING
    return document


def _steps(source: str) -> tuple[str, ...]:
    return tuple(step.replace("~1", "/").replace("~0", "~") for step in source.split("/")[1:])


def _variables(policy: Policy) -> dict[str, Type]:
    return {name: type_of(value) for name, value in policy.parameters.items()} | {
        name: given.type for name, given in policy.inputs.items()
    }


def _path_of_variable(policy: Policy, name: str) -> Path:
    return ("inputs", name) if name in policy.inputs else ("parameters", name)


def _conditions(policy: Policy) -> Iterator[tuple[Path, str]]:
    for at, bundle in enumerate(policy.bundles):
        for place, rule in enumerate(bundle.rules):
            yield ("bundles", at, "rules", place, "when"), rule.when
    for at, band in enumerate(policy.autonomy):
        yield ("autonomy", at, "when"), band.when


def _disagreements(policy: Policy) -> Iterator[Flaw]:
    """What the parts of a policy say of each other that is not so."""
    yield from _values(policy)
    for at, limit in enumerate(policy.limits):
        given = policy.inputs.get(limit.input)
        if given is None or given.type is not Type.NUMBER:
            yield Flaw(("limits", at, "input"), f"There is no input {limit.input} that is a number.")
        if limit.at_least is None and limit.at_most is None:
            yield Flaw(("limits", at), "A limit says at_least or at_most.")
    yield from _twice(("bundles",), [bundle.id for bundle in policy.bundles])
    for at, bundle in enumerate(policy.bundles):
        yield from _twice(("bundles", at, "rules"), [rule.id for rule in bundle.rules])
    levels = [band.level for band in policy.autonomy]
    if Level.AL0 in levels or levels != sorted(set(levels), reverse=True):
        yield Flaw(("autonomy",), "Bands are listed from AL3 down to AL1, each at most once; else the level is AL0.")


def _values(policy: Policy) -> Iterator[Flaw]:
    for name, given in policy.inputs.items():
        if name in policy.parameters:
            yield Flaw(("parameters", name), f"{name} is an input already.")
        if given.default is not None:
            yield from _mistyped(("inputs", name, "default"), name, given.type, given.default)
    for name, value in policy.parameters.items():
        yield from _mistyped(("parameters", name), name, type_of(value), value)
    if BASELINE in policy.variants:
        yield Flaw(("variants", BASELINE), f"{BASELINE} is the name of the policy without a variant.")
    for variant, said in policy.variants.items():
        for name, value in said.parameters.items():
            path: Path = ("variants", variant, "parameters", name)
            if name not in policy.parameters:
                yield Flaw(path, f"There is no parameter {name}.")
            else:
                yield from _mistyped(path, name, type_of(policy.parameters[name]), value)


def _mistyped(path: Path, name: str, kind: Type, value: Any) -> Iterator[Flaw]:
    try:
        checked(name, kind, value)
    except InvalidInput as error:
        yield Flaw(path, error.message)


def _twice(path: Path, ids: list[str]) -> Iterator[Flaw]:
    for at, found in enumerate(ids):
        if found in ids[:at]:
            yield Flaw((*path, at, "id"), f"The id {found} is used twice.")
