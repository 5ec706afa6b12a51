"""The memory over HTTP, and the same on the command line."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import date
from typing import Any

import httpx
import pytest
from psycopg.types.json import Jsonb

from cli.main import main
from stemma.access.principal import local_principal
from stemma.governance import nodes, policies
from stemma.governance.memory.windows import feature_key
from stemma.store.database import Database
from stemma.store.settings import REPOSITORY

MEMORY = "/api/v1/memory"
DAYS = [date(2025, 1, day) for day in (1, 2, 3)]


@pytest.fixture
def remembered(database: Database, commit: Callable[[Any], Any]) -> None:
    """A node with three days in its memory."""
    samples = REPOSITORY / "samples"
    texts = [(samples / "policies" / "finance" / f"discounts{suffix}.yaml").read_text() for suffix in ("", ".tests")]
    commit(database.read(lambda c: policies.publish(c, local_principal(), *texts)))
    node = nodes.read((samples / "nodes" / "finance.yaml").read_text())
    commit(
        database.read(lambda c: nodes.publish(c, local_principal(), (samples / "nodes" / "finance.yaml").read_text()))
    )
    measure = {"of": "verdict", "psi": 0.5, "threshold": 0.25, "alarmed": True}
    variant = {"variant": "baseline", "draws": 7, "mean": 0.5}
    card = {"policies": {"finance.discounts@1.0.0": {"baseline": variant, "variants": [], "candidate": None}}}
    with database.transaction() as connection:
        for number, day in enumerate(DAYS):
            for query, content in (
                ("INSERT INTO entity_features VALUES (%s, %s, 'ada', %s)", {feature_key(node, "orders"): {"n": 2}}),
                ("INSERT INTO scorecards VALUES (%s, %s, %s)", card),
                (
                    "INSERT INTO knowledge_snapshots VALUES (%s, %s, %s, 'quiet', '', 'm',"
                    " array_fill(0.1::real, ARRAY[384])::vector)",
                    {},
                ),
            ):
                connection.execute(query, ("finance", day, Jsonb(content)))
            connection.execute(
                "INSERT INTO drift_reports VALUES ('finance', %s, %s, %s)",
                (day, Jsonb({"measures": [measure]}), number == 1),
            )


@pytest.mark.usefixtures("remembered")
def test_what_is_known_of_an_entity_and_of_days_is_read(client: httpx.Client) -> None:
    known = client.get(f"{MEMORY}/finance/features", params={"entity": "ada", "day": "2025-01-02"}).json()
    assert known == {"entity": "ada", "day": "2025-01-02", "values": {"orders": 4.0, "amount": 0.0, "profit": 0.0}}
    assert client.get(f"{MEMORY}/finance/features", params={"entity": "ada"}).json()["values"]["orders"] == 6
    for thing in ("snapshots", "scorecards", "drift"):
        first = client.get(f"{MEMORY}/finance/{thing}", params={"limit": 2}).json()
        assert [item["day"] for item in first["data"]] == ["2025-01-03", "2025-01-02"]
        rest = client.get(f"{MEMORY}/finance/{thing}", params={"cursor": first["next_cursor"]}).json()
        assert [item["day"] for item in rest["data"]] == ["2025-01-01"] and rest["next_cursor"] is None
    alarmed = client.get(f"{MEMORY}/finance/drift", params={"alarmed": True}).json()["data"]
    assert [item["day"] for item in alarmed] == ["2025-01-02"]


@pytest.mark.usefixtures("remembered")
def test_an_unknown_node_and_a_foreign_cursor_are_refused(client: httpx.Client) -> None:
    for thing in ("features?entity=ada", "snapshots", "scorecards", "drift"):
        assert client.get(f"{MEMORY}/nothing/{thing}").status_code == 404
    cursor = client.get(f"{MEMORY}/finance/drift", params={"limit": 1}).json()["next_cursor"]
    refused = client.get(f"{MEMORY}/finance/snapshots", params={"cursor": cursor})
    assert (refused.status_code, refused.json()["code"]) == (422, "cursor_invalid")


@pytest.mark.usefixtures("remembered")
def test_the_command_line_says_the_same(capfd: pytest.CaptureFixture[str]) -> None:
    def told(*arguments: str) -> str:
        with pytest.raises(SystemExit) as ended:
            main(arguments)
        assert ended.value.code == 0, capfd.readouterr().err
        return capfd.readouterr().out

    assert json.loads(told("features", "finance", "ada", "--json"))["values"]["orders"] == 6
    assert "orders" in told("features", "finance", "ada", "--day", "2025-01-02")
    assert told("snapshots", "finance").count("quiet") == 3
    assert "baseline" in told("scorecards", "finance")
    assert "verdict" in told("drift", "finance", "--alarmed")
    with pytest.raises(SystemExit) as ended:
        main(["drift", "nothing"])
    assert ended.value.code == 3 and "Traceback" not in capfd.readouterr().err
