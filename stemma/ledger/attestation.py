"""A receipt to take elsewhere: an in-toto Statement in a DSSE envelope, verified with a public key and nothing else.

The statement (in-toto Attestation Framework, Statement v1) names what was made as its subjects. Its predicate holds
the ledger entry whole, and the proof that this entry is where it says in the tree that a signed head covers. How an
entry is hashed, and what that proves, is said in docs/SECURITY.md.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final
from uuid import UUID

from stemma.errors import CheckFailed, InvalidInput
from stemma.ledger import dsse
from stemma.ledger.entries import Entry, canonical, entry_hash
from stemma.ledger.heads import HeadStore, SignedHead, parse_head
from stemma.ledger.keys import PublicKey, signing_key
from stemma.ledger.proofs import InclusionProof, head_pending, prove_inclusion
from stemma.ledger.receipt_catalog import read_entry
from stemma.ledger.receipts import CHAIN, KIND, Receipt
from stemma.store.database import Database
from stemma.store.settings import Settings

MEDIA_TYPE: Final = "application/vnd.in-toto+json"
STATEMENT_TYPE: Final = "https://in-toto.io/Statement/v1"
PREDICATE_TYPE: Final = "urn:stemma:receipt:v1"


@dataclass(frozen=True, slots=True)
class Verified:
    """What an envelope proves: this receipt, signed by `key_id`, was in the ledger when the head was signed."""

    receipt: Receipt
    key_id: str
    head_key_id: str
    head_at: datetime


def attest(database: Database, settings: Settings, receipt: UUID) -> bytes:
    """The envelope of a receipt, proved under the newest head.

    Raises NotFound, Unavailable with code `head_pending` while no head covers it or `signing_key_lost`, CheckFailed
    where the ledger contradicts its head.
    """
    head = HeadStore(settings).newest()
    with database.snapshot() as connection:
        entry = read_entry(connection, receipt)
        if head is None:
            raise head_pending(entry.chain, entry.seq)
        proof = prove_inclusion(connection, head, entry.chain, entry.seq)
    statement = canonical(_statement(entry, proof))
    return dsse.sign(MEDIA_TYPE, statement, signing_key(settings)).to_bytes()


def _statement(entry: Entry, proof: InclusionProof) -> dict[str, Any]:
    body = json.loads(entry.body)
    head = json.loads(proof.head.to_bytes())
    return {
        "_type": STATEMENT_TYPE,
        "subject": _subjects(body),
        "predicateType": PREDICATE_TYPE,
        "predicate": {
            "entry": {
                "body": body,
                "entry_hash": entry.entry_hash.hex(),
                "prev_hash": entry.prev_hash.hex(),
                "seq": entry.seq,
            },
            "inclusion": [node.hex() for node in proof.path],
            "head": {"head": head["head"], "signature": head["signature"]},
        },
    }


def _subjects(body: dict[str, Any]) -> list[dict[str, Any]]:
    return [{"name": made["name"], "digest": {"sha256": made["sha256"]}} for made in body["data"]["artifacts"]]


def verify_attestation(data: bytes, keys: Mapping[str, PublicKey]) -> Verified:
    """What an exported file proves to someone who trusts these keys.

    Raises InvalidInput for a file that is none, CheckFailed with codes `key_unknown` and `signature_invalid` of
    `dsse.open_envelope`, `statement_invalid` where what was signed is no receipt, `entry_altered`, `proof_invalid` and
    `head_forged`.
    """
    envelope = dsse.open_envelope(data, keys)
    entry, path, head, statement = _read(envelope)
    if entry_hash(entry.prev_hash, entry.seq, entry.body) != entry.entry_hash:
        raise CheckFailed("entry_altered", "The receipt does not have the hash that it was appended with.")
    if statement["subject"] != _subjects(json.loads(entry.body)):
        raise CheckFailed("entry_altered", "The statement names other subjects than the receipt.")
    if not head.is_by(keys):
        raise CheckFailed(
            "head_forged",
            f"None of the keys given signed its head; it names {head.head.key_id}.",
            hint="Pass every public key of the studio: it may have signed heads with an earlier one.",
        )
    if not InclusionProof(CHAIN, entry.seq, entry.entry_hash, path, head).holds(keys):
        raise CheckFailed("proof_invalid", "The receipt is not in the ledger that its head was signed of.")
    return Verified(Receipt.of(entry), envelope.key_id, head.head.key_id, head.head.time)


def _read(envelope: dsse.Envelope) -> tuple[Entry, tuple[bytes, ...], SignedHead, dict[str, Any]]:
    try:
        if envelope.payload_type != MEDIA_TYPE:
            raise ValueError("of another type")
        statement: dict[str, Any] = json.loads(envelope.payload)
        if (statement["_type"], statement["predicateType"]) != (STATEMENT_TYPE, PREDICATE_TYPE):
            raise ValueError("of another type")
        predicate = statement["predicate"]
        said, body = predicate["entry"], predicate["entry"]["body"]
        if (body["chain"], body["kind"]) != (CHAIN, KIND):
            raise ValueError("no receipt")
        entry = Entry(
            chain=body["chain"],
            seq=said["seq"],
            prev_hash=bytes.fromhex(said["prev_hash"]),
            body=canonical(body),
            entry_hash=bytes.fromhex(said["entry_hash"]),
            id=UUID(body["id"]),
            kind=body["kind"],
            actor=body["actor"],
            subject=body["subject"],
            created_at=datetime.fromisoformat(body["at"]),
        )
        path = tuple(bytes.fromhex(node) for node in predicate["inclusion"])
        head = parse_head(json.dumps(predicate["head"] | {"frontiers": {}}).encode())
        Receipt.of(entry)
        return entry, path, head, statement
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError, OverflowError, InvalidInput) as error:
        raise CheckFailed("statement_invalid", "What was signed is no receipt of Stemma.") from error
