"""Policies: the published versions, trying one, and publishing it."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Final

from fastapi import APIRouter, Path, Query, Response
from pydantic import BaseModel, ConfigDict, Field
from starlette.concurrency import run_in_threadpool

from api.access import allow
from api.bodies import RequestBody
from api.deps import DatabaseDep, LedgerDep, PageDep
from api.idempotency import OnceDep
from api.limits import limited
from api.openapi import problems
from api.routers import API
from stemma.access.principal import Principal
from stemma.governance import golden, policies
from stemma.governance.checking import Checked, check
from stemma.governance.policy import Level, Ruling
from stemma.governance.yaml_text import MAX_BYTES
from stemma.registry import catalog
from stemma.registry.differences import Difference, Step
from stemma.registry.model import Published, Summary
from stemma.store.cursors import Page

router = APIRouter(prefix=f"{API}/policies", tags=["policies"], route_class=limited("policies"))

_REFERENCE: Final = "`name`, `name@1`, `name@1.2`, `name@1.2.3` or `name@latest`"
ReferencePath = Annotated[str, Path(max_length=200, description=_REFERENCE, examples=["finance.discounts@1"])]


class TextsBody(RequestBody):
    """A policy and its golden cases, as YAML."""

    policy: str = Field(max_length=MAX_BYTES, description="The policy", examples=["name: finance.discounts\n"])
    tests: str = Field(max_length=MAX_BYTES, description="Its golden cases", examples=["cases: []\n"])


class VersionBody(BaseModel):
    """A published version as listed."""

    model_config = ConfigDict(from_attributes=True)

    name: str = Field(examples=["finance.discounts"])
    version: str = Field(examples=["1.0.0"])
    sha256: str = Field(description="SHA-256 of its canonical content (RFC 8785), hexadecimal")
    changelog: str
    published_by: str = Field(examples=["key:5b0f8c1e-8d8c-4d1c-9a5b-0f2a6f2a7c11"])
    published_at: datetime


class VersionsBody(BaseModel):
    """One page of versions."""

    data: list[VersionBody]
    next_cursor: str | None


class PolicyBody(VersionBody):
    """A published version with its content: the policy and its golden cases."""

    content: dict[str, Any]


class DifferenceBody(BaseModel):
    """One part that differs."""

    model_config = ConfigDict(from_attributes=True)

    path: str = Field(description="JSON Pointer, with ids in place of indexes", examples=["/policy/parameters/usual"])
    step: Step
    before: Any
    after: Any


class DifferencesBody(BaseModel):
    """How two versions differ."""

    data: list[DifferenceBody]


class FindingBody(BaseModel):
    """Something wrong in one of the texts."""

    model_config = ConfigDict(from_attributes=True)

    text: str = Field(description="`policy` or `tests`", examples=["policy"])
    message: str
    path: str = Field(description="The part it is about", examples=["bundles[0].rules[2].when"])
    line: int | None
    column: int | None


class CaseBody(BaseModel):
    """How a golden case went."""

    name: str
    passed: bool
    failure: str | None = Field(description="What did not fit")
    verdict: Ruling | None
    level: Level | None
    rules: list[str]


class CheckedBody(BaseModel):
    """What is wrong with a policy and its golden cases, and how the cases went."""

    valid: bool = Field(description="Whether it can be published: nothing is wrong and every case passes")
    findings: list[FindingBody]
    cases: list[CaseBody]
    unused_rules: list[str] = Field(description="Rules that answer in no case", examples=[["margin/usual"]])


@router.get(
    "",
    response_model=VersionsBody,
    responses=problems(401, 403, 429, 503),
    summary="List policies",
)
def list_policies(
    principal: Annotated[Principal, allow("decide:read")], database: DatabaseDep, page: PageDep
) -> Page[Summary]:
    """Each policy once, by name, with the version that `latest` is."""
    return database.read(
        lambda connection: catalog.list_newest(connection, policies.KIND, cursor=page.cursor, limit=page.limit)
    )


@router.get(
    "/{reference}",
    response_model=PolicyBody,
    responses=problems(401, 403, 404, 429, 503),
    summary="Open a version of a policy",
)
def show_policy(
    principal: Annotated[Principal, allow("decide:read")], database: DatabaseDep, reference: ReferencePath
) -> Published:
    """What the reference resolves to now, with its content."""
    return database.read(lambda connection: policies.find(connection, reference))


@router.get(
    "/{name}/versions",
    response_model=VersionsBody,
    responses=problems(401, 403, 404, 429, 503),
    summary="List the versions of a policy",
)
def list_versions(
    principal: Annotated[Principal, allow("decide:read")],
    database: DatabaseDep,
    page: PageDep,
    name: Annotated[str, Path(max_length=100, examples=["finance.discounts"])],
) -> Page[Summary]:
    """The last published first, pre-releases among them."""
    return database.read(
        lambda connection: catalog.list_versions(connection, policies.KIND, name, cursor=page.cursor, limit=page.limit)
    )


@router.get(
    "/{reference}/diff",
    response_model=DifferencesBody,
    responses=problems(401, 403, 404, 429, 503),
    summary="Compare two versions of policies",
)
def diff(
    principal: Annotated[Principal, allow("decide:read")],
    database: DatabaseDep,
    reference: ReferencePath,
    against: Annotated[str, Query(max_length=200, description=_REFERENCE, examples=["finance.discounts@2"])],
) -> dict[str, tuple[Difference, ...]]:
    """What leads from the first to the one that `against` names."""
    return {"data": database.read(lambda connection: policies.diff(connection, reference, against))}


@router.post(
    "/validate",
    response_model=CheckedBody,
    responses=problems(401, 403, 429, 503),
    summary="Check a policy without publishing it",
)
def validate(principal: Annotated[Principal, allow("decide:write")], texts: TextsBody) -> CheckedBody:
    """Everything that is wrong, with lines and columns; where nothing is, how each golden case goes."""
    return _checked(check(texts.policy, texts.tests))


@router.post(
    "",
    status_code=201,
    response_model=PolicyBody,
    responses=problems(401, 403, 409, 429, 503),
    summary="Publish a version of a policy",
)
async def publish(
    principal: Annotated[Principal, allow("decide:publish")],
    once: OnceDep,
    database: DatabaseDep,
    ledger: LedgerDep,
    texts: TextsBody,
) -> Response:
    """Publishes it for good, once nothing is wrong and every golden case passes. The same content again is no error."""
    change = await run_in_threadpool(database.read, lambda c: policies.publish(c, principal, texts.policy, texts.tests))
    return await once.commit(ledger, change, status=201, body=PolicyBody.model_validate)


def _checked(checked: Checked) -> CheckedBody:
    cases = [
        CaseBody(
            name=result.case,
            passed=result.passed,
            failure=result.failure,
            verdict=result.verdict.verdict if result.verdict else None,
            level=result.verdict.level if result.verdict else None,
            rules=[reason.rule for reason in result.verdict.reasons] if result.verdict else [],
        )
        for result in checked.results
    ]
    return CheckedBody(
        valid=checked.valid,
        findings=[FindingBody.model_validate(finding) for finding in checked.findings],
        cases=cases,
        unused_rules=list(golden.unused(checked.policy, checked.results)) if checked.policy else [],
    )
