"""The authorization matrix: every route × every role × every state of a key, made from the route table.

What is expected is worked out here from `PERMISSIONS`. A route that asks for no permission and is not public fails.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final
from uuid import uuid4

import httpx
import psycopg
import pytest

from api.access import PUBLIC, rules
from api.app import create_app
from stemma.access.keys import IssuedKey
from stemma.access.permissions import PERMISSIONS, SCOPES, Role
from stemma.store.database import Database, DatabaseUrls
from stemma.store.settings import Settings

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
class Studio:
    """A studio with keys of every role, and a key that nobody here has: another's object."""

    client: httpx.Client
    keys: dict[Role, Keys]
    victim: IssuedKey

    def ask(
        self, path: str, method: str, *, key: str | None, object_id: str, token: str | None = None
    ) -> tuple[int, str]:
        """The status, and the code of the problem where there is one; a stream is not read."""
        address = re.sub(r"\{[^}]+\}", object_id, path)
        headers = {} if key is None else {"Authorization": f"Bearer {key}"}
        headers |= {} if token is None else {"x-internal-token": token}
        with self.client.stream(method, address, headers=headers) as answer:
            if answer.status_code not in DENIED:
                return answer.status_code, ""
            answer.read()
            return answer.status_code, str(answer.json()["code"])


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
        yield Studio(client, keys, victim)
    drop_database(urls)


def test_every_route_asks_for_a_permission_or_is_public() -> None:
    without = {path for path, _, rule in ROUTES if rule is None}
    assert without == PUBLIC
    assert len(PROTECTED) > 10


def test_what_changes_something_takes_more_than_reading() -> None:
    reading = [(path, method) for path, method, rule in PROTECTED if method != "GET" and ":read" in str(rule)]
    assert reading == []


def test_public_routes_ask_for_nothing(studio: Studio) -> None:
    for path in PUBLIC:
        for key in (None, "nonsense", studio.keys[Role.VIEWER].revoked):
            assert studio.ask(path, "GET", key=key, object_id="")[0] not in DENIED


@pytest.mark.parametrize("role", Role)
def test_the_matrix(studio: Studio, role: Role) -> None:
    keys = studio.keys[role]
    unknown = f"stm_{uuid4().hex}_{'a' * 43}"
    wrong = []
    for path, method, rule in PROTECTED:
        has_role = rule.permission is None or role in PERMISSIONS[rule.permission]
        other = "ledger" if str(rule.permission).startswith("search:") else "search"
        lacks_scope = (200, "") if rule.permission is None else (403, "scope_missing" if has_role else "role_forbidden")
        allowed = (200, "") if has_role else (403, "role_forbidden")
        mine = str(uuid4())
        cases = {
            "no key": (None, mine, (401, "key_missing")),
            "unknown": (unknown, mine, (401, "key_unknown")),
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
