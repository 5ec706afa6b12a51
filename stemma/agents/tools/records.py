"""Looking things up in the studio's records: a decision, and whether what an asset's receipt says is so."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final
from uuid import UUID

from pydantic import Field

from stemma.agents.tools.model import Arguments, Found, Tool, Use

if TYPE_CHECKING:
    from stemma.ledger.receipts import Receipt
    from stemma.store.database import Connection


class WhichDecision(Arguments):
    """A decision."""

    decision_id: UUID = Field(description="The decision's id")


class WhichReceipt(Arguments):
    """A receipt, by itself or as the newest of an asset."""

    receipt_id: UUID | None = Field(default=None, description="The receipt's id; else the newest of `asset`")
    asset: str | None = Field(default=None, max_length=200, description="An asset such as knowledge/chunks")
    partition: str | None = Field(default=None, max_length=200, description="Which partition of the asset")


def _look_up(use: Use, wanted: WhichDecision) -> Found:
    from stemma.governance.decisions.catalog import get_decision

    decision = use.studio.database.read(lambda connection: get_decision(connection, wanted.decision_id))
    content = {
        "id": decision.id,
        "node": decision.node,
        "event": decision.event,
        "policy": decision.policy_reference,
        "verdict": decision.verdict,
        "level": decision.level,
        "reasons": [reason.text for reason in decision.reasons],
        "state": decision.state,
        "effect": decision.effect,
        "decided_at": decision.decided_at,
        "decided_by": decision.decided_by,
        "due_at": decision.due_at,
        "settled_by": decision.settled_by,
        "context": decision.context,
    }
    return Found(_plain(content), facts={"decision": str(decision.id)})


def _verify(use: Use, wanted: WhichReceipt) -> Found:
    from stemma.ledger.attestation import attest, verify_attestation
    from stemma.ledger.keys import public_keys

    studio = use.studio
    receipt = studio.database.read(lambda connection: _find(connection, wanted))
    verified = verify_attestation(attest(studio.database, studio.settings, receipt.id), public_keys(studio.settings))
    content = {
        "verified": True,
        "receipt": receipt.id,
        "made": receipt.subject,
        "by": receipt.actor,
        "at": receipt.materialized_at,
        "data_version": receipt.data_version,
        "code_version": receipt.code_version,
        "from": [{"asset": i.asset, "partition": i.partition, "receipt": i.receipt} for i in receipt.inputs],
        "artifacts": [{"name": made.name, "sha256": made.sha256, "bytes": made.size} for made in receipt.artifacts],
        "signed_by": verified.key_id,
        "head_at": verified.head_at,
    }
    return Found(_plain(content), facts={"receipt": str(receipt.id), "verified": True})


def _find(connection: Connection, wanted: WhichReceipt) -> Receipt:
    from stemma.ledger import receipt_catalog

    if wanted.receipt_id is not None:
        return receipt_catalog.read_receipt(connection, wanted.receipt_id)
    return receipt_catalog.newest_receipt(connection, wanted.asset or "", wanted.partition)


def _plain(content: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in content.items() if value is not None}


DECISION: Final = Tool(
    "look_up_decision",
    "Shows a decision: the event, the verdict with its reasons, what it rested on, and what became of it.",
    WhichDecision,
    ("decide:read",),
    _look_up,
)
RECEIPT: Final = Tool(
    "verify_receipt",
    "Verifies the receipt of an asset against the signed ledger: what was made, from what, by whom, and that it is so.",
    WhichReceipt,
    ("ledger:read",),
    _verify,
)
