"""Keys: who may make which, what is kept of them, how they end, and what the ledger says of it."""

from __future__ import annotations

import stat
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stemma.access.audit import list_audit
from stemma.access.authentication import authenticate
from stemma.access.catalog import every_key, list_keys, read_key
from stemma.access.keys import IssuedKey, NewKey, create_key, revoke_key, rotate_key
from stemma.access.permissions import PERMISSIONS, SCOPES, Role, covers, permissions_of
from stemma.access.principal import Principal, local_principal
from stemma.access.tokens import parse_key
from stemma.errors import Conflict, Forbidden, InvalidInput, NotFound, StemmaError, Unauthenticated, Unavailable
from stemma.ledger.journal import audited
from stemma.ledger.service import Ledger
from stemma.redaction.engine import redact
from stemma.store.database import Database
from stemma.store.settings import Settings

Issue = Callable[..., IssuedKey]
EVERY_SCOPE = [f"{capability}:*" for capability in SCOPES]


@pytest.fixture
def issue(settings: Settings, database: Database, issue_key: Callable[..., IssuedKey]) -> Issue:
    return lambda **more: issue_key(settings, database.urls, **more)


@pytest.fixture
def commit(settings: Settings, database: Database) -> Callable[..., Any]:
    """Prepare a change by a function of this package and write it."""

    def write(prepare: Callable[..., Any], principal: Principal, *arguments: Any) -> Any:
        change = database.read(lambda connection: prepare(connection, principal, *arguments))
        with Ledger(database.urls, settings) as ledger:
            return ledger.commit(change).result(20)

    return write


def principal_of(issued: IssuedKey) -> Principal:
    key = issued.api_key
    return Principal(f"key:{key.id}", Role(key.role), frozenset(key.scopes), key.id)


def code(caught: pytest.ExceptionInfo[StemmaError]) -> str:
    return caught.value.code


def test_a_key_is_recognised_and_its_secret_is_kept_nowhere(
    settings: Settings, database: Database, issue: Issue
) -> None:
    issued = issue(role=Role.BUILDER, scopes=["ingest:*", "search:read"])
    principal = authenticate(database, settings, issued.key)
    assert principal == principal_of(issued)
    assert principal.may("ingest:write") and not principal.may("ledger:read")
    with psycopg.connect(database.urls.owner) as connection:
        dump = str(connection.execute("SELECT array_agg(api_keys::text) FROM api_keys").fetchall())
        dump += str(connection.execute("SELECT array_agg(convert_from(body, 'UTF8')) FROM ledger").fetchall())
    assert str(issued.api_key.id) in dump
    assert parse_key(issued.key)[1] not in dump and issued.signing_secret not in dump
    pepper = settings.home / "keys" / "api-keys.pepper"
    assert stat.S_IMODE(pepper.stat().st_mode) == 0o600


def test_redaction_knows_a_key(issue: Issue) -> None:
    issued = issue()
    assert redact(f"it was {issued.key} yesterday").text == "it was [secret] yesterday"


@given(st.text())
def test_what_is_no_key_is_refused_before_the_database_is_asked(text: str) -> None:
    with pytest.raises(Unauthenticated) as caught:
        parse_key(text)
    assert code(caught) == "key_malformed"


@pytest.mark.parametrize("change", ["swapcase", "another id", "longer", "shorter", "newline", "nul"])
def test_a_key_that_is_not_exact_is_unknown_or_malformed(
    settings: Settings, database: Database, issue: Issue, change: str
) -> None:
    key = issue().key
    changed = {
        "swapcase": key[:37] + key[37:].swapcase(),
        "another id": key.replace(key[4:36], uuid4().hex),
        "longer": f"{key}a",
        "shorter": key[:-1],
        "newline": f"{key}\n",
        "nul": f"{key}\0",
    }[change]
    with pytest.raises(Unauthenticated) as caught:
        authenticate(database, settings, changed)
    assert code(caught) == ("key_unknown" if change in ("swapcase", "another id") else "key_malformed")


def test_revocation_expiry_and_rotation_act_at_once(
    settings: Settings, database: Database, issue: Issue, commit: Callable[..., Any]
) -> None:
    revoked, expired, rotated = issue(), issue(expires_at=datetime.now(UTC) + timedelta(hours=1)), issue()
    for issued in (revoked, expired, rotated):
        assert authenticate(database, settings, issued.key).key_id == issued.api_key.id
    commit(revoke_key, local_principal(), revoked.api_key.id)
    with database.transaction() as connection:
        connection.execute("UPDATE api_keys SET expires_at = now() WHERE id = %s", (expired.api_key.id,))
    renewed = commit(rotate_key, local_principal(), rotated.api_key.id, settings)
    for issued, wanted in ((revoked, "key_revoked"), (expired, "key_expired"), (rotated, "key_unknown")):
        with pytest.raises(Unauthenticated) as caught:
            authenticate(database, settings, issued.key)
        assert code(caught) == wanted
    assert authenticate(database, settings, renewed.key).key_id == rotated.api_key.id
    assert renewed.signing_secret != rotated.signing_secret
    states = [key.state(datetime.now(UTC)) for key in database.read(every_key)]
    assert states == ["revoked", "expired", "active"]


