"""The ledger over HTTP: its chains, one entry with the bytes that were hashed, its proof, and the newest signed head.

What is answered here can be checked without this API; docs/SECURITY.md has a program that does.
"""

from __future__ import annotations

from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Path
from pydantic import BaseModel, Field

from api.access import allow
from api.deps import DatabaseDep, SettingsDep
from api.limits import limited
from api.openapi import problems
from api.routers import API
from stemma.access.principal import Principal
from stemma.errors import NotFound
from stemma.ledger.entries import Entry
from stemma.ledger.heads import SignedHead
from stemma.ledger.journal import AUDIT
from stemma.ledger.keys import public_keys
from stemma.ledger.proofs import InclusionProof, prove_inclusion
from stemma.ledger.standing import newest_head, read_entry, read_standing
from stemma.store.database import Connection

router = APIRouter(prefix=API, tags=["ledger"], route_class=limited("ledger"))

ReaderDep = Annotated[Principal, allow("ledger:read")]
EntryId = Annotated[UUID, Path(alias="id", examples=["5f0c8b0e-2f5d-4f5e-9d3b-0f6f8f5f7a11"])]
Hex = Annotated[str, Field(pattern="^[0-9a-f]{64}$", examples=["0f" * 32])]


class ChainBody(BaseModel):
    """One chain beside the newest head."""

    chain: str = Field(examples=["historian"])
    entries: int = Field(examples=[1204])
    signed: int = Field(description="How many of them the newest head covers", examples=[1204])
    root: Hex | None = Field(description="The RFC 6962 root that it signs for those; null where it covers none")


class ChainsBody(BaseModel):
    """All chains by name; they are few, so there is one page."""

    data: list[ChainBody]
    next_cursor: None = None


class EntryBody(BaseModel):
    """One entry. `entry_hash` is SHA-256(`prev_hash` ‖ `seq` in 8 bytes, big-endian ‖ `body` in UTF-8)."""

    id: UUID
    chain: str = Field(examples=["historian"])
    seq: int = Field(description="Its place in the chain, from 1", examples=[17])
    prev_hash: Hex
    entry_hash: Hex
    body: str = Field(description="The RFC 8785 JSON that was hashed: actor, at, chain, data, id, kind, subject")


class SignedTreeBody(BaseModel):
    """The RFC 6962 tree over the entry hashes of one chain."""

    chain: str
    root: Hex
    size: int


class SignedPartBody(BaseModel):
    """What is signed: the RFC 8785 form of exactly these members."""

    chains: list[SignedTreeBody]
    key_id: str = Field(description="The first 16 digits of the SHA-256 of the public key's 32 bytes")
    time: str = Field(examples=["2026-01-31T06:00:00.123456Z"])
    version: int


class HeadBody(BaseModel):
    """A signed head, the same JSON as its file: kept, it serves `stemma verify --head`."""

    head: SignedPartBody
    signature: str = Field(description="Ed25519, base64")
    frontiers: dict[str, list[Hex]] = Field(description="The subtree roots, largest first, that give each signed root")


class ProofBody(BaseModel):
    """That the entry is under the head: `path`, nearest sibling first, leads from its hash to the chain's root."""

    entry: EntryBody
    path: list[Hex]
    head: HeadBody
    public_key: str = Field(description="The head's public key, base64; believe it only if you know it from elsewhere")


@router.get("/ledger/chains", response_model=ChainsBody, responses=problems(429, 503), summary="List the chains")
def list_chains(database: DatabaseDep, settings: SettingsDep, reader: ReaderDep) -> ChainsBody:
    """Every chain with its entries and what the newest head says of it."""
    head = newest_head(settings)
    standing = database.read(lambda connection: read_standing(connection, head))
    return ChainsBody(
        data=[
            ChainBody(chain=c.chain, entries=c.entries, signed=c.signed, root=c.root.hex() if c.root else None)
            for c in standing.chains
        ]
    )


@router.get(
    "/ledger/head", response_model=HeadBody, responses=problems(404, 429, 503), summary="Read the newest signed head"
)
def read_head(settings: SettingsDep, reader: ReaderDep) -> HeadBody:
    """Keep it somewhere else: whatever the ledger becomes has to continue it."""
    head = newest_head(settings)
    if head is None:
        raise NotFound("head_missing", "The ledger has no signed head yet.", hint="Its first entry gets one.")
    return _head(head)


@router.get(
    "/ledger/entries/{id}", response_model=EntryBody, responses=problems(404, 429, 503), summary="Read an entry"
)
def get_entry(database: DatabaseDep, reader: ReaderDep, entry_id: EntryId) -> EntryBody:
    """The entry with the bytes that were hashed. Those of the chain `audit` take `admin:audit`."""
    return _entry(database.read(lambda connection: _readable(connection, reader, entry_id)))


@router.get(
    "/ledger/entries/{id}/proof",
    response_model=ProofBody,
    responses=problems(404, 429, 503),
    summary="Prove that an entry is under the newest head",
)
def prove(database: DatabaseDep, settings: SettingsDep, reader: ReaderDep, entry_id: EntryId) -> ProofBody:
    """All that is needed to check it without this API.

    A head is signed within a second of a commit; until then the answer is 503 with the code `head_pending`.
    """

    head = newest_head(settings)

    def read(connection: Connection) -> tuple[Entry, InclusionProof]:
        entry = _readable(connection, reader, entry_id)
        return entry, prove_inclusion(connection, head, entry.chain, entry.seq)

    entry, proof = database.read(read)
    return ProofBody(
        entry=_entry(entry),
        path=[node.hex() for node in proof.path],
        head=_head(proof.head),
        public_key=public_keys(settings)[proof.head.head.key_id].public,
    )


def _readable(connection: Connection, reader: Principal, entry_id: UUID) -> Entry:
    entry = read_entry(connection, entry_id)
    if entry.chain == AUDIT:
        reader.require("admin:audit")
    return entry


def _entry(entry: Entry) -> EntryBody:
    return EntryBody(
        id=entry.id,
        chain=entry.chain,
        seq=entry.seq,
        prev_hash=entry.prev_hash.hex(),
        entry_hash=entry.entry_hash.hex(),
        body=entry.body.decode(),
    )


def _head(head: SignedHead) -> HeadBody:
    return HeadBody.model_validate_json(head.to_bytes())
