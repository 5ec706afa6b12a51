"""Receipts over HTTP: list them, read one, follow one to its sources, take one elsewhere."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal
from uuid import UUID

from fastapi import APIRouter, Path, Query, Response
from pydantic import BaseModel, Field

from api.access import allow
from api.deps import DatabaseDep, PageDep, SettingsDep
from api.limits import limited
from api.openapi import problems
from api.routers import API
from stemma.ledger import attestation, receipt_catalog
from stemma.ledger.receipts import Receipt
from stemma.store.cursors import Page

router = APIRouter(prefix=API, tags=["receipts"], route_class=limited("receipts"), dependencies=[allow("ledger:read")])

ReceiptId = Annotated[UUID, Path(alias="id", description="The receipt's id")]


class ArtifactBody(BaseModel):
    """Content by name: a file's own bytes, or the listing of a table or folder."""

    name: str = Field(examples=["chunks/handbook"])
    media_type: str = Field(examples=["application/x-ndjson"])
    sha256: str = Field(description="Hexadecimal")
    size: int = Field(description="Bytes that were hashed", examples=[163])


class ReceiptInputBody(BaseModel):
    """What it was made from; `receipt` and `entry_hash` are null where that had no receipt then."""

    asset: str = Field(examples=["knowledge/documents"])
    partition: str | None = Field(examples=["handbook"])
    data_version: str | None
    receipt: UUID | None
    entry_hash: str | None = Field(description="Hash of that receipt's ledger entry, hexadecimal")


class ReceiptBody(BaseModel):
    """What one materialization made, from what, by which code, for whom, when and at what cost."""

    id: UUID
    seq: int = Field(description="Its place in the chain `receipts`", examples=[12])
    entry_hash: str = Field(description="Hash of its ledger entry, hexadecimal")
    issued_at: datetime
    actor: str = Field(examples=["schedule:reread_sources"])
    asset: str = Field(examples=["knowledge/chunks"])
    partition: str | None = Field(examples=["handbook"])
    run_id: str
    event: int = Field(description="The event's number in Dagster's storage", examples=[125])
    materialized_at: datetime
    data_version: str
    code_version: str | None = Field(examples=["1"])
    commit: str | None = Field(description="Of the code; ends with `-dirty` where tracked files differed from it")
    inputs: list[ReceiptInputBody]
    sources: list[ArtifactBody] = Field(description="What was read from outside the studio")
    artifacts: list[ArtifactBody] = Field(description="What was written")
    started_at: datetime | None
    seconds: float | None = Field(description="Wall time of the step", examples=[1.25])
    cpu_seconds: float | None = Field(examples=[1.1])
    cost_usd: float | None = Field(description="What was paid to others, in US dollars", examples=[0.0])


class ReceiptsBody(BaseModel):
    """One page of receipts, the newest first."""

    data: list[ReceiptBody]
    next_cursor: str | None


class ReceiptTreeBody(BaseModel):
    """A receipt with those of its inputs; an input without one stands as it is named."""

    receipt: ReceiptBody
    inputs: list[ReceiptTreeBody | ReceiptInputBody]
    cut: bool = Field(description="Inputs are left out here: they are too deep, or were shown before")


class SignatureBody(BaseModel):
    """One signature over the payload and its type."""

    keyid: str = Field(description="Id of the studio's public key", examples=["57334da078c5a807"])
    sig: str = Field(description="Ed25519 signature of the pre-authentication encoding, base64")


class EnvelopeBody(BaseModel):
    """A DSSE envelope; its bytes as sent are the file that `stemma receipt verify` reads."""

    payload: str = Field(description="An in-toto Statement v1, base64")
    payloadType: Literal["application/vnd.in-toto+json"]  # noqa: N815
    signatures: list[SignatureBody]


@router.get("/receipts", response_model=ReceiptsBody, responses=problems(429, 503), summary="List the receipts")
def list_receipts(
    database: DatabaseDep,
    page: PageDep,
    asset: Annotated[str | None, Query(max_length=500, description="Only this asset")] = None,
    partition: Annotated[str | None, Query(max_length=500, description="Only this partition")] = None,
    run: Annotated[str | None, Query(max_length=100, description="Only what this run made")] = None,
) -> Page[Receipt]:
    """Receipts of materializations, the newest first."""
    return database.read(
        lambda connection: receipt_catalog.list_receipts(
            connection, asset=asset, partition=partition, run_id=run, cursor=page.cursor, limit=page.limit
        )
    )


@router.get("/receipts/{id}", response_model=ReceiptBody, responses=problems(404, 429, 503), summary="Read a receipt")
def read_receipt(database: DatabaseDep, receipt: ReceiptId) -> Receipt:
    """One receipt, as the ledger has it."""
    return database.read(lambda connection: receipt_catalog.read_receipt(connection, receipt))


@router.get(
    "/receipts/{id}/tree",
    response_model=ReceiptTreeBody,
    responses=problems(404, 429, 503),
    summary="Follow a receipt to its sources",
)
def read_tree(
    database: DatabaseDep,
    receipt: ReceiptId,
    depth: Annotated[int, Query(ge=0, le=receipt_catalog.MAX_DEPTH, description="Levels of inputs")] = 3,
) -> receipt_catalog.TreeNode:
    """A receipt with the receipts of its inputs, and so on, at most 2,000 of them."""
    return database.read(lambda connection: receipt_catalog.read_tree(connection, receipt, depth))


@router.get(
    "/receipts/{id}/attestation",
    response_model=EnvelopeBody,
    responses=problems(404, 429, 503),
    summary="Take a receipt elsewhere",
)
def attest(database: DatabaseDep, settings: SettingsDep, receipt: ReceiptId) -> Response:
    """The receipt as an in-toto statement in a signed DSSE envelope, with the proof that it is in the ledger.

    It verifies with the studio's public key alone. Until a head covers the receipt, which takes a second, the answer
    is 503.
    """
    return Response(attestation.attest(database, settings, receipt), media_type="application/json")
