"""Nodes: where decisions of one sort are made; the published versions, and publishing one."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Path, Response
from pydantic import Field
from starlette.concurrency import run_in_threadpool

from api.access import allow
from api.bodies import RequestBody
from api.deps import DatabaseDep, LedgerDep, PageDep
from api.idempotency import OnceDep
from api.limits import limited
from api.openapi import problems
from api.routers import API
from api.routers.policies import VersionBody, VersionsBody
from stemma.access.principal import Principal
from stemma.governance import nodes
from stemma.governance.yaml_text import MAX_BYTES
from stemma.registry import catalog
from stemma.registry.model import Published, Summary
from stemma.registry.references import parse_reference
from stemma.store.cursors import Page

router = APIRouter(prefix=f"{API}/nodes", tags=["nodes"], route_class=limited("nodes"))


class TextBody(RequestBody):
    """A node, as YAML."""

    node: str = Field(max_length=MAX_BYTES, description="The node", examples=["name: finance\n"])


class NodeBody(VersionBody):
    """A published version with its content."""

    content: dict[str, Any]


@router.get("", response_model=VersionsBody, responses=problems(401, 403, 429, 503), summary="List nodes")
def list_nodes(
    principal: Annotated[Principal, allow("decide:read")], database: DatabaseDep, page: PageDep
) -> Page[Summary]:
    """Each node once, by name, with the version that is in force."""
    return database.read(
        lambda connection: catalog.list_newest(connection, nodes.KIND, cursor=page.cursor, limit=page.limit)
    )


@router.get(
    "/{reference}",
    response_model=NodeBody,
    responses=problems(401, 403, 404, 429, 503),
    summary="Open a version of a node",
)
def show_node(
    principal: Annotated[Principal, allow("decide:read")],
    database: DatabaseDep,
    reference: Annotated[str, Path(max_length=200, description="`name` or `name@1.2.3`", examples=["finance"])],
) -> Published:
    """What the reference resolves to now, with its content."""
    return database.read(lambda connection: catalog.find(connection, nodes.KIND, parse_reference(reference)))


@router.get(
    "/{name}/versions",
    response_model=VersionsBody,
    responses=problems(401, 403, 404, 429, 503),
    summary="List the versions of a node",
)
def list_versions(
    principal: Annotated[Principal, allow("decide:read")],
    database: DatabaseDep,
    page: PageDep,
    name: Annotated[str, Path(max_length=100, examples=["finance"])],
) -> Page[Summary]:
    """The last published first."""
    return database.read(
        lambda connection: catalog.list_versions(connection, nodes.KIND, name, cursor=page.cursor, limit=page.limit)
    )


@router.post(
    "",
    status_code=201,
    response_model=NodeBody,
    responses=problems(401, 403, 404, 409, 429, 503),
    summary="Publish a version of a node",
)
async def publish(
    principal: Annotated[Principal, allow("decide:publish")],
    once: OnceDep,
    database: DatabaseDep,
    ledger: LedgerDep,
    given: TextBody,
) -> Response:
    """Publishes it for good; its policy has to be published. From then on it is what decides."""
    change = await run_in_threadpool(database.read, lambda c: nodes.publish(c, principal, given.node))
    return await once.commit(ledger, change, status=201, body=NodeBody.model_validate)
