"""Runs over HTTP and as pages: listed, told, followed, downloaded from, and not cancelled by whoever may not."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import dagster as dg
import httpx
import pytest

from api.app import create_app
from resources.instance import open_instance
from stemma.access.keys import IssuedKey
from stemma.access.permissions import Role
from stemma.ledger.feed import Filter, list_entries
from stemma.ledger.journal import AUDIT
from stemma.store.database import Database
from stemma.store.settings import Settings

RUNS = "/api/v1/runs"
UNKNOWN = "5fbb0f5d-9d0e-4c38-8b3d-0d5e9c3a7c11"
HTML = {"Accept": "text/html"}


@dataclass(frozen=True)
class House:
    """A studio with real runs behind the API, and the instance that made them."""

    client: httpx.Client
    runs: Any
    instance: dg.DagsterInstance
    database: Database
    viewer: IssuedKey


@pytest.fixture(scope="module")
def house(
    studio: tuple[Settings, Database],
    execute_runs: Callable[..., Any],
    serve_dagster: Callable[..., AbstractContextManager[None]],
    serve: Any,
    issue_key: Callable[..., IssuedKey],
) -> Iterator[House]:
    settings, database = studio
    with open_instance(settings, database.urls) as instance:
        runs = execute_runs(instance, database, settings)
        viewer = issue_key(settings, database.urls, role=Role.VIEWER)
        with serve_dagster(instance, settings), serve(create_app(settings, database=database)) as client:
            yield House(client, runs, instance, database, viewer)


def lines(client: httpx.Client, run_id: str, **query: Any) -> list[tuple[str, str, Any]]:
    """The events of a log that has ended, as (id, event, data)."""
    headers = query.pop("headers", {})
    answer = client.get(f"{RUNS}/{run_id}/log", params=query, headers=headers)
    assert answer.status_code == 200, answer.text
    found = []
    for block in answer.text.split("\n\n"):
        said = dict(line.split(": ", 1) for line in block.splitlines() if ": " in line and not line.startswith(":"))
        if "data" in said:
            found.append((said["id"], said.get("event", "message"), json.loads(said["data"])))
    return found


def test_runs_are_listed_and_told(house: House) -> None:
    listed = house.client.get(RUNS, params={"state": "done", "limit": 1}).json()
    assert [one["id"] for one in listed["data"]] == [house.runs.second] and listed["next_cursor"]
    told = house.client.get(f"{RUNS}/{house.runs.second}").json()
    assert (told["run"]["state"], told["actor"], told["unanswered"]) == ("done", "schedule:nightly", None)
    text, words = told["changes"]
    assert (text["changed"], text["data_version_before"], words["changed"]) == (True, "v21", False)
    assert [figure for figure in text["figures"] if figure["name"] == "lines"] == [
        {"name": "lines", "before": 1, "after": 2}
    ]


def test_a_log_resumes_with_each_line_once(house: House) -> None:
    whole = lines(house.client, house.runs.second)
    assert [int(one[0]) for one in whole[:-1]] == list(range(1, len(whole))) and whole[-1][1] == "end"
    rest = lines(house.client, house.runs.second, headers={"Last-Event-ID": "5"})
    assert rest == whole[5:] == lines(house.client, house.runs.second, after=5)
    urgent = lines(house.client, house.runs.second, level="WARNING")
    assert [one[2]["message"] for one in urgent[:-1]] == ["a word is long"]
    assert "ada@example.org" not in json.dumps(whole)


@pytest.mark.parametrize("path", [f"{RUNS}/{UNKNOWN}", f"{RUNS}/{UNKNOWN}/log"])
def test_what_nobody_knows_is_not_found(house: House, path: str) -> None:
    answer = house.client.get(path)
    assert (answer.status_code, answer.json()["code"]) == (404, "run_unknown")


def test_a_position_that_a_log_does_not_have_is_refused(house: House) -> None:
    answer = house.client.get(f"{RUNS}/{house.runs.first}/log", headers={"Last-Event-ID": "99999"})
    assert (answer.status_code, answer.json()["code"]) == (422, "last_event_id_invalid")


def test_a_file_of_a_run_is_downloaded_by_a_signed_url(house: House) -> None:
    receipts = house.client.get("/api/v1/receipts", params={"run": house.runs.second}).json()["data"]
    (words,) = [one for receipt in receipts for one in receipt["artifacts"] if one["name"].endswith("words.txt")]
    path = f"/runs/{house.runs.second}/artifacts/{words['sha256']}"
    answer = house.client.get(path)
    assert answer.status_code == 303
    anybody = httpx.get(str(house.client.base_url) + answer.headers["location"], trust_env=False)
    assert anybody.content == b"words" and "attachment" in anybody.headers["content-disposition"]
    refused = house.client.get(path, headers={"Authorization": f"Bearer {house.viewer.key}"})
    assert refused.status_code == 403


def test_a_run_is_cancelled_by_whoever_may_and_that_is_written_down(house: House) -> None:
    @dg.op
    def nothing() -> None:
        """Do nothing."""

    @dg.job
    def idle() -> None:
        nothing()

    waiting = house.instance.create_run_for_job(idle, status=dg.DagsterRunStatus.STARTED)
    page = f"/runs/{waiting.run_id}"
    as_viewer = {**HTML, "Authorization": f"Bearer {house.viewer.key}"}
    assert f"{page}/cancel" in house.client.get(page, headers=HTML).text
    assert f"{page}/cancel" not in house.client.get(page, headers=as_viewer).text
    assert house.client.post(f"{page}/cancel", headers=as_viewer).status_code == 403
    assert "Cancel this run?" in house.client.get(f"{page}/cancel", headers=HTML).text
    house.client.post(f"{page}/cancel", headers=HTML)
    (entry,) = house.database.read(lambda c: list_entries(c, AUDIT, Filter(kind="run.cancel_requested")).data)
    assert entry.subject == f"run/{waiting.run_id}"
    house.instance.report_run_canceled(waiting)
    answer = house.client.post(f"{page}/cancel", headers={"Accept": "application/json"})
    assert (answer.status_code, answer.json()["code"]) == (409, "run_finished")
