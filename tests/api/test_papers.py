"""Papers over HTTP: taken in, looked at, reviewed and planned, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest
from markupsafe import escape

from stemma.ledger.service import Ledger
from stemma.papers import catalog, planning, steps
from stemma.papers import pages as pdf
from stemma.papers.claims.reading import read_claims
from stemma.store.database import Database
from stemma.store.files import FileStore
from stemma.store.settings import REPOSITORY, Settings

PAPERS = "/api/v1/papers"
WINE = REPOSITORY / "samples" / "papers" / "s1_wine_loo.pdf"


def send(client: httpx.Client, path: Path | None = None, **form: str) -> httpx.Response:
    name, data = (path.name, path.read_bytes()) if path else ("lie.pdf", b"<html></html>")
    return client.post(PAPERS, files={"file": (name, data)}, data=form)


def work_out(paper_id: UUID, settings: Settings, database: Database) -> None:
    """What the steps of the pipeline leave, without a run of Dagster."""
    files = FileStore.open_default(settings)
    with Ledger(database.urls, settings) as ledger:

        def write(prepare: Any) -> None:
            change = database.read(prepare)
            assert change is not None
            ledger.commit(change).result(20)

        paper = database.read(lambda c: catalog.get_paper(c, paper_id))
        read = pdf.read_pages(files.read(paper.file_key), settings)
        key = files.write(f"papers/{paper_id}/pages.json", pdf.to_json(read)).key
        write(lambda c: steps.pages_read(c, paper, key, len(read)))
        write(lambda c: steps.claims_found(c, paper, read_claims(read), actor="test"))
        claims = database.read(lambda c: catalog.list_claims(c, paper_id))
        write(lambda c: planning.plan_made(c, paper, planning.propose(paper, claims), actor="test"))


def refusal(response: httpx.Response) -> tuple[int, str]:
    return response.status_code, response.json()["code"]


def test_a_paper_is_taken_in_shown_reviewed_and_planned(
    client: httpx.Client, settings: Settings, database: Database
) -> None:
    created = send(client, WINE, licence="CC0-1.0")
    assert created.status_code == 201
    paper = created.json()
    assert (paper["ingested"], paper["kind"], paper["pages"]) == ("created", "claim_sheet", 2)
    assert (paper["source"], paper["source_ref"], paper["licence"]) == ("upload", "s1_wine_loo.pdf", "CC0-1.0")
    again = send(client, WINE)
    assert (again.status_code, again.json()["ingested"], again.json()["id"]) == (200, "unchanged", paper["id"])
    assert [one["id"] for one in client.get(PAPERS).json()["data"]] == [paper["id"]]

    here = f"{PAPERS}/{paper['id']}"
    assert refusal(client.get(f"{here}/pages/1")) == (404, "paper_not_read")
    assert refusal(client.get(f"{here}/plan")) == (404, "paper_not_planned")
    assert client.get(f"{here}/claims").json() == {"data": []}
    work_out(UUID(paper["id"]), settings, database)

    page = client.get(f"{here}/pages/2").json()
    assert page["lines"][0]["text"] == "Table 1. Reported results."
    assert len(page["lines"][0]["words"][0]) == 5
    image = client.get(f"{here}/pages/2/image")
    assert image.headers["content-type"] == "image/png" and image.content.startswith(b"\x89PNG")
    assert refusal(client.get(f"{here}/pages/3/image")) == (404, "page_not_found")

    claim = client.get(f"{here}/claims").json()["data"][2]
    address = f"/api/v1/claims/{claim['id']}"
    etag = client.get(address).headers["ETag"]
    assert refusal(client.patch(address, json={"status": "rejected"})) == (428, "if_match_missing")
    wrong = client.patch(address, json={"printed": "96.2"}, headers={"If-Match": etag})
    assert refusal(wrong) == (422, "claim_not_on_page")
    rejected = client.patch(address, json={"status": "rejected"}, headers={"If-Match": etag})
    assert (rejected.status_code, rejected.json()["status"], rejected.json()["revision"]) == (200, "rejected", 2)
    late = client.patch(address, json={"status": "accepted"}, headers={"If-Match": etag})
    assert refusal(late) == (412, "claim_changed")

    plan = client.get(f"{here}/plan").json()
    assert (plan["version"], plan["template"], plan["missing_packages"]) == (1, "classifiers-leave-one-out", [])
    document = plan["document"] | {"timeouts": {"wall_minutes": 2, "total_minutes": 9}}
    refused = client.put(f"{here}/plan", json=document)
    assert refusal(refused) == (422, "plan_claim_unknown")
    document |= {"targets": document["targets"][:2], "alternatives": []}
    written = client.put(f"{here}/plan", json=document)
    assert (written.status_code, written.json()["version"], written.json()["origin"]) == (200, 2, "person")
    assert client.get(f"/api/v1/plans/{plan['id']}").json()["version"] == 1
    greedy = document | {"environment": {"packages": ["numpy"], "gpu": True}}
    assert refusal(client.put(f"{here}/plan", json=greedy)) == (400, "E_GPU_REQUESTED")
    endless = document | {"timeouts": {"wall_minutes": 26}}
    assert refusal(client.put(f"{here}/plan", json=endless)) == (422, "E_CAP_EXCEEDED")
    assert client.get("/api/v1/plan-schema").json()["title"] == "PlanDocument"

    step = client.post(f"{here}/steps/extract")
    assert (step.status_code, step.json()["kind"], step.json()["state"]) == (202, "paper:extract", "queued")
    assert client.get(f"/api/v1/jobs/{step.json()['job_id']}").json()["input"] == {"paper": paper["id"]}


def test_what_cannot_be_read_or_is_not_there_is_refused(client: httpx.Client) -> None:
    assert refusal(send(client)) == (415, "not_a_pdf")
    assert refusal(client.post(f"{PAPERS}/fetch", json={"url": "http://127.0.0.1/a.pdf"})) == (
        422,
        "fetch_refused_address",
    )
    nowhere = f"{PAPERS}/{uuid4()}"
    for path in ("", "/claims", "/plan", "/pages/1", "/pages/1/image"):
        assert refusal(client.get(nowhere + path)) == (404, "paper_unknown")
    assert refusal(client.post(f"{nowhere}/steps/plan")) == (404, "paper_unknown")
    assert refusal(client.get(f"/api/v1/claims/{uuid4()}")) == (404, "claim_unknown")
    assert refusal(client.get(f"/api/v1/plans/{uuid4()}")) == (404, "plan_unknown")
    assert client.get(PAPERS).json() == {"data": [], "next_cursor": None}


def test_lists_come_in_pages(client: httpx.Client) -> None:
    for name in ("s1_wine_loo.pdf", "s2_fisher_iris.pdf", "s6_wdbc_plane.pdf"):
        assert send(client, WINE.with_name(name)).status_code == 201
    seen: list[str] = []
    cursor: str | None = ""
    while cursor is not None:
        page = client.get(PAPERS, params={"limit": 2} | ({"cursor": cursor} if cursor else {})).json()
        seen += [paper["title"] for paper in page["data"]]
        cursor = page["next_cursor"]
    assert len(seen) == 3 and seen[0].startswith("Three-feature")


PAGE = {"Accept": "text/html"}


def test_a_form_takes_in_a_paper_and_its_page_says_how_far_it_is(client: httpx.Client) -> None:
    assert "There is no paper yet" in client.get("/papers", headers=PAGE).text
    sent = client.post("/papers", files={"file": (WINE.name, WINE.read_bytes())}, data={"url": ""}, headers=PAGE)
    assert sent.status_code == 303
    page = client.get(sent.headers["Location"], headers=PAGE).text
    assert "It is being read" in page and "Read it now" in page and "Run it" not in page
    again = client.post("/papers", files={"file": (WINE.name, WINE.read_bytes())}, headers=PAGE)
    assert again.headers["Location"] == sent.headers["Location"]
    assert client.get(PAPERS).json()["data"][0]["status"] == "ingested"


@pytest.mark.parametrize(
    ("make", "status", "code"),
    [
        (lambda pdf: b"", 422, "file_empty"),
        (lambda pdf: b"<html>a lie</html>", 415, "not_a_pdf"),
        (lambda pdf: pdf(["Hello"], password="secret"), 422, "pdf_encrypted"),
        (lambda pdf: pdf([]), 422, "pdf_without_text"),
        (lambda pdf: pdf(["Hello"])[:400], 422, "pdf_damaged"),
        (lambda pdf: pdf(["Hello"]).replace(b"/Count 1", b"/Count 9"), 422, "pdf_damaged"),
        (lambda pdf: pdf(*[["Hello"]] * 500), 413, "too_many_pages"),
    ],
)
def test_what_cannot_be_read_is_refused_readably(
    visitor: httpx.Client, make_pdf: Callable[..., bytes], make: Any, status: int, code: str
) -> None:
    file = {"file": ("paper.pdf", make(make_pdf))}
    problem = visitor.post(PAPERS, files=file)
    assert refusal(problem) == (status, code)
    page = visitor.post("/papers", files=file, headers=PAGE)
    assert page.status_code == status
    # Said above the form, in the words of the problem.
    assert str(escape(problem.json()["detail"])) in page.text and "<form" in page.text


def test_a_form_needs_one_thing_to_take_in(visitor: httpx.Client) -> None:
    assert "Choose a PDF" in visitor.post("/papers", data={"url": " "}, headers=PAGE).text
    both = visitor.post("/papers", files={"file": ("a.pdf", b"x")}, data={"url": "https://example.org"}, headers=PAGE)
    assert both.status_code == 422 and "one of them at a time" in both.text
    near = visitor.post("/papers", data={"url": "http://127.0.0.1/a.pdf"}, headers=PAGE)
    assert near.status_code == 422 and "127.0.0.1" in near.text


def test_a_plan_whose_data_are_not_here_says_so_and_is_not_run(
    client: httpx.Client, settings: Settings, database: Database
) -> None:
    paper = send(client, WINE).json()["id"]
    work_out(UUID(paper), settings, database)
    document = client.get(f"{PAPERS}/{paper}/plan").json()["document"]
    document["dataset"] |= {"package": "no-such-package", "note": "It is installed apart."}
    plan = client.put(f"{PAPERS}/{paper}/plan", json=document).json()
    assert plan["missing_packages"] == ["no-such-package"]
    assert refusal(client.post(f"/api/v1/plans/{plan['id']}/run")) == (422, "dataset_missing")
    page = client.get(f"/papers/{paper}", headers=PAGE).text
    assert "It cannot be run here" in page and "no-such-package" in page and "It is installed apart." in page
    pressed = client.post(f"/papers/plans/{plan['id']}/run", headers=PAGE)
    assert pressed.status_code == 422 and "no-such-package" in pressed.text
    assert client.get(f"{PAPERS}/{paper}/runs").json()["data"] == []
