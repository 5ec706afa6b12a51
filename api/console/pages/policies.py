"""Policies: which there are, what one version says, rule by rule, and how two versions differ."""

from __future__ import annotations

from typing import Annotated, Final

from fastapi import APIRouter, Path, Query, Request, Response

from api.access import allow
from api.console import words
from api.console.rendering import render
from api.deps import DatabaseDep, PageDep
from api.limits import limited
from stemma.access.principal import Principal
from stemma.governance import policies
from stemma.governance.evaluation import applied
from stemma.governance.golden import Cases
from stemma.registry import catalog

router = APIRouter(prefix="/policies", route_class=limited("console"), include_in_schema=False)

_VERSIONS: Final = 50

ReaderDep = Annotated[Principal, allow("decide:read")]
ReferencePath = Annotated[str, Path(max_length=200)]


@router.get("")
def show(request: Request, principal: ReaderDep, database: DatabaseDep, page: PageDep) -> Response:
    """Each policy with its newest version."""
    found = database.read(
        lambda connection: catalog.list_newest(connection, policies.KIND, cursor=page.cursor, limit=page.limit)
    )
    return render(request, "pages/policies.html", found=found, may_write=principal.may("decide:write"))


@router.get("/{reference}")
def show_version(request: Request, principal: ReaderDep, database: DatabaseDep, reference: ReferencePath) -> Response:
    """What a version decides, in words: its rules, limits and levels, and the versions beside it."""
    with database.snapshot() as connection:
        published = policies.find(connection, reference)
        newest = policies.newest(connection, published.name)
        versions = catalog.list_versions(connection, policies.KIND, published.name, limit=_VERSIONS)
    return render(
        request,
        "pages/policy.html",
        published=published,
        newest=newest,
        versions=versions,
        policy=applied(published).policy,
        cases=Cases.model_validate({"cases": published.content["tests"]}).cases,
        levels=words.LEVELS,
        may_write=principal.may("decide:write"),
    )


@router.get("/{reference}/diff")
def show_differences(
    request: Request,
    principal: ReaderDep,
    database: DatabaseDep,
    reference: ReferencePath,
    against: Annotated[str, Query(max_length=200)],
) -> Response:
    """What leads from the version of the address to the one that `against` names."""
    with database.snapshot() as connection:
        before, after = policies.find(connection, reference), policies.find(connection, against)
        found = policies.diff(connection, before.reference, after.reference)
    return render(request, "pages/policy_diff.html", before=before, after=after, found=found)
