"""Reports, the leaderboard and storyboards over HTTP, and what people do on the pages of papers."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest

from api.app import create_app
from stemma.access.keys import IssuedKey
from stemma.access.permissions import Role
from stemma.access.principal import local_principal
from stemma.errors import Conflict
from stemma.ledger.service import Ledger
from stemma.papers.catalog import get_claim
from stemma.papers.kid import keeping
from stemma.papers.kid.asking import SCHEMA
from stemma.papers.kid.readability import GRADE
from stemma.store.database import Database, DatabaseUrls
from stemma.store.settings import Settings
from tests.llm.upstream import MODEL, Upstream

PAGE = {"Accept": "text/html"}


@dataclass(frozen=True)
class Papers:
    """A studio with a paper that has a report and one that has none; a client, and the headers of a viewer."""

    client: httpx.Client
    database: Database
    wine: Any
    iris: Any
    viewer: dict[str, str]
    upstream: Upstream
    settings: Settings


@pytest.fixture(scope="module")
def papers(
    tmp_path_factory: pytest.TempPathFactory,
    new_database: Callable[[], DatabaseUrls],
    drop_database: Callable[[DatabaseUrls], None],
    serve: Any,
    issue_key: Callable[..., IssuedKey],
    reproduce: Any,
) -> Iterator[Papers]:
    urls = new_database()
    with Upstream() as upstream, Database(urls) as database:
        settings = Settings(
            home=tmp_path_factory.mktemp("papers"),
            openai_base_url=upstream.url,
            openai_model=MODEL,
            OPENAI_API_KEY="sk-loopback",
            FF_PAID_PROVIDERS=True,
        )
        wine = reproduce(settings, database, "s1_wine_loo")
        iris = reproduce(settings, database, "s2_fisher_iris", reported=False)
        viewer = issue_key(settings, urls, role=Role.VIEWER)
        with serve(create_app(settings, database=database)) as client:
            yield Papers(client, database, wine, iris, {"Authorization": f"Bearer {viewer.key}"}, upstream, settings)
    drop_database(urls)


def test_a_report_says_what_was_claimed_and_observed(papers: Papers) -> None:
    answer = papers.client.get(f"/api/v1/papers/{papers.wine.paper.id}/report", headers=papers.viewer)
    assert answer.status_code == 200
    said = answer.json()
    assert (said["claimed"], said["verdict"], said["kind"]) == (98.9, "reproduced", "claim_sheet")
    assert said["gap_percent"] == pytest.approx(-0.0239, abs=1e-4)
    assert [one["verdict"] for one in said["targets"]] == ["reproduced", "reproduced", "not_reproduced"]
    assert said["citations"][2]["page"] == 2 and len(said["citations"][2]["box"]) == 4
    assert said["alternatives"][0]["status"] == "not_run"
    (left,) = said["artifacts"]
    # Whoever has the URL needs no key.
    read = httpx.get(str(papers.client.base_url.join(httpx.URL(left["url"]).raw_path.decode())))
    assert (read.status_code, read.content) == (200, b"[]")


def test_no_report_and_no_paper_are_told_apart(papers: Papers) -> None:
    missing = papers.client.get(f"/api/v1/papers/{papers.iris.paper.id}/report")
    assert (missing.status_code, missing.json()["code"]) == (404, "report_missing")
    assert "stemma papers report" in missing.json()["detail"] + missing.json().get("hint", "")
    unknown = papers.client.get(f"/api/v1/papers/{uuid4()}/report")
    assert (unknown.status_code, unknown.json()["code"]) == (404, "paper_unknown")


def test_the_leaderboard_lists_what_has_a_report(papers: Papers) -> None:
    (first,) = papers.client.get("/api/v1/papers/leaderboard", headers=papers.viewer).json()["data"]
    assert (first["place"], first["reproduced"], first["targets"]) == (1, 2, 3)
    assert UUID(first["paper_id"]) == papers.wine.paper.id


def test_a_paper_is_told_once_for_a_key(papers: Papers) -> None:
    wanted = {"paper_id": str(papers.wine.paper.id)}
    sent, asked = [], []
    for _ in range(2):
        sent.append(papers.client.post("/api/v1/explain/kid", json=wanted, headers={"Idempotency-Key": "story"}))
        asked.append(len(papers.upstream.served))
    assert [one.status_code for one in sent] == [201, 201] and sent[0].json() == sent[1].json()
    assert asked[0] == asked[1] > 0
    told = sent[0].json()
    assert len(told["pages"]) == 6 and told["grade"] <= GRADE
    assert told["pages"][-1]["visual_hint"] == "bars" and told["score"]["paper"] == 98.9
    assert all(page["alt_text"] for page in told["pages"])
    # What the model says by itself is no story, so that templates tell it.
    assert told["told_by"] == "templates"
    kept = papers.client.get(f"/api/v1/papers/{papers.wine.paper.id}/storyboard").json()
    assert kept == told


def test_a_model_tells_a_paper_and_the_run_its_end(papers: Papers) -> None:
    papers.upstream.clear()
    pages = [{"title": "The Wine", "body": "They had some wine. Is it 98.9?", "picture": "glass"}] * 5
    papers.upstream.say(json.dumps({"pages": pages, "glossary": [{"term": "Wine", "meaning": "A drink."}]}))
    told = papers.client.post("/api/v1/explain/kid", json={"paper_id": str(papers.wine.paper.id)}).json()
    assert told["told_by"] == f"openai/{MODEL}" and len(told["pages"]) == 6 and told["grade"] <= GRADE
    assert "98.9?" in told["pages"][0]["body"] and "They match!" in told["pages"][-1]["body"]
    assert told["score"]["paper"] == 98.9
    (served,) = papers.upstream.served
    shape = served.asked.body["text"]["format"]
    assert served.asked.protocol == "responses" and (shape["type"], shape["strict"]) == ("json_schema", True)
    assert shape["schema"] == SCHEMA
    page = papers.client.get(f"/papers/{papers.wine.paper.id}/story", headers=PAGE).text
    assert f"Written by openai/{MODEL}" in page


def test_telling_a_paper_is_refused_where_it_has_to_be(papers: Papers) -> None:
    untold = papers.client.get(f"/api/v1/papers/{papers.iris.paper.id}/storyboard")
    assert (untold.status_code, untold.json()["code"]) == (404, "storyboard_missing")
    post = papers.client.post
    assert post("/api/v1/explain/kid", json={"paper_id": str(uuid4())}).json()["code"] == "paper_unknown"
    assert post("/api/v1/explain/kid", json={"paper_id": "wine"}).status_code == 422
    wanted = {"paper_id": str(papers.iris.paper.id)}
    assert post("/api/v1/explain/kid", json=wanted, headers=papers.viewer).status_code == 403


def test_a_viewer_s_page_has_no_buttons(papers: Papers) -> None:
    for address in (f"/papers/{papers.wine.paper.id}", f"/papers/{papers.wine.paper.id}/story"):
        page = papers.client.get(address, headers={**PAGE, **papers.viewer})
        assert page.status_code == 200
        assert f'action="/papers/{papers.wine.paper.id}' not in page.text
    assert papers.client.get(f"/papers/{uuid4()}", headers=PAGE).status_code == 404


def test_a_claim_is_reviewed_on_its_page_as_it_was_seen(papers: Papers) -> None:
    target = papers.iris.plan.document["targets"][0]
    address = f"/papers/{papers.iris.paper.id}/claims/{target['claim']}"
    claim = papers.database.read(lambda connection: get_claim(connection, UUID(target["claim"])))
    form = {
        "seen": claim.etag,
        "status": "accepted",
        "metric": claim.metric,
        "printed": claim.printed,
        "page": claim.page,
        "unit": "",
        "dataset": claim.dataset,
        "method": "Fisher's linear discriminant",
    }
    wrong = papers.client.post(address, data={**form, "printed": "5.9999"}, headers=PAGE)
    assert wrong.status_code == 422 and "5.9999" in wrong.text
    kept = papers.client.post(address, data=form, headers=PAGE)
    assert kept.status_code == 303 and kept.headers["location"].endswith(f"?claim={claim.id}#claims")
    edited = papers.database.read(lambda connection: get_claim(connection, claim.id))
    assert (edited.method, edited.revision, edited.origin) == ("Fisher's linear discriminant", 2, "person")
    late = papers.client.post(address, data={**form, "status": "rejected"}, headers=PAGE)
    assert late.status_code == 412 and "no longer as it was seen" in late.text
    elsewhere = papers.client.get(f"/papers/{papers.wine.paper.id}/claims/{claim.id}", headers=PAGE)
    assert elsewhere.status_code == 404


def test_steps_and_runs_are_asked_for_on_the_page(papers: Papers) -> None:
    paper, plan = papers.wine.paper.id, papers.wine.plan.id
    step = papers.client.post(f"/papers/{paper}/steps", data={"step": "paper:report"}, headers=PAGE)
    assert step.status_code == 303 and step.headers["location"].startswith("/jobs/")
    assert papers.client.post(f"/papers/{paper}/steps", data={"step": "noop"}, headers=PAGE).status_code == 422
    unknown = papers.client.post(f"/papers/plans/{plan}/run", data={"alternative": "magic"}, headers=PAGE)
    assert unknown.status_code == 422 and "magic" in unknown.text


def test_a_story_that_was_told_meanwhile_is_not_written_over(papers: Papers) -> None:
    def told() -> Any:
        return papers.database.read(lambda c: keeping.explain(c, local_principal(), papers.iris.paper.id))

    with Ledger(papers.database.urls, papers.settings) as ledger:
        for _ in range(2):
            first, second = told(), told()
            ledger.commit(first).result(20)
            with pytest.raises(Conflict) as refused:
                ledger.commit(second).result(20)
            assert refused.value.code == "storyboard_changed"
