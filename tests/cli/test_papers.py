"""`stemma papers`: one line for a user's mistake, an exit code that says what, and JSON."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from cli.main import main
from stemma.store.database import Database
from stemma.store.settings import REPOSITORY, Settings

SHEETS = REPOSITORY / "samples" / "papers"


def run(*arguments: object) -> int:
    with pytest.raises(SystemExit) as ended:
        main(["papers", *(str(argument) for argument in arguments)])
    return int(ended.value.code or 0)


def asked(capsys: pytest.CaptureFixture[str], *arguments: object) -> Any:
    capsys.readouterr()
    assert run(*arguments, "--json") == 0
    return json.loads(capsys.readouterr().out)


def test_from_a_pdf_to_a_plan(
    studio: tuple[Settings, Database], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (taken,) = asked(capsys, "add", SHEETS / "s1_wine_loo.pdf")
    paper = taken["paper"]["id"]
    outcome = asked(capsys, "materialize", paper)
    assert [built["asset"] for built in outcome["built"]] == ["papers/pages", "papers/claims", "papers/plan"]
    claims = asked(capsys, "claims", paper)
    assert [claim["printed"] for claim in claims] == ["98.9", "99.4", "96.1"]
    assert asked(capsys, "reject", claims[0]["id"])["status"] == "rejected"
    assert run("edit", claims[1]["id"], "--printed", "99.5") == 2
    assert "claim_not_on_page" in capsys.readouterr().err
    plan = asked(capsys, "plan", paper, "--show")["plan"]
    (tmp_path / "plan.json").write_text(json.dumps(plan["document"] | {"seeds": [1]}))
    assert run("plan", paper, "--from", tmp_path / "plan.json") == 2
    assert "plan_claim_unknown" in capsys.readouterr().err
    assert asked(capsys, "accept", claims[0]["id"])["revision"] == 3
    assert asked(capsys, "plan", paper, "--from", tmp_path / "plan.json")["plan"]["origin"] == "person"


def test_of_a_folder_what_can_be_read_is_taken_in(
    studio: tuple[Settings, Database], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty.pdf").write_bytes(b"")
    (tmp_path / "sheet.pdf").write_bytes((SHEETS / "s2_fisher_iris.pdf").read_bytes())
    assert run("add", tmp_path) == 2
    told = capsys.readouterr()
    assert "Fisher's compound" in told.out + told.err and "file_empty" in told.err
    assert any(paper["title"].startswith("Fisher") for paper in asked(capsys, "list")["data"])
    (tmp_path / "bare").mkdir()
    assert run("add", tmp_path / "bare") == 3
    assert run("plan", "8e03978e-40d5-43dd-bc93-6894a57f9324") == 3
    assert "paper_unknown" in capsys.readouterr().err
