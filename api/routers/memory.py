"""Memory: what the governance loop knows of an entity, and what each day taught it."""

from __future__ import annotations

from datetime import date
from typing import Annotated, Any

from fastapi import APIRouter, Path, Query
from pydantic import BaseModel, ConfigDict, Field

from api.access import allow
from api.deps import DatabaseDep, PageDep
from api.limits import limited
from api.openapi import problems
from api.routers import API
from stemma.access.principal import Principal
from stemma.governance.memory import catalog
from stemma.governance.memory.windows import Features
from stemma.store.cursors import Page

router = APIRouter(prefix=f"{API}/memory", tags=["memory"], route_class=limited("memory"))

NodePath = Annotated[str, Path(max_length=100, description="A node", examples=["finance"])]


class FeaturesBody(BaseModel):
    """What is known of an entity."""

    model_config = ConfigDict(from_attributes=True)

    entity: str = Field(examples=["CG-12520"])
    day: date = Field(description="As of the end of this day (UTC)")
    values: dict[str, bool | float | str] = Field(
        description="By feature, each over its own window; without those of which nothing is known",
        examples=[{"orders": 3, "loss_rate": 0.3333333333333333}],
    )


class SnapshotBody(BaseModel):
    """What a day taught."""

    model_config = ConfigDict(from_attributes=True)

    node: str
    day: date
    sha256: str = Field(description="What the context of a decision names it by")
    text: str
    content: dict[str, Any]


class ScorecardBody(BaseModel):
    """How the variants of each policy stood at the end of a day."""

    model_config = ConfigDict(from_attributes=True)

    node: str
    day: date
    policies: dict[str, Any] = Field(description="By `name@version`: the baseline, the variants, and a candidate")


class DriftBody(BaseModel):
    """The distributions of the last days beside those before them."""

    model_config = ConfigDict(from_attributes=True)

    node: str
    day: date
    alarmed: bool
    content: dict[str, Any]


class SnapshotsBody(BaseModel):
    """One page of snapshots."""

    data: list[SnapshotBody]
    next_cursor: str | None


class ScorecardsBody(BaseModel):
    """One page of scorecards."""

    data: list[ScorecardBody]
    next_cursor: str | None


class DriftsBody(BaseModel):
    """One page of drift reports."""

    data: list[DriftBody]
    next_cursor: str | None


@router.get(
    "/{node}/features",
    response_model=FeaturesBody,
    responses=problems(401, 403, 404, 429, 503),
    summary="Ask what is known of an entity",
)
def show_features(
    principal: Annotated[Principal, allow("decide:read")],
    database: DatabaseDep,
    node: NodePath,
    entity: Annotated[str, Query(min_length=1, max_length=500, description="Such as a customer")],
    day: Annotated[date | None, Query(description="At the end of this day (UTC); by default the last one made")] = None,
) -> Features:
    """Its features, as a decision on the day after would see them."""
    return database.read(lambda connection: catalog.find_features(connection, node, entity, day))


@router.get(
    "/{node}/snapshots",
    response_model=SnapshotsBody,
    responses=problems(401, 403, 404, 429, 503),
    summary="List what each day taught a node",
)
def list_snapshots(
    principal: Annotated[Principal, allow("decide:read")], database: DatabaseDep, page: PageDep, node: NodePath
) -> Page[catalog.Snapshot]:
    """The newest day first."""
    return database.read(
        lambda connection: catalog.list_snapshots(connection, node, cursor=page.cursor, limit=page.limit)
    )


@router.get(
    "/{node}/scorecards",
    response_model=ScorecardsBody,
    responses=problems(401, 403, 404, 429, 503),
    summary="List how the variants of a node stood",
)
def list_scorecards(
    principal: Annotated[Principal, allow("decide:read")], database: DatabaseDep, page: PageDep, node: NodePath
) -> Page[catalog.Scorecard]:
    """The newest day first."""
    return database.read(
        lambda connection: catalog.list_scorecards(connection, node, cursor=page.cursor, limit=page.limit)
    )


@router.get(
    "/{node}/drift",
    response_model=DriftsBody,
    responses=problems(401, 403, 404, 429, 503),
    summary="List how a node drifts",
)
def list_drift(
    principal: Annotated[Principal, allow("decide:read")],
    database: DatabaseDep,
    page: PageDep,
    node: NodePath,
    alarmed: Annotated[bool | None, Query(description="Only reports that alarm, or that do not")] = None,
) -> Page[catalog.DriftReport]:
    """The newest day first."""
    return database.read(
        lambda connection: catalog.list_drift(connection, node, alarmed=alarmed, cursor=page.cursor, limit=page.limit)
    )
