"""The authorization matrix: every route × every role × every state of a key, made from the route table.

What is expected is worked out here from `PERMISSIONS`. A route that asks for no permission and is not public fails.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from http.client import HTTPConnection
from typing import Final
from uuid import uuid4

import httpx
import psycopg
import pytest

from api.access import PUBLIC, SIGNED, is_public, rules
from api.app import create_app
from api.sessions import COOKIE, CSRF_HEADER
from stemma.access import sessions
from stemma.access.authentication import recognise
from stemma.access.keys import IssuedKey
from stemma.access.permissions import PERMISSIONS, SCOPES, Role
from stemma.access.principal import local_principal
from stemma.access.sessions import OpenedSession
from stemma.ledger.service import Ledger
from stemma.notify import sources
from stemma.store.database import Database, DatabaseUrls
from stemma.store.settings import Settings
from stemma.store.webserver import PATH as DAGSTER

ROUTES: Final = [
    (path, method, rule)
    for path, methods, rule in rules(create_app(Settings()))
    for method in sorted(methods - {"HEAD", "OPTIONS"})
]
PROTECTED: Final = [(path, method, rule) for path, method, rule in ROUTES if rule is not None and not rule.scheduler]
SCHEDULED: Final = [(path, method, rule) for path, method, rule in ROUTES if rule is not None and rule.scheduler]
TOKEN: Final = "a token of outside schedulers"
DENIED: Final = {401, 403}


@dataclass(frozen=True)
class Keys:
    """One role's keys. A narrow one has a single scope, of a capability that its name says."""

    full: str
    narrow: dict[str, str]
    expired: str
    revoked: str


@dataclass(frozen=True)
class Sessions:
    """One role's sessions, by what their keys are."""

    full: OpenedSession
    narrow: dict[str, OpenedSession]
    revoked: OpenedSession


@dataclass(frozen=True)
class Studio:
    """A studio with keys of every role, and a key that nobody here has: another's object.

    Seventeen thousand requests go down one plain connection: httpx would take longer to ask than the API to answer.
    """

    line: HTTPConnection
    origin: str
    keys: dict[Role, Keys]
    sessions: dict[Role, Sessions]
    victim: IssuedKey
    source: str

    def ask(
        self,
        path: str,
        method: str,
        *,
        key: str | None,
        object_id: str,
        token: str | None = None,
        session: dict[str, str] | None = None,
    ) -> tuple[int, str]:
        """The status, and the code of the problem where there is one; a stream is not read."""
        address = re.sub(r"\{[^}]+\}", object_id, path)
        headers = session or ({"Origin": self.origin} | ({} if key is None else {"Authorization": f"Bearer {key}"}))
        headers = headers | ({} if token is None else {"x-internal-token": token})
        self.line.request(method, address, headers=headers)
        answer = self.line.getresponse()
        denied = answer.status in DENIED
        if not denied and answer.length is None:
            self.line.close()
            return answer.status, ""
        told = answer.read()
        return answer.status, str(json.loads(told)["code"]) if denied else ""

    def headers_of(self, opened: OpenedSession, *, token: str | None = None) -> dict[str, str]:
        """What a page of ours sends in this session."""
        token = opened.session.csrf_token if token is None else token
        return {"Cookie": f"{COOKIE}={opened.cookie}", "Origin": self.origin, **({CSRF_HEADER: token} if token else {})}


