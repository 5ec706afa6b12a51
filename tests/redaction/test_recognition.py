"""What is found in the labelled texts, and that nothing is found in those that only look like it."""

from __future__ import annotations

from collections import Counter

import pytest

from stemma.redaction import Kind, redact

_RECALL = 0.95


def test_the_sets_are_large_enough_and_cover_every_kind(labelled, lookalikes) -> None:
    assert len(labelled) >= 300
    assert len(lookalikes) >= 100
    assert {row.kind for row in labelled} == set(Kind)
    assert len({row.origin for row in labelled if row.kind in {Kind.PHONE, Kind.NATIONAL_ID}}) >= 40


@pytest.mark.parametrize("kind", list(Kind))
def test_recall(labelled, kind: Kind) -> None:
    rows = [row for row in labelled if row.kind == kind]
    missed = [row.text for row in rows if not _is_covered(row)]
    assert len(missed) <= (1 - _RECALL) * len(rows), missed


def _is_covered(row) -> bool:
    end = row.start + len(row.value)
    return any(
        found.kind == row.kind and found.start <= row.start and found.end >= end for found in redact(row.text).findings
    )


def test_findings_are_exact(labelled) -> None:
    wide = [
        row.text
        for row in labelled
        if [(found.start, found.end) for found in redact(row.text).findings]
        and (row.start, row.start + len(row.value))
        not in {(found.start, found.end) for found in redact(row.text).findings}
    ]
    assert len(wide) <= 0.02 * len(labelled), wide


def test_nothing_of_a_value_stays(labelled) -> None:
    for row in labelled:
        if row.kind != Kind.PROVIDER_ID:
            assert row.value not in redact(row.text).text, row.text


def test_lookalikes_are_left_alone(lookalikes) -> None:
    hit = [(what, text, redact(text).text) for what, text in lookalikes if redact(text).findings]
    assert hit == []


def test_only_the_wanted_kinds_are_looked_for(labelled) -> None:
    found = Counter(finding.kind for row in labelled for finding in redact(row.text, kinds=["email", "card"]).findings)
    assert set(found) == {Kind.EMAIL, Kind.CARD}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("mail bob@example.org, ip 8.8.8.8", "mail [email], ip [ip]"),
        ("postgresql://app:pa55@db.example.com/x", "postgresql://app:[secret]@db.example.com/x"),
        ("GET /f?a=1&sig=abc&expires=17&b=2", "GET /f?a=1&sig=[token]&expires=[token]&b=2"),
        ("Authorization: Bearer abcdef123456", "Authorization: Bearer [secret]"),
        ("Cookie: sid=1; theme=dark", "Cookie: [secret]"),
        ("store vs_" + "abcdef0123456789abcdef01" + " gone", "store vs_abcde*** gone"),
        ("password=hunter2, host=db", "password=[secret], host=db"),
        ("{'token': 'abcdef1234', 'n': 3}", "{'token': '[secret]', 'n': 3}"),
        ("card 4111 1111 1111 1111.", "card [card]."),
        ("IBAN DE89 3704 0044 0532 0130 00 AND MORE", "IBAN [iban] AND MORE"),
        ("-----BEGIN PRIVATE KEY-----\nMIIB\n-----END PRIVATE KEY-----\nend", "[secret]\nend"),
        ("-----BEGIN RSA PRIVATE KEY-----\nMIIBcut0ff", "[secret]"),
    ],
)
def test_replacements_are_readable(text: str, expected: str) -> None:
    assert redact(text).text == expected


def test_a_number_that_its_validator_chokes_on_is_left_alone() -> None:
    # No county has this code; stdnum's validator raises a KeyError.
    assert redact("id 99999919800101999X, 999999198001019998").findings == ()
