"""Erasing a subject: what the ledger says, what verification says, and what an interruption leaves."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import psycopg
import pytest

from stemma.access.principal import local_principal
from stemma.errors import CheckFailed, Conflict, NotFound, Unavailable
from stemma.ledger.entries import Entry
from stemma.ledger.verification import Report, verify
from stemma.personal import erasure, register
from stemma.personal.sealing import ERASED
from stemma.store.database import Database
from stemma.store.settings import Settings

Commit = Callable[..., Any]
Record = Callable[..., Entry]
Shown = Callable[[Entry], dict[str, Any]]
Erase = Callable[[str], Any]


@pytest.fixture
def report(database: Database, settings: Settings) -> Callable[..., Report]:
    """Verify the test's ledger."""
    return lambda **options: verify(database, settings, **options)


@pytest.fixture
def planned(database: Database, settings: Settings) -> Callable[[str], erasure.Plan]:
    """What erasing someone would do."""
    return lambda name: database.read(lambda connection: erasure.plan(connection, settings, name))


def named(found: Report) -> list[tuple[str, str | None, int | None]]:
    return [(finding.code, finding.chain, finding.seq) for finding in found.findings]


def test_an_erased_subject_stays_closed_and_the_chain_verifies(
    record: Record, shown: Shown, erase: Erase, report: Callable[..., Report], database: Database, settings: Settings
) -> None:
    ada, bob = record("Ada", "cough", "fever"), record("Bob", "rash")
    record("Ada", "again", chain="decisions:pharmacy")
    done = erase("ADA")
    assert [(on.chain, on.fields) for on in done.sealed] == [("decisions:care", 3), ("decisions:pharmacy", 2)]
    assert shown(ada) == {"patient": ERASED, "notes": [ERASED, ERASED], "ward": 7}
    assert shown(bob) == {"patient": "Bob", "notes": ["rash"], "ward": 7}
    found = report(deep=True)
    assert found.clean and (found.sealed, found.erased) == (7, 5)
    assert (report(chain="decisions:care").sealed, report(chain="decisions:care").erased) == (5, 3)
    assert [subject.pseudonym for subject in register.read(settings).values()] == [done.subject]
    rows = database.read(
        lambda c: c.execute(
            "SELECT chain, kind, subject FROM ledger WHERE subject = %s AND kind LIKE 'subject.%%' ORDER BY chain",
            (f"subject/{done.subject}",),
        ).fetchall()
    )
    assert rows == [
        (chain, "subject.erased", f"subject/{done.subject}") for chain in ("audit", "historian", "personal")
    ]
    assert not any(
        b"Ada" in body for (body,) in database.read(lambda c: c.execute("SELECT body FROM ledger").fetchall())
    )


def test_erasing_again_changes_nothing(record: Record, erase: Erase, database: Database) -> None:
    record("Ada", "cough")
    first, second = erase("Ada"), erase("Ada")
    assert not first.again and second.again and second.sealed == ()
    assert (second.subject, second.erased_at) == (first.subject, first.erased_at)
    count = database.read(lambda c: c.execute("SELECT count(*) FROM ledger WHERE chain = 'personal'").fetchone())
    assert count == (1,)


def test_a_person_who_comes_back_begins_anew_and_can_be_erased_again(
    record: Record, shown: Shown, erase: Erase, report: Callable[..., Report]
) -> None:
    first = record("Ada", "cough")
    erase("Ada")
    second = record("Ada", "fever")
    assert shown(first)["patient"] == ERASED and shown(second)["patient"] == "Ada"
    assert first.subject == second.subject
    assert (report().sealed, report().erased) == (4, 2)
    assert [(on.chain, on.fields) for on in erase("Ada").sealed] == [("decisions:care", 2)]
    assert shown(second)["patient"] == ERASED and report().clean


def test_an_unknown_subject_is_not_named(erase: Erase, record: Record) -> None:
    record("Bob", "rash")
    with pytest.raises(NotFound) as caught:
        erase("Ada Lovelace")
    assert caught.value.code == "subject_unknown" and "Ada" not in str(caught.value)