def test_a_dead_key_is_not_changed_any_more(settings: Settings, issue: Issue, commit: Callable[..., Any]) -> None:
    key_id = issue().api_key.id
    commit(revoke_key, local_principal(), key_id)
    for prepare, arguments in ((revoke_key, (key_id,)), (rotate_key, (key_id, settings))):
        with pytest.raises(Conflict) as caught:
            commit(prepare, local_principal(), *arguments)
        assert code(caught) == "key_revoked"
    with pytest.raises(NotFound):
        commit(revoke_key, local_principal(), uuid4())


def test_of_two_rotations_at_once_one_wins_and_its_secret_is_the_right_one(
    settings: Settings, database: Database, issue: Issue
) -> None:
    key_id = issue().api_key.id
    changes = [database.read(lambda c: rotate_key(c, local_principal(), key_id, settings)) for _ in range(2)]
    with Ledger(database.urls, settings) as ledger:
        outcomes = [ledger.commit(change) for change in changes]
        failed = [outcome for outcome in outcomes if outcome.exception(20)]
        (won,) = [outcome.result() for outcome in outcomes if not outcome.exception(20)]
    assert [type(outcome.exception()) for outcome in failed] == [Conflict]
    assert authenticate(database, settings, won.key).key_id == key_id


@pytest.mark.parametrize(
    ("wanted", "field", "expected"),
    [
        ({"name": ""}, "name", "name_invalid"),
        ({"name": "a\0b"}, "name", "name_invalid"),
        ({"name": "x" * 101}, "name", "name_invalid"),
        ({"role": "Emperor"}, "role", "role_unknown"),
        ({"role": "owner"}, "role", "role_unknown"),
        ({"scopes": []}, "scopes", "scopes_invalid"),
        ({"scopes": ["*"]}, "scopes", "scope_unknown"),
        ({"scopes": ["search"]}, "scopes", "scope_unknown"),
        ({"scopes": ["search:rule"]}, "scopes", "scope_unknown"),
        ({"scopes": ["everything:*"]}, "scopes", "scope_unknown"),
        ({"scopes": ["search:*"] * 65}, "scopes", "scopes_invalid"),
        ({"expires_at": datetime.now(UTC) - timedelta(seconds=1)}, "expires_at", "expiry_past"),
    ],
)
def test_a_key_that_makes_no_sense_is_refused(
    settings: Settings, database: Database, wanted: dict[str, Any], field: str, expected: str
) -> None:
    asked = NewKey(**{"name": "test", "role": "Viewer", "scopes": ["search:*"], **wanted})
    with pytest.raises(InvalidInput) as caught:
        database.read(lambda connection: create_key(connection, local_principal(), asked, settings))
    assert (code(caught), caught.value.field) == (expected, field)
    assert database.read(every_key) == []


ROLES = st.sampled_from(list(Role))
GRANTS = st.lists(st.sampled_from([*EVERY_SCOPE, *PERMISSIONS]), min_size=1, max_size=6)


@given(ROLES, GRANTS, ROLES, GRANTS)
def test_whatever_a_key_may_make_can_do_nothing_more(
    own: Role, scopes: list[str], role: Role, granted: list[str]
) -> None:
    maker = Principal("key:maker", own, frozenset(scopes))
    made = Principal("key:made", role, frozenset(granted))
    try:
        maker.require_within(role, granted)
    except Forbidden:
        # Only what would be more is refused.
        more = not permissions_of(role) <= permissions_of(own)
        assert more or any(not any(covers(scope, wanted) for scope in scopes) for wanted in granted)
    else:
        assert {p for p in PERMISSIONS if made.may(p)} <= {p for p in PERMISSIONS if maker.may(p)}


