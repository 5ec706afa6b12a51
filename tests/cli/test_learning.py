"""`stemma learning`, `promotions`, `shadow`, `replay` and `policy simulate`, over a small node that has decided."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from stemma.governance import policies
from stemma.store.database import Database
from stemma.store.settings import Settings

Stemma = Callable[..., Any]
COUNT = 80


def test_what_was_decided_is_looked_at_and_improved(
    settings: Settings, database: Database, open_desk: Callable[..., None], tmp_path: Path, done: Stemma, stemma: Stemma
) -> None:
    open_desk(settings, database, COUNT)
    assert sum(one["draws"] for one in done("learning", "show", "desk")["stats"]) == COUNT
    assert "generous is " in stemma("learning", "show", "desk").out
    assert done("replay") == {"decisions": COUNT, "differing": []}
    compared = done("replay", "--policy", "desk.asked@1", "--variant", "generous", "--last", "40")
    assert compared["compared"] == 40 and compared["verdicts"] == len(compared["differences"])
    assert f"{COUNT} decisions: " in stemma("replay", "--policy", "desk.asked", "--last", COUNT).out
    assert "counterfactual" in stemma("learning", "evaluate", "desk.asked", "--metric", "profit").out
    told = stemma("learning", "savings", "desk", "--metric", "profit").out
    assert "observed: " in told and "modelled by nearest" in told and "not observed" in told
    said = database.read(lambda c: policies.find(c, "desk.asked")).content
    written = {
        "name": "desk.asked",
        "version": "1.1.0",
        "changelog": "More.",
        **said["policy"],
        "parameters": {"usual": 0.3},
    }
    file = tmp_path / "asked.yaml"
    file.write_text(json.dumps(written))
    file.with_name("asked.tests.yaml").write_text(json.dumps({"cases": said["tests"]}))
    simulated = done("policy", "simulate", file)
    assert simulated["verdicts"] == {"approve": 60, "deny": 20, "escalate": 0} and simulated["decided"] == COUNT
    assert f"{COUNT} events, of which {COUNT} were decided." in stemma("policy", "simulate", file).out

    with database.transaction() as connection:
        connection.execute(
            "UPDATE policy_variants_stats SET successes = 700, failures = 300 WHERE variant = 'baseline'"
        )
        connection.execute(
            "UPDATE policy_variants_stats SET successes = 800, failures = 200 WHERE variant = 'generous'"
        )
    proposed = done("promotions", "propose", "desk")
    assert stemma("promotions", "propose", "desk").code == 4
    assert "generous: better" in stemma("promotions", "show", proposed["id"]).out
    etag = done("approvals", "show", proposed["approval_id"])["etag"]
    assert done("approvals", "approve", proposed["approval_id"], "--etag", etag)["state"] == "approved"
    (settled,) = done("promotions", "settle")["settled"]
    assert settled["published"] == "desk.asked@1.1.0"
    assert [one["state"] for one in done("promotions", "list", "--state", "published")["data"]] == ["published"]
    assert stemma("promotions", "list", "--state", "proposed").out == "No promotions.\n"
    assert done("verify")["clean"]


def test_what_cannot_be_used_is_one_line(settings: Settings, tmp_path: Path, stemma: Stemma) -> None:
    for code, word, command in [
        (3, "node_unknown", ["learning", "show", "none"]),
        (3, "node_unknown", ["learning", "savings", "none"]),
        (3, "policy_unknown", ["learning", "evaluate", "none"]),
        (3, "policy_unknown", ["replay", "--policy", "none"]),
        (3, "shadow_unset", ["shadow", "none"]),
        (3, "promotion_unknown", ["promotions", "show", "00000000-0000-0000-0000-000000000001"]),
        (2, "state_unknown", ["promotions", "list", "--state", "lost"]),
        (2, "usage_invalid", ["replay", "--last", "0"]),
        (3, "file_missing", ["policy", "simulate", tmp_path / "none.yaml"]),
    ]:
        ended = stemma(*command)
        assert (ended.code, len(ended.err.splitlines())) == (code, 1) and word in ended.err, ended
