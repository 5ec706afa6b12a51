"""A paper from its PDF to its plan: what is made again, what a person decided, and what a failure leaves."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import UUID

import dagster as dg
import pytest
from reportlab.pdfgen.canvas import Canvas

from assets import papers, papers_checks
from resources.store import StoreResource
from stemma.access.principal import local_principal
from stemma.errors import Conflict, InvalidInput, PreconditionFailed, StemmaError
from stemma.ledger.feed import Filter, list_entries
from stemma.ledger.journal import HISTORIAN
from stemma.ledger.service import Ledger
from stemma.papers import catalog, intake, planning, review, steps
from stemma.papers.model import Claim, Paper
from stemma.papers.review import ClaimEdit
from stemma.store.database import Database
from stemma.store.files import FileStore
from stemma.store.settings import REPOSITORY, Settings

SHEETS = REPOSITORY / "samples" / "papers"


@pytest.fixture
def settings(studio: tuple[Settings, Database]) -> Settings:
    return studio[0]


@pytest.fixture
def database(studio: tuple[Settings, Database]) -> Database:
    return studio[1]


Build = Callable[..., dg.ExecuteInProcessResult]


@pytest.fixture(scope="module")
def build(studio: tuple[Settings, Database]) -> Iterator[Build]:
    """Materialize a paper with its checks, with an instance of Dagster that is in memory."""
    with dg.DagsterInstance.ephemeral() as instance:

        def run(paper: UUID, *, fails: bool = False) -> dg.ExecuteInProcessResult:
            instance.add_dynamic_partitions("papers", [str(paper)])
            checks = dg.load_asset_checks_from_modules([papers_checks])
            made = dg.materialize(
                [papers.pages, papers.claims, papers.plan, *checks],
                instance=instance,
                partition_key=str(paper),
                resources={"store": StoreResource()},
                raise_on_error=False,
            )
            assert made.success is not fails
            return made

        yield run


@pytest.fixture
def take_in(settings: Settings, database: Database) -> Callable[[Path], intake.Ingested]:
    def ingest(path: Path) -> intake.Ingested:
        received = intake.receive_file(path, settings, licence="CC0-1.0")
        key = intake.store(received, settings)
        with Ledger(database.urls, settings) as ledger:
            change = database.read(lambda connection: intake.record(connection, local_principal(), received, key))
            return ledger.commit(change).result(20)

    return ingest


def versions(made: dg.ExecuteInProcessResult) -> list[str]:
    return [event.materialization.tags["dagster/data_version"] for event in made.get_asset_materialization_events()]


def changed(made: dg.ExecuteInProcessResult) -> list[Any]:
    return [event.materialization.metadata["changed"].value for event in made.get_asset_materialization_events()]


def claims_of(database: Database, paper: Paper) -> tuple[Claim, ...]:
    return database.read(lambda connection: catalog.list_claims(connection, paper.id))


def told(database: Database, paper: Paper) -> list[str]:
    with database.snapshot() as connection:
        entries = list_entries(connection, HISTORIAN, Filter(subject=f"paper/{paper.id}")).data
    return [entry.kind for entry in reversed(entries)]


def test_a_paper_is_read_claimed_planned_and_reviewed(
    take_in: Callable[[Path], intake.Ingested],
    build: Build,
    settings: Settings,
    database: Database,
    commit: Callable[[Any], Any],
) -> None:
    paper = take_in(SHEETS / "s1_wine_loo.pdf").paper
    assert (paper.kind, paper.pages, paper.status) == ("claim_sheet", 2, "ingested")
    assert take_in(SHEETS / "s1_wine_loo.pdf").status == "unchanged"
    assert [path.suffix for path in settings.inbox.iterdir() if path.is_file()] == [".pdf"]

    first = build(paper.id)
    assert [check.passed for check in first.get_asset_check_evaluations()] == [True, True]
    claims = claims_of(database, paper)
    assert [claim.status for claim in claims] == ["accepted"] * 3
    assert all(claim.page and claim.quote and len(claim.box) == 4 for claim in claims)
    assert told(database, paper) == ["paper.ingested", "paper.read", "claims.extracted", "plan.made"]

    again = build(paper.id)
    assert (versions(again), changed(again)) == (versions(first), [False] * 3)
    assert told(database, paper)[3:] == ["plan.made"]

    pages = steps.stored_pages(FileStore.open_default(settings), get(database, paper))

    def edited(edit: ClaimEdit, *, seen: str) -> Claim:
        return commit(
            database.read(
                lambda connection: review.edit_claim(
                    connection, local_principal(), claims[0].id, edit, pages, seen=frozenset({seen})
                )
            )
        )

    rejected = edited(ClaimEdit(status="rejected"), seen=claims[0].etag)
    assert (rejected.status, rejected.revision, rejected.origin) == ("rejected", 2, "rules")
    for edit, seen, error in (
        (ClaimEdit(status="accepted"), claims[0].etag, PreconditionFailed),
        (ClaimEdit(printed="98.8"), rejected.etag, InvalidInput),
        (ClaimEdit(status="rejected"), rejected.etag, InvalidInput),
    ):
        with pytest.raises(error):
            edited(edit, seen=seen)

    third = build(paper.id)
    assert [claim.status for claim in claims_of(database, paper)] == ["rejected", "accepted", "accepted"]
    plan = database.read(lambda connection: catalog.latest_plan(connection, paper.id))
    assert plan is not None and (plan.version, len(plan.document["targets"])) == (2, 2)
    assert changed(third) == [False, False, True]

    mended = edited(ClaimEdit(printed="99.4", dataset=""), seen=rejected.etag)
    assert (mended.value, mended.dataset, mended.origin) == (99.4, None, "person")
    assert mended.box == claims[1].box


def test_a_plan_that_a_person_wrote_stays(
    take_in: Callable[[Path], intake.Ingested], build: Build, database: Database, commit: Callable[[Any], Any]
) -> None:
    paper = take_in(SHEETS / "s2_fisher_iris.pdf").paper
    build(paper.id)
    made = database.read(lambda connection: catalog.latest_plan(connection, paper.id))
    assert made is not None
    document = {**made.document, "timeouts": {"wall_minutes": 1, "total_minutes": 5}}

    def write(given: object) -> Any:
        return database.read(lambda connection: planning.write_plan(connection, local_principal(), paper.id, given))

    written, late = write(document), write(document)
    plan = commit(written)
    assert (plan.version, plan.origin) == (2, "person")
    with pytest.raises(Conflict):
        commit(late)
    assert commit(write(document)) == plan
    build(paper.id)
    assert database.read(lambda connection: catalog.latest_plan(connection, paper.id)) == plan
    targets = [{**made.document["targets"][0], "claimed": 1.0}]
    for wrong, code in (
        ({**document, "template": "no-such-template"}, "template_unknown"),
        ({**document, "targets": targets, "alternatives": []}, "plan_claim_differs"),
    ):
        with pytest.raises(InvalidInput) as refused:
            write(wrong)
        assert refused.value.code == code


def test_a_paper_without_a_plan_says_why(
    take_in: Callable[[Path], intake.Ingested],
    build: Build,
    database: Database,
    tmp_path: Path,
) -> None:
    canvas = Canvas(str(tmp_path / "prose.pdf"))
    canvas.drawString(72, 700, "Nothing is measured here.")
    canvas.save()
    paper = take_in(tmp_path / "prose.pdf").paper
    build(paper.id, fails=True)
    left = get(database, paper)
    assert (left.status, left.error_code) == ("extracted", "no_accepted_claims")
    assert "Accept claims" in (left.error_message or "")
    assert told(database, paper)[-1] == "paper.step_failed"


def test_a_pdf_that_is_gone_fails_the_step_and_leaves_what_was_made(
    take_in: Callable[[Path], intake.Ingested], build: Build, settings: Settings, database: Database
) -> None:
    paper = take_in(SHEETS / "s6_wdbc_plane.pdf").paper
    build(paper.id)
    FileStore.open_default(settings).delete(paper.file_key)
    build(paper.id, fails=True)
    left = get(database, paper)
    assert (left.status, left.error_code) == ("planned", "file_not_found")
    assert len(claims_of(database, paper)) == 1


def test_what_cannot_be_read_is_not_taken_in(settings: Settings, tmp_path: Path) -> None:
    (tmp_path / "empty.pdf").write_bytes(b"")
    with pytest.raises(StemmaError) as refused:
        intake.receive_file(tmp_path / "empty.pdf", settings)
    assert refused.value.code == "file_empty"
    with pytest.raises(StemmaError) as refused:
        intake.receive_file(tmp_path / "nowhere.pdf", settings)
    assert refused.value.code == "file_not_found"


def get(database: Database, paper: Paper) -> Paper:
    return database.read(lambda connection: catalog.get_paper(connection, paper.id))
