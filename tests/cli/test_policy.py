"""`stemma policy`: policies are checked beside their golden cases, published and compared."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from stemma.store.settings import REPOSITORY, Settings

Stemma = Callable[..., Any]


@pytest.fixture
def policy(tmp_path: Path) -> Path:
    """A sample policy that may be changed, its golden cases beside it."""
    for name in ("discounts.yaml", "discounts.tests.yaml"):
        shutil.copy(REPOSITORY / "samples" / "policies" / "finance" / name, tmp_path / name)
    return tmp_path / "discounts.yaml"


def change(file: Path, before: str, after: str) -> None:
    text = file.read_text("utf-8")
    assert before in text
    file.write_text(text.replace(before, after), "utf-8")


def test_policies_are_checked_without_a_database(
    policy: Path, done: Stemma, stemma: Stemma, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STEMMA_DATABASE_URL", "postgresql://nobody@127.0.0.1:1/none")
    assert done("policy", "validate", policy) == {"valid": True, "findings": []}
    tested = done("policy", "test", policy)
    assert tested["valid"] and all(case["passed"] for case in tested["cases"])
    change(policy, "usual: 0.1", "usual: 0.01")
    failed = stemma("policy", "test", policy)
    assert failed.code == 6 and "golden_cases_failed" in failed.err and "failed  a usual discount" in failed.out
    change(policy, "discount > highest", "discount > 1")
    wrong = stemma("policy", "validate", policy)
    assert wrong.code == 2 and f"{policy}:58:15: bundles[0].rules[0].when" in wrong.out
    assert len(wrong.err.splitlines()) == 1
    told = stemma("policy", "test", policy, "--json")
    assert told.code == 2 and told.document["findings"][0]["line"] == 58
    assert stemma("policy", "publish", policy).code == 2


def test_a_policy_is_published_once_and_compared(
    settings: Settings, policy: Path, done: Stemma, stemma: Stemma
) -> None:
    assert "No policies." in stemma("policy", "list").out
    published = done("policy", "publish", policy)
    assert done("policy", "publish", policy)["published_at"] == published["published_at"]
    assert stemma("policy", "diff", "finance.discounts", policy).out == "They say the same.\n"
    change(policy, "highest: 0.3", "highest: 0.4")
    taken = stemma("policy", "publish", policy)
    assert (taken.code, len(taken.err.splitlines())) == (4, 1) and "version_taken" in taken.err
    assert "- 0.3\n  + 0.4" in stemma("policy", "diff", "finance.discounts@1", policy).out
    change(policy, "version: 1.0.0", "version: 1.0.1")
    assert "finance.discounts@1.0.1 is published." in stemma("policy", "publish", policy).out
    assert [item["version"] for item in done("policy", "list", "finance.discounts")["data"]] == ["1.0.1", "1.0.0"]
    assert [item["version"] for item in done("policy", "list")["data"]] == ["1.0.1"]
    assert done("policy", "show", "finance.discounts@1.0.0")["sha256"] == published["sha256"]
    assert "First version." in stemma("policy", "show", "finance.discounts").out
    assert done("verify")["clean"]


def test_what_cannot_be_used_is_one_line(settings: Settings, tmp_path: Path, policy: Path, stemma: Stemma) -> None:
    (policy.parent / "alone.yaml").write_text("name: alone\n")
    (policy.parent / "binary.yaml").write_bytes(b"\xff\xfe")
    for code, word, command in [
        (3, "file_missing", ["validate", tmp_path / "none.yaml"]),
        (3, "alone.tests.yaml", ["test", tmp_path / "alone.yaml"]),
        (2, "file_unreadable", ["publish", tmp_path / "binary.yaml"]),
        (3, "policy_unknown", ["show", "nothing"]),
        (2, "version_invalid", ["show", "a@b"]),
        (3, "policy_unknown", ["diff", policy, "nothing@1"]),
        (2, "cursor_invalid", ["list", "--cursor", "x"]),
    ]:
        ended = stemma("policy", *command)
        assert (ended.code, len(ended.err.splitlines())) == (code, 1) and word in ended.err, ended
