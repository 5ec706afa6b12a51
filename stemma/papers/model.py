"""Papers, their claims and their plans, as the tables of the schema `p2n` hold them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal
from uuid import UUID

PaperKind = Literal["paper", "claim_sheet"]
PaperSource = Literal["upload", "folder", "url", "sample"]
PaperStatus = Literal["ingested", "extracted", "planned", "failed"]
ClaimOrigin = Literal["rules", "model", "person"]
ClaimStatus = Literal["proposed", "accepted", "rejected"]
PlanOrigin = Literal["template", "model", "person"]

Box = tuple[float, float, float, float]
"""Left, top, right and bottom in points from the top left corner of the page."""


@dataclass(frozen=True, slots=True)
class Paper:
    """A PDF that was taken in.

    A `claim_sheet` restates what a paper printed and is not the paper. `file_key` (the PDF) and `pages_key` (the text
    of its pages with boxes; None until it was read by the pipeline) are keys of the file store, `bytes` its size.
    `source_ref` is the file name or URL that it came from. `vector_file` is its redacted id at a provider.
    """

    id: UUID
    sha256: str
    title: str
    kind: PaperKind
    source: PaperSource
    source_ref: str
    licence: str | None
    file_key: str
    pages_key: str | None
    bytes: int
    pages: int
    status: PaperStatus
    error_code: str | None
    error_message: str | None
    vector_file: str | None
    created_at: datetime
    created_by: str
    updated_at: datetime


@dataclass(frozen=True, slots=True)
class Claim:
    """A number that a paper reports, and where it does so.

    `printed` is the value as the page has it, `decimals` its printed precision: digits after the decimal point. `box`
    encloses the printed value on `page` (from 1), `quote` is the line or sentence that it stands in, verbatim.
    `confidence` lies between 0 and 1; `revision` grows with every edit.
    """

    id: UUID
    paper_id: UUID
    position: int
    metric: str
    value: float
    printed: str
    decimals: int
    unit: str | None
    dataset: str | None
    method: str | None
    split: str | None
    page: int
    box: Box
    quote: str
    confidence: float
    origin: ClaimOrigin
    status: ClaimStatus
    revision: int
    created_at: datetime
    updated_at: datetime
    updated_by: str

    @property
    def etag(self) -> str:
        """What names this revision."""
        return f"{self.id.hex}-{self.revision}"


@dataclass(frozen=True, slots=True)
class Plan:
    """A version of a paper's plan; the newest one counts.

    `document` is what `stemma.papers.plan.PlanDocument` describes, `sha256` the hash of its RFC 8785 bytes. `template`
    names the template that made it, None for one that a person or a model wrote.
    """

    id: UUID
    paper_id: UUID
    version: int
    document: Mapping[str, Any]
    sha256: str
    origin: PlanOrigin
    template: str | None
    created_at: datetime
    created_by: str
