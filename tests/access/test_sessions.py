"""Sessions and links: what is kept of them, what they may, how they end, and what the ledger says of it."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest

from stemma.access import links, sessions
from stemma.access.audit import list_audit
from stemma.access.authentication import recognise, require_in_force
from stemma.access.catalog import every_key
from stemma.access.keys import IssuedKey, revoke_key, rotate_key
from stemma.access.links import SignInLink
from stemma.access.permissions import Role
from stemma.access.principal import Principal, local_principal
from stemma.access.sessions import OpenedSession, authenticate_session
from stemma.errors import Conflict, Forbidden, NotFound, StemmaError, Unauthenticated, Unavailable
from stemma.ledger.change import Change
from stemma.redaction.engine import redact
from stemma.store.database import Connection, Database
from stemma.store.settings import Settings


@pytest.fixture
def issue(settings: Settings, database: Database, issue_key: Callable[..., IssuedKey]) -> Callable[..., IssuedKey]:
    return lambda **more: issue_key(settings, database.urls, **more)


@pytest.fixture
def begin(
    settings: Settings, database: Database, commit: Callable[[Change[Any]], Any]
) -> Callable[[IssuedKey], OpenedSession]:
    return lambda issued: commit(sessions.begin(recognise(database, settings, issued.key), settings))


@pytest.fixture
def make_link(settings: Settings, database: Database, commit: Callable[[Change[Any]], Any]) -> Callable[[], SignInLink]:
    return lambda: commit(database.read(lambda c: links.make_link(c, local_principal(), settings)))


@pytest.fixture
def redeem(
    settings: Settings, database: Database, commit: Callable[[Change[Any]], Any]
) -> Callable[[SignInLink], OpenedSession]:
    return lambda link: commit(database.read(lambda c: links.redeem(c, settings, link.url.rpartition("/")[2])))


def code(caught: pytest.ExceptionInfo[StemmaError]) -> str:
    return caught.value.code


def test_a_session_is_its_keys_and_its_cookie_is_kept_nowhere(
    settings: Settings, database: Database, issue: Callable[..., IssuedKey], begin: Callable[..., OpenedSession]
) -> None:
    issued = issue(role=Role.BUILDER, scopes=["ingest:*"])
    opened = begin(issued)
    principal, session = authenticate_session(database, settings, opened.cookie)
    assert session == opened.session
    key = issued.api_key
    assert principal == Principal(f"key:{key.id}", Role.BUILDER, frozenset({"ingest:*"}), key.id, session.id)
    with psycopg.connect(database.urls.owner) as connection:
        dump = str(connection.execute("SELECT array_agg(sessions::text) FROM sessions").fetchall())
        dump += str(connection.execute("SELECT array_agg(convert_from(body, 'UTF8')) FROM ledger").fetchall())
    assert str(session.id) in dump
    _, _, secret = opened.cookie.split("_", 2)
    assert len(secret) > 20 and secret not in dump and session.csrf_token not in dump
    assert redact(f"it was {opened.cookie} then").text == "it was [secret] then"


def test_two_sessions_of_a_key_have_tokens_of_their_own(
    issue: Callable[..., IssuedKey], begin: Callable[..., OpenedSession]
) -> None:
    issued = issue()
    first, second = begin(issued), begin(issued)
    assert first.session.csrf_token != second.session.csrf_token and first.cookie != second.cookie


def test_a_session_does_not_outlast_its_key_or_its_lifetime(
    settings: Settings, issue: Callable[..., IssuedKey], begin: Callable[..., OpenedSession]
) -> None:
    soon = datetime.now(UTC) + timedelta(hours=1)
    assert begin(issue(expires_at=soon)).session.expires_at == soon
    session = begin(issue()).session
    assert session.expires_at - session.created_at == timedelta(seconds=settings.session_lifetime_seconds)


def test_rotating_and_revoking_end_the_sessions_of_a_key_alone(
    settings: Settings,
    database: Database,
    issue: Callable[..., IssuedKey],
    begin: Callable[..., OpenedSession],
    commit: Callable[[Change[Any]], Any],
) -> None:
    rotated, revoked, other = issue(), issue(), issue()
    opened = {begin(rotated).cookie: "session_key_rotated", begin(revoked).cookie: "session_key_revoked"}
    left = begin(other)
    commit(database.read(lambda c: rotate_key(c, local_principal(), rotated.api_key.id, settings)))
    commit(database.read(lambda c: revoke_key(c, local_principal(), revoked.api_key.id)))
    for cookie, expected in opened.items():
        with pytest.raises(Unauthenticated) as caught:
            authenticate_session(database, settings, cookie)
        assert code(caught) == expected and "Sign in again" in str(caught.value)
    assert authenticate_session(database, settings, left.cookie)[1] == left.session


def test_a_key_that_is_rotated_meanwhile_begins_nothing(
    settings: Settings, database: Database, issue: Callable[..., IssuedKey], commit: Callable[[Change[Any]], Any]
) -> None:
    issued = issue()
    change = sessions.begin(recognise(database, settings, issued.key), settings)
    commit(database.read(lambda c: rotate_key(c, local_principal(), issued.api_key.id, settings)))
    with pytest.raises(Conflict) as caught:
        commit(change)
    assert code(caught) == "key_changed"
    assert database.read(sessions.list_sessions).data == ()


def test_its_use_is_written_once_a_minute(
    settings: Settings, database: Database, issue: Callable[..., IssuedKey], begin: Callable[..., OpenedSession]
) -> None:
    opened = begin(issue())

    def used() -> tuple[datetime, str]:
        with psycopg.connect(database.urls.owner) as connection:
            row = connection.execute("SELECT last_used_at, xmin::text FROM sessions").fetchone()
        assert row is not None
        return row

    before = used()
    authenticate_session(database, settings, opened.cookie)
    assert used() == before
    with psycopg.connect(database.urls.owner) as connection:
        connection.execute("UPDATE sessions SET last_used_at = last_used_at - interval '61 seconds'")
    authenticate_session(database, settings, opened.cookie)
    assert used()[0] > before[0]


def test_ending_is_told_and_final(
    database: Database,
    issue: Callable[..., IssuedKey],
    begin: Callable[..., OpenedSession],
    commit: Callable[[Change[Any]], Any],
) -> None:
    issued = issue(role=Role.VIEWER, scopes=["search:read"])
    opened, another = begin(issued), begin(issue())
    key = issued.api_key
    viewer = Principal(f"key:{key.id}", Role.VIEWER, frozenset(key.scopes), key.id, opened.session.id)

    def end(connection: Connection, principal: Principal = viewer, one: Any = opened.session.id) -> Change[Any]:
        return sessions.end(connection, principal, one)

    with pytest.raises(Forbidden):
        database.read(lambda c: end(c, one=another.session.id))
    with pytest.raises(NotFound):
        database.read(lambda c: end(c, one=key.id))
    first, second = database.read(end), database.read(end)
    commit(first)
    with pytest.raises(Conflict):
        commit(second)
    with pytest.raises(Conflict):
        database.read(end)
    with pytest.raises(Unauthenticated) as caught:
        database.read(lambda c: require_in_force(c, viewer))
    assert code(caught) == "session_ended"
    commit(database.read(lambda c: end(c, local_principal(), another.session.id)))
    told = [(row.action, row.resource) for row in database.read(list_audit).data if row.action.startswith("session")]
    assert told == [
        ("session.ended", f"session/{another.session.id}"),
        ("session.ended", f"session/{opened.session.id}"),
        ("session.started", f"session/{another.session.id}"),
        ("session.started", f"session/{opened.session.id}"),
    ]


def test_what_expired_long_ago_is_forgotten_when_the_next_begins(
    database: Database,
    issue: Callable[..., IssuedKey],
    begin: Callable[..., OpenedSession],
    make_link: Callable[[], SignInLink],
) -> None:
    issued = issue()
    kept, forgotten = begin(issued).session, begin(issued).session
    recent, old = make_link(), make_link()
    past = timedelta(minutes=1) + sessions.KEPT_FOR
    with database.transaction() as connection:
        for table, expired in (("sessions", forgotten), ("sign_in_links", old)):
            connection.execute(
                f"UPDATE {table} SET expires_at = clock_timestamp() - %s WHERE id = %s", (past, expired.id)
            )
        connection.execute("UPDATE sessions SET expires_at = clock_timestamp() WHERE id = %s", (kept.id,))
    begun, made = begin(issued).session, make_link()
    with database.snapshot() as connection:
        assert {id_ for (id_,) in connection.execute("SELECT id FROM sessions")} == {kept.id, begun.id}
        assert {id_ for (id_,) in connection.execute("SELECT id FROM sign_in_links")} == {recent.id, made.id}


def test_sessions_are_listed_in_pages(
    database: Database, issue: Callable[..., IssuedKey], begin: Callable[..., OpenedSession]
) -> None:
    issued = issue()
    made = [begin(issued).session.id for _ in range(3)]
    first = database.read(lambda c: sessions.list_sessions(c, limit=2))
    rest = database.read(lambda c: sessions.list_sessions(c, limit=2, cursor=first.next_cursor))
    assert [one.id for one in (*first.data, *rest.data)] == made[::-1] and rest.next_cursor is None
    assert database.read(lambda c: sessions.list_sessions(c, key_id=made[0])).data == ()


def test_without_the_pepper_nobody_is_let_in_or_taken_for_unknown(
    settings: Settings, database: Database, issue: Callable[..., IssuedKey], begin: Callable[..., OpenedSession]
) -> None:
    opened = begin(issue())
    (settings.home / "keys" / "api-keys.pepper").unlink()
    with pytest.raises(Unavailable) as caught:
        authenticate_session(database, settings, opened.cookie)
    assert code(caught) == "pepper_lost"


def test_links_stand_for_one_key_until_it_is_revoked(
    settings: Settings,
    database: Database,
    make_link: Callable[[], SignInLink],
    redeem: Callable[[SignInLink], OpenedSession],
    commit: Callable[[Change[Any]], Any],
) -> None:
    assert database.read(links.nobody_has_signed_in)
    first, second = redeem(make_link()), redeem(make_link())
    assert not database.read(links.nobody_has_signed_in)
    (key,) = database.read(every_key)
    assert (key.name, key.role) == (links.KEY_NAME, Role.SUPER_ADMIN)
    assert first.session.key_id == second.session.key_id == key.id
    commit(database.read(lambda c: revoke_key(c, local_principal(), key.id)))
    for opened in (first, second):
        with pytest.raises(Unauthenticated) as caught:
            authenticate_session(database, settings, opened.cookie)
        assert code(caught) == "session_key_revoked"
    third = redeem(make_link())
    assert third.session.key_id != key.id
    assert authenticate_session(database, settings, third.cookie)[0].role is Role.SUPER_ADMIN
    told = [row.action for row in database.read(list_audit).data if row.action.startswith("link")]
    assert (told.count("link.created"), told.count("link.used")) == (3, 3)


def test_a_link_to_a_revoked_key_signs_nobody_in(
    database: Database,
    make_link: Callable[[], SignInLink],
    redeem: Callable[[SignInLink], OpenedSession],
    commit: Callable[[Change[Any]], Any],
) -> None:
    link = make_link()
    (key,) = database.read(every_key)
    commit(database.read(lambda c: revoke_key(c, local_principal(), key.id)))
    with pytest.raises(Unauthenticated) as caught:
        redeem(link)
    assert code(caught) == "key_revoked"


def test_links_stand_for_a_key_with_every_scope_there_is(
    database: Database, make_link: Callable[[], SignInLink], redeem: Callable[[SignInLink], OpenedSession]
) -> None:
    """A capability that came later has a scope that the key of older links lacks."""
    make_link()
    with psycopg.connect(database.urls.owner) as connection:
        connection.execute("UPDATE api_keys SET scopes = array_remove(scopes, 'search:*')")
    opened = redeem(make_link())
    older, newer = database.read(every_key)
    assert older.revoked_at is not None and opened.session.key_id == newer.id and "search:*" in newer.scopes


def test_of_many_at_once_a_link_signs_one_in(
    settings: Settings, database: Database, make_link: Callable[[], SignInLink], commit: Callable[[Change[Any]], Any]
) -> None:
    text = make_link().url.rpartition("/")[2]
    changes = [database.read(lambda c: links.redeem(c, settings, text)) for _ in range(6)]

    def attempt(change: Change[OpenedSession]) -> str:
        try:
            commit(change)
        except Unauthenticated as error:
            return error.code
        return "signed in"

    with ThreadPoolExecutor(6) as pool:
        assert sorted(pool.map(attempt, changes)) == [*["link_used"] * 5, "signed in"]
    assert len(database.read(sessions.list_sessions).data) == 1