def test_verification_names_a_key_that_is_missing_without_an_erasure(
    record: Record, report: Callable[..., Report], settings: Settings, database: Database
) -> None:
    record("Bob", "rash")
    record("Ada", "cough")
    keys = settings.home / "keys" / "subjects"
    ada = next(keys.rglob(f"{record('Ada', 'fever').subject.removeprefix('subject/')}.json"))
    kept = ada.read_bytes()
    ada.unlink()
    found = report()
    assert named(found) == [("personal_key_missing", "decisions:care", 2)] and found.erased == 0
    assert "4 sealed fields" in found.findings[0].message
    ada.write_bytes(kept)
    assert report().clean
    with psycopg.connect(database.urls.owner) as owner:
        owner.execute("UPDATE subject_keys SET erased_at = now() WHERE pseudonym = %s", (ada.stem,))
    assert named(report()) == [("personal_key_missing", "decisions:care", 2)]


def test_verification_names_an_erased_key_that_came_back_and_erasing_again_mends_it(
    record: Record, erase: Erase, shown: Shown, report: Callable[..., Report], settings: Settings
) -> None:
    entry = record("Ada", "cough")
    (key,) = (settings.home / "keys" / "subjects").rglob("*.json")
    kept = key.read_bytes()
    erase("Ada")
    assert not key.exists()
    key.write_bytes(kept)
    assert named(report()) == [("erased_key_kept", "decisions:care", 1)]
    assert shown(entry)["patient"] == ERASED
    assert erase("Ada").again and not key.exists() and report().clean


def test_an_interrupted_erasure_is_finished_by_erasing_again(
    record: Record,
    erase: Erase,
    report: Callable[..., Report],
    planned: Callable[[str], erasure.Plan],
    database: Database,
    settings: Settings,
) -> None:
    """The process died between the key's end and the ledger's word for it."""
    record("Ada", "cough")
    with database.transaction() as connection:
        erasure.destroy_key(connection, settings, planned("Ada"))
    assert [code for code, _, _ in named(report())] == ["personal_key_missing"]
    with pytest.raises(Unavailable) as caught:
        record("Ada", "fever")
    assert caught.value.code == "personal_key_missing" and "under way" in caught.value.message
    assert not erase("Ada").again and report().clean
    record("Ada", "fever")


def test_of_two_erasures_at_once_one_is_told(
    record: Record, planned: Callable[[str], erasure.Plan], commit: Commit, database: Database, settings: Settings
) -> None:
    record("Ada", "cough")
    plans = [planned("Ada"), planned("Ada")]
    for plan in plans:
        with database.transaction() as connection:
            erasure.destroy_key(connection, settings, plan)
    commit(erasure.erase(local_principal(), plans[0]))
    record("Ada", "new key")
    with database.transaction() as connection:
        erasure.destroy_key(connection, settings, plans[1])
    with pytest.raises(Conflict):
        commit(erasure.erase(local_principal(), plans[1]))
    assert shown_key_lives(settings, plans[0].subject.pseudonym)


def shown_key_lives(settings: Settings, pseudonym: str) -> bool:
    return any(path.stem == pseudonym for path in (settings.home / "keys" / "subjects").rglob("*.json"))


def test_without_the_register_nothing_is_destroyed(
    record: Record, shown: Shown, planned: Callable[[str], erasure.Plan], database: Database, settings: Settings
) -> None:
    entry = record("Ada", "cough")
    (settings.home / "full").write_text("no folder")
    broken = settings.model_copy(update={"ledger_heads_url": str(settings.home / "full")})
    with database.transaction() as connection, pytest.raises(Unavailable) as caught:
        erasure.destroy_key(connection, broken, planned("Ada"))
    assert caught.value.code == "storage_not_writable"
    assert shown(entry)["patient"] == "Ada"


def test_a_register_that_cannot_be_read_is_named(record: Record, erase: Erase, settings: Settings) -> None:
    record("Ada", "cough")
    erase("Ada")
    (path,) = (settings.home / "ledger-heads" / "erasures").glob("*.json")
    path.write_text("{}")
    with pytest.raises(CheckFailed) as caught:
        register.read(settings)
    assert caught.value.code == "erasure_unreadable" and path.name in caught.value.message