def test_no_key_gets_more_through_another(
    settings: Settings, database: Database, issue: Issue, commit: Callable[..., Any]
) -> None:
    owner = issue()
    admin = principal_of(issue(role=Role.ADMIN, scopes=["admin:*", "search:*"]))
    for role, scopes, expected in (
        (Role.OWNER, ["search:*"], "role_beyond_own"),
        (Role.VIEWER, ["search:*", "ingest:read"], "scope_beyond_own"),
    ):
        with pytest.raises(Forbidden) as caught:
            commit(create_key, admin, NewKey("more", role, scopes), settings)
        assert code(caught) == expected
    with pytest.raises(Forbidden) as caught:
        commit(rotate_key, admin, owner.api_key.id, settings)
    assert code(caught) == "role_beyond_own"
    assert authenticate(database, settings, owner.key).role is Role.OWNER
    lesser = commit(create_key, admin, NewKey("less", Role.VIEWER, ["search:read"]), settings)
    assert lesser.api_key.created_by == admin.actor
    assert commit(rotate_key, admin, lesser.api_key.id, settings).api_key.id == lesser.api_key.id
    assert commit(revoke_key, admin, owner.api_key.id).revoked_at is not None


def test_a_key_changes_itself_and_no_other(settings: Settings, issue: Issue, commit: Callable[..., Any]) -> None:
    viewer, other = (issue(role=Role.VIEWER, scopes=["search:*"]) for _ in range(2))
    for prepare, more in ((rotate_key, (settings,)), (revoke_key, ())):
        with pytest.raises(Forbidden):
            commit(prepare, principal_of(viewer), other.api_key.id, *more)
        commit(prepare, principal_of(viewer), viewer.api_key.id, *more)


def test_each_change_is_on_the_audit_chain_and_in_the_historian(
    settings: Settings, database: Database, issue: Issue, commit: Callable[..., Any]
) -> None:
    key = issue(role=Role.VIEWER, scopes=["search:*"]).api_key
    commit(rotate_key, local_principal(), key.id, settings)
    commit(revoke_key, local_principal(), key.id)
    page = database.read(list_audit)
    assert [row.action for row in page.data] == ["key.revoked", "key.rotated", "key.created"]
    assert {row.resource for row in page.data} == {f"key/{key.id}"}
    assert {row.actor for row in page.data} == {local_principal().actor}
    assert page.data[-1].meta == {
        "name": "test", "role": "Viewer", "scopes": ["search:*"], "signed_only": False, "expires_at": None,
    }  # fmt: skip
    with database.snapshot() as connection:
        kinds = connection.execute("SELECT kind FROM ledger WHERE chain = 'historian' ORDER BY seq").fetchall()
    assert kinds == [("key.created",), ("key.rotated",), ("key.revoked",)]


def test_the_audit_is_read_whatever_an_entry_holds(settings: Settings, database: Database) -> None:
    held = {"nul": "a\0b", "written out": "\\u0000", "quote": '"', "deep": {"list": [1, None, "é"]}}
    with Ledger(database.urls, settings) as ledger:
        ledger.append(audited(local_principal(), "test.done", resource="r", meta=held)).result(20)
    (row,) = database.read(list_audit).data
    assert row.meta == held | {"nul": "a\ufffdb", "written out": "\\ufffd"}


def test_the_last_use_is_written_once_a_minute(settings: Settings, database: Database, issue: Issue) -> None:
    issued = issue()
    key_id = issued.api_key.id

    def last_use() -> datetime | None:
        return database.read(lambda connection: read_key(connection, key_id)).last_used_at

    assert last_use() is None
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda _: authenticate(database, settings, issued.key), range(16)))
    first = last_use()
    assert first is not None
    authenticate(database, settings, issued.key)
    assert last_use() == first
    with database.transaction() as connection:
        connection.execute("UPDATE api_keys SET last_used_at = now() - interval '61 seconds'")
    authenticate(database, settings, issued.key)
    renewed = last_use()
    assert renewed is not None and renewed >= first


def test_a_lost_pepper_is_said_and_replaced_by_nobody(
    settings: Settings, database: Database, issue: Issue, commit: Callable[..., Any]
) -> None:
    issued = issue()
    pepper = settings.home / "keys" / "api-keys.pepper"
    kept = pepper.read_bytes()
    for damage in (pepper.unlink, lambda: pepper.write_bytes(b"short")):
        damage()
        for attempt in (lambda: authenticate(database, settings, issued.key), issue):
            with pytest.raises(Unavailable) as caught:
                attempt()
            assert code(caught) == "pepper_lost"
    pepper.write_bytes(kept)
    assert authenticate(database, settings, issued.key)
    pepper.unlink()
    commit(revoke_key, local_principal(), issued.api_key.id)
    assert authenticate(database, settings, issue().key)


def test_keys_are_listed_page_by_page(database: Database, issue: Issue) -> None:
    ids = [issue().api_key.id for _ in range(3)]
    first = database.read(lambda connection: list_keys(connection, limit=2))
    second = database.read(lambda connection: list_keys(connection, limit=2, cursor=first.next_cursor))
    assert [key.id for key in (*first.data, *second.data)] == ids
    assert second.next_cursor is None
    with pytest.raises(InvalidInput):
        database.read(lambda connection: list_keys(connection, cursor="WyJrZXlzIiwieCJd"))