@pytest.fixture(scope="module")
def studio(
    tmp_path_factory: pytest.TempPathFactory,
    new_database: Callable[[], DatabaseUrls],
    drop_database: Callable[[DatabaseUrls], None],
    issue_key: Callable[..., IssuedKey],
    serve: Callable[..., Iterator[httpx.Client]],
) -> Iterator[Studio]:
    urls = new_database()
    settings = Settings(home=tmp_path_factory.mktemp("authorization"), internal_token=TOKEN)

    def issue(role: Role, *scopes: str) -> IssuedKey:
        return issue_key(settings, urls, role=role, scopes=scopes or tuple(f"{scope}:*" for scope in SCOPES))

    def dead(role: Role, statement: str) -> str:
        issued = issue(role)
        with psycopg.connect(urls.owner) as connection:
            connection.execute(statement, (issued.api_key.id,))
        return issued.key

    keys = {
        role: Keys(
            full=issue(role).key,
            narrow={scope: issue(role, f"{scope}:*").key for scope in ("search", "ledger")},
            expired=dead(role, "UPDATE api_keys SET expires_at = now() - interval '1 second' WHERE id = %s"),
            revoked=dead(role, "UPDATE api_keys SET revoked_at = now() WHERE id = %s"),
        )
        for role in Role
    }
    victim = issue(Role.VIEWER)
    with Database(urls) as database, serve(create_app(settings, database=database), key=None) as client:
        with Ledger(urls, settings) as ledger:

            def begin(key: str) -> OpenedSession:
                return ledger.commit(sessions.begin(recognise(database, settings, key), settings)).result(20)

            begun = {
                role: Sessions(
                    begin(keys[role].full),
                    {scope: begin(key) for scope, key in keys[role].narrow.items()},
                    begin(issue(role).key),
                )
                for role in Role
            }
        with psycopg.connect(urls.owner) as connection:
            revoked = [one.revoked.session.key_id for one in begun.values()]
            connection.execute("UPDATE api_keys SET revoked_at = now() WHERE id = ANY(%s)", (revoked,))
        line = HTTPConnection(client.base_url.host, client.base_url.port, timeout=30)
        origin = str(client.base_url).rstrip("/")
        yield Studio(line, origin, keys, begun, victim, _source(settings, database))
        line.close()
    drop_database(urls)


def _source(settings: Settings, database: Database) -> str:
    """The name of a webhook source."""
    with Ledger(database.urls, settings) as ledger, database.snapshot() as connection:
        change = sources.add(connection, local_principal(), settings, name="n8n", job_kind="noop", input_pointer="")
        return ledger.commit(change).result(20).source.name


def test_every_route_asks_for_a_permission_or_is_public() -> None:
    without = {path for path, _, rule in ROUTES if rule is None}
    assert without >= PUBLIC and all(is_public(path) for path in without)
    assert [path for path, _, _ in PROTECTED if is_public(path)] == []
    assert len(PROTECTED) > 10


def test_what_changes_something_takes_more_than_reading() -> None:
    reading = [(path, method) for path, method, rule in PROTECTED if method != "GET" and ":read" in str(rule)]
    # GraphQL reads by POST, too; a reader's goes to a webserver that changes nothing.
    assert reading == [(f"{DAGSTER}/graphql", "POST")]


def test_public_routes_ask_for_nothing(studio: Studio) -> None:
    for path in PUBLIC:
        for key in (None, "nonsense", studio.keys[Role.VIEWER].revoked):
            assert studio.ask(path, "GET", key=key, object_id="")[0] not in DENIED


def test_without_a_known_key_or_session_nothing_is_reached(studio: Studio) -> None:
    key, session = f"stm_{uuid4().hex}_{'a' * 43}", {"Cookie": f"{COOKIE}=sts_{uuid4().hex}_{'a' * 43}"}
    for path, method, _ in PROTECTED:
        mine = str(uuid4())
        assert studio.ask(path, method, key=None, object_id=mine) == (401, "key_missing"), (method, path)
        assert studio.ask(path, method, key=key, object_id=mine) == (401, "key_unknown"), (method, path)
        found = studio.ask(path, method, key=None, object_id=mine, session=session)
        assert found == (401, "session_unknown"), (method, path)


@pytest.mark.parametrize("role", Role)
def test_the_matrix(studio: Studio, role: Role) -> None:
    keys = studio.keys[role]
    wrong = []
    for path, method, rule in PROTECTED:
        has_role = rule.permission is None or role in PERMISSIONS[rule.permission]
        other = "ledger" if str(rule.permission).startswith("search:") else "search"
        lacks_scope = (200, "") if rule.permission is None else (403, "scope_missing" if has_role else "role_forbidden")
        allowed = (200, "") if has_role else (403, "role_forbidden")
        mine = str(uuid4())
        cases = {
            "expired": (keys.expired, mine, (401, "key_expired")),
            "revoked": (keys.revoked, mine, (401, "key_revoked")),
            "wrong scope": (keys.narrow[other], mine, lacks_scope),
            "right": (keys.full, mine, allowed),
        }
        if rule.own is not None:
            cases["another's, wrong scope"] = (keys.narrow[other], str(studio.victim.api_key.id), lacks_scope)
            if not has_role:
                cases["another's, right scope"] = (keys.full, str(studio.victim.api_key.id), allowed)
        for case, (key, object_id, expected) in cases.items():
            found = studio.ask(path, method, key=key, object_id=object_id)
            fits = found == expected if expected[0] in DENIED else found[0] not in {*DENIED, 500}
            if not fits:
                wrong.append((method, path, case, found, expected))
    assert wrong == []


