"""The claim sheets that ship, and the two papers that lie beside the checkout."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import pytest

from stemma.papers import intake, steps
from stemma.papers.claims.reading import read_claims
from stemma.papers.model import Claim, Paper
from stemma.papers.pages import read_pages
from stemma.store.settings import REPOSITORY, Settings

SHEETS = REPOSITORY / "samples" / "papers"
PAPERS = REPOSITORY.parent / "shared" / "data" / "papers"
NOW = datetime(2026, 1, 2, tzinfo=UTC)


@dataclass(frozen=True)
class Read:
    """A paper and its claims, as the pipeline would have them."""

    paper: Paper
    claims: tuple[Claim, ...]


@pytest.fixture(scope="session")
def file_of() -> Callable[[str], Path]:
    """A sheet or paper by its name; skips where the papers are not beside the checkout."""

    def find(name: str) -> Path:
        if (SHEETS / name).is_file():
            return SHEETS / name
        if not (PAPERS / name).is_file():
            pytest.skip(f"{name} lies in ../shared/data/papers, which is not here")
        return PAPERS / name

    return find


@pytest.fixture(scope="session")
def read(file_of: Callable[[str], Path]) -> Callable[[str], Read]:
    """A sheet or paper with its claims, without a database; read once."""
    known: dict[str, Read] = {}

    def reading(name: str) -> Read:
        if name not in known:
            settings = Settings(home=Path("unused"))
            data = file_of(name).read_bytes()
            paper = paper_of(intake.receive(data, settings, source="folder", source_ref=name))
            found = read_claims(read_pages(data, settings))
            claims = [steps.claim_of(paper, place, one, NOW, "test") for place, one in enumerate(found, start=1)]
            known[name] = Read(paper, tuple(claims))
        return known[name]

    return reading


def paper_of(received: intake.Received) -> Paper:
    return Paper(
        id=intake.paper_id_of(received.sha256),
        sha256=received.sha256,
        title=received.title,
        kind=received.kind,
        source=received.source,
        source_ref=received.source_ref,
        licence=None,
        file_key="unused",
        pages_key=None,
        bytes=len(received.data),
        pages=received.pages,
        status="ingested",
        error_code=None,
        error_message=None,
        vector_file=None,
        created_at=NOW,
        created_by="test",
        updated_at=NOW,
    )
