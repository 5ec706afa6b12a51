"""Finding what is wrong with a policy and its golden cases, all of it at once, with lines and columns."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from pydantic import BaseModel, ValidationError

from stemma.errors import CheckFailed, InvalidInput, StemmaError
from stemma.governance import golden, yaml_text
from stemma.governance.evaluation import Applicable, applicable
from stemma.governance.policy import Policy
from stemma.governance.yaml_text import Path, Text, pointer
from stemma.registry.model import Draft, content_hash
from stemma.registry.semver import parse_version

POLICY: Final = "policy"
TESTS: Final = "tests"
_MOST: Final = 50

M = TypeVar("M", bound=BaseModel)


@dataclass(frozen=True, slots=True)
class Finding:
    """Something wrong in one of the two texts, `policy` or `tests`; without a line where it is about the whole."""

    text: str
    message: str
    path: str = ""
    line: int | None = None
    column: int | None = None

    def __str__(self) -> str:
        where = f"line {self.line}, column {self.column}: " if self.line else ""
        return f"{where}{f'{self.path}: ' if self.path else ''}{self.message}"


@dataclass(frozen=True, slots=True)
class Checked:
    """What was found. `draft` and `policy` are there where nothing was wrong but, perhaps, golden cases."""

    findings: tuple[Finding, ...]
    draft: Draft | None = None
    policy: Applicable | None = None
    results: tuple[golden.Result, ...] = ()

    @property
    def valid(self) -> bool:
        """Whether it could be published, and every golden case passes."""
        return self.draft is not None and all(result.passed for result in self.results)

    def publishable(self) -> Draft:
        """What can be published; raises InvalidInput with the first finding, CheckFailed for a case that fails."""
        if self.draft is None:
            raise self._first()
        self.require_passed()
        return self.draft

    def usable(self) -> Applicable:
        """What can be evaluated, whether golden cases fail or not; raises InvalidInput with the first finding."""
        if self.policy is None:
            raise self._first()
        return self.policy

    def _first(self) -> InvalidInput:
        first, more = self.findings[0], len(self.findings) - 1
        hint = f"There are {more} more: `stemma policy validate` lists all." if more else None
        return InvalidInput("policy_invalid", str(first), field=first.text, hint=hint)

    def require_passed(self) -> None:
        """Raises CheckFailed that names a golden case that fails."""
        failed = [result for result in self.results if not result.passed]
        if failed:
            what = f"{len(failed)} of {len(self.results)} golden cases fail. {failed[0].case}: {failed[0].failure}."
            raise GoldenCasesFailed("golden_cases_failed", what, field=TESTS, hint="Mend the policy, or the case.")


class GoldenCasesFailed(CheckFailed):
    """A policy does not do what its golden cases say; whoever wrote it can mend it."""

    status = 422
    title = "Golden cases failed"


def check(policy_text: str, tests_text: str) -> Checked:
    """Read a policy and its golden cases and try everything but publishing them. Raises nothing for what they say."""
    policy, policy_source, findings = _model(policy_text, POLICY, Policy)
    cases, _, wrong = _model(tests_text, TESTS, golden.Cases)
    findings += wrong
    if policy is None or policy_source is None:
        return Checked(tuple(findings[:_MOST]))
    draft = _draft(policy, policy_source, cases, findings)
    sha256 = content_hash(draft.canonical()) if draft else ""
    compiled, flaws = applicable(policy, sha256)
    findings += [_at(policy_source, POLICY, flaw.path, flaw.message) for flaw in flaws]
    if findings or compiled is None or cases is None:
        return Checked(tuple(findings[:_MOST]))
    return Checked((), draft, compiled, golden.run(compiled, cases.cases))


def _model(text: str, name: str, model: type[M]) -> tuple[M | None, Text | None, list[Finding]]:
    try:
        source = yaml_text.read(text, field=name)
    except StemmaError as error:
        return None, None, [Finding(name, error.message)]
    try:
        return model.model_validate(source.value), source, []
    except ValidationError as error:
        return None, source, list(_findings(source, name, error))


def _findings(source: Text, name: str, invalid: ValidationError) -> Iterator[Finding]:
    """One finding for each part: where a value may be of several types, the library tells of each."""
    told: set[Path] = set()
    for error in invalid.errors(include_url=False, include_input=False, include_context=False):
        path = tuple(error["loc"])
        there = _nearest(source, path)
        if there in told:
            continue
        told.add(there)
        several = len(path) > len(there) and error["type"] not in ("missing", "extra_forbidden")
        message = "This value cannot be used here" if several else error["msg"]
        yield _at(source, name, there if several else path, f"{message}.")


def _nearest(source: Text, path: Path) -> Path:
    while path not in source.places:
        path = path[:-1]
    return path


def _draft(policy: Policy, source: Text, cases: golden.Cases | None, findings: list[Finding]) -> Draft | None:
    content: dict[str, Any] = {"policy": policy.content(), "tests": cases.content() if cases else []}
    try:
        draft = Draft(policy.name, parse_version(policy.version), policy.changelog, content)
        draft.canonical()
    except InvalidInput as error:
        path: Path = (error.field,) if error.field in ("name", "version", "changelog") else ()
        findings.append(_at(source, POLICY, path, str(error.message)))
        return None
    return draft


def _at(source: Text, name: str, path: Path, message: str) -> Finding:
    place = source.place(path)
    return Finding(name, message, pointer(path), place.line, place.column)