def test_what_schedulers_start_takes_their_token_and_no_key(studio: Studio) -> None:
    assert {path for path, _, _ in SCHEDULED} == {"/api/v1/jobs/{name}/run", "/jobs/{name}/run"}
    every_key = [key for keys in studio.keys.values() for key in (keys.full, *keys.narrow.values(), keys.revoked)]
    for path, method, rule in SCHEDULED:
        assert rule.permission == "jobs:write"
        for key in (None, "nonsense", *every_key):
            missing = studio.ask(path, method, key=key, object_id="reread_sources")
            wrong = studio.ask(path, method, key=key, object_id="reread_sources", token=TOKEN[:-1])
            assert (missing, wrong) == ((401, "internal_token_missing"), (401, "internal_token_invalid"))
        assert studio.ask(path, method, key=None, object_id="nothing", token=TOKEN) == (404, "")
    for path, method, _ in PROTECTED:
        assert studio.ask(path, method, key=None, object_id=str(uuid4()), token=TOKEN) == (401, "key_missing")


def test_webhooks_take_the_signature_of_their_source_and_no_key(studio: Studio) -> None:
    every_key = [key for keys in studio.keys.values() for key in (keys.full, *keys.narrow.values(), keys.revoked)]
    for key in (None, "nonsense", *every_key):
        asked = studio.ask(SIGNED + "{source}", "POST", key=key, object_id=studio.source)
        assert asked == (401, "webhook_headers_missing")
    assert [(path, method) for path, method, _ in ROUTES if path.startswith(SIGNED)] == [(SIGNED + "{source}", "POST")]


@pytest.mark.parametrize("role", Role)
def test_the_matrix_by_sessions(studio: Studio, role: Role) -> None:
    begun = studio.sessions[role]
    wrong = []
    for path, method, rule in PROTECTED:
        has_role = rule.permission is None or role in PERMISSIONS[rule.permission]
        other = "ledger" if str(rule.permission).startswith("search:") else "search"
        lacks_scope = (200, "") if rule.permission is None else (403, "scope_missing" if has_role else "role_forbidden")
        cases = {"revoked": (studio.headers_of(begun.revoked), (401, "session_key_revoked"))}
        # What ends the session would end it for the routes after it.
        if path != "/sign-out":
            cases["wrong scope"] = (studio.headers_of(begun.narrow[other]), lacks_scope)
            cases["right"] = (studio.headers_of(begun.full), (200, "") if has_role else (403, "role_forbidden"))
        if method != "GET":
            origin = {name: value for name, value in studio.headers_of(begun.full).items() if name != "Origin"}
            cases["no origin"] = (origin, (403, "origin_foreign"))
        if method != "GET" and not path.startswith(DAGSTER):
            cases["no token"] = (studio.headers_of(begun.full, token=""), (403, "csrf_token_missing"))
            cases["another's token"] = (
                studio.headers_of(begun.full, token=begun.revoked.session.csrf_token),
                (403, "csrf_token_invalid"),
            )
        for case, (headers, expected) in cases.items():
            found = studio.ask(path, method, key=None, object_id=str(uuid4()), session=headers)
            fits = found == expected if expected[0] in DENIED else found[0] not in {*DENIED, 500}
            if not fits:
                wrong.append((method, path, case, found, expected))
    assert wrong == []


def test_another_s_object_was_left_alone(studio: Studio) -> None:
    """After the whole matrix."""
    assert studio.ask("/api/v1/keys/me", "GET", key=studio.victim.key, object_id="") == (200, "")


@pytest.mark.parametrize(
    ("path", "method"), [(path, method) for path, method, rule in PROTECTED if rule.own is not None]
)
def test_a_key_needs_no_permission_for_itself(
    settings: Settings,
    database: Database,
    issue_key: Callable[..., IssuedKey],
    serve: Callable[..., Iterator[httpx.Client]],
    path: str,
    method: str,
) -> None:
    issued = issue_key(settings, database.urls, role=Role.VIEWER, scopes=["search:read"])
    with serve(create_app(settings, database=database), key=issued.key) as client:
        assert client.request(method, path.replace("{id}", str(issued.api_key.id))).status_code == 200
        assert client.get("/api/v1/keys/me").status_code == 401
