"""Sessions over HTTP: signing in and out, what a browser has to show, and how a session ends."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any
from urllib.parse import parse_qs, urljoin, urlsplit

import httpx
import psycopg
import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.testclient import TestClient, WebSocketDenialResponse
from starlette.websockets import WebSocketDisconnect

from api.app import create_app
from api.sessions import COOKIE, local_path
from stemma.access import links
from stemma.access.keys import IssuedKey
from stemma.access.links import SignInLink
from stemma.access.permissions import Role
from stemma.access.principal import local_principal
from stemma.ledger.service import Ledger
from stemma.store.database import Database, DatabaseUrls
from stemma.store.settings import Settings

HTML = {"accept": "text/html,application/xhtml+xml,*/*;q=0.8"}
SESSION, KEYS, SOURCES = "/api/v1/session", "/api/v1/keys", "/api/v1/sources"


def code(response: httpx.Response) -> tuple[int, str]:
    assert response.headers["content-type"] == "application/problem+json", response.text
    return response.status_code, response.json()["code"]


class Browser:
    """A client that keeps cookies, and sends the Origin of its page with what it posts."""

    def __init__(self, address: httpx.URL) -> None:
        self.client = httpx.Client(base_url=address, timeout=30, trust_env=False)
        self.origin = {"Origin": str(address).rstrip("/")}

    def sign_in(self, key: str, **more: str) -> httpx.Response:
        return self.client.post("/sign-in", data={"key": key, **more}, headers=self.origin)

    def get(self, path: str, **headers: str) -> httpx.Response:
        return self.client.get(path, headers=headers)

    def token(self) -> str:
        return str(self.get(SESSION).json()["session"]["csrf_token"])

    def post(self, path: str, headers: Mapping[str, str | bytes] | None = None, **more: Any) -> httpx.Response:
        return self.client.post(path, headers={**self.origin, **(headers or {})}, **more)


@pytest.fixture(scope="module")
def studio(
    tmp_path_factory: pytest.TempPathFactory,
    new_database: Callable[[], DatabaseUrls],
    drop_database: Callable[[DatabaseUrls], None],
) -> Iterator[tuple[Settings, Database]]:
    urls = new_database()
    settings = Settings(home=tmp_path_factory.mktemp("sessions"))
    with Database(urls) as database:
        yield settings, database
    drop_database(urls)


@pytest.fixture(scope="module")
def issue(studio: tuple[Settings, Database], issue_key: Callable[..., IssuedKey]) -> Callable[..., IssuedKey]:
    settings, database = studio
    return lambda **more: issue_key(settings, database.urls, **more)


@pytest.fixture(scope="module")
def api(studio: tuple[Settings, Database], serve: Callable[..., Any]) -> Iterator[httpx.Client]:
    """A client without a key."""
    settings, database = studio
    with serve(create_app(settings, database=database), key=None) as client:
        yield client


@pytest.fixture
def browser(api: httpx.Client) -> Iterator[Browser]:
    opened = Browser(api.base_url)
    yield opened
    opened.client.close()


@pytest.fixture
def change(studio: tuple[Settings, Database]) -> Callable[..., None]:
    """Run a statement as the owner."""

    def run(statement: str, *values: Any) -> None:
        with psycopg.connect(studio[1].urls.owner) as connection:
            connection.execute(statement, values)

    return run


def test_a_key_is_traded_for_a_session(browser: Browser, issue: Callable[..., IssuedKey]) -> None:
    issued = issue(role=Role.VIEWER, scopes=["search:*"])
    answer = browser.sign_in(issued.key, next="/jobs?state=done")
    assert (answer.status_code, answer.headers["location"]) == (303, "/jobs?state=done")
    cookie = answer.headers["set-cookie"]
    assert cookie.startswith(f"{COOKIE}=sts_") and {"HttpOnly", "Path=/", "SameSite=strict"} <= set(cookie.split("; "))
    assert "Secure" not in cookie and "Max-Age" not in cookie and issued.key not in cookie
    me = browser.get(SESSION).json()
    assert (me["actor"], me["role"], me["scopes"]) == (f"key:{issued.api_key.id}", "Viewer", ["search:*"])
    assert browser.get(f"{KEYS}/me").json()["id"] == str(issued.api_key.id)
    assert code(browser.get(KEYS)) == (403, "role_forbidden")


@pytest.fixture
def make_link(studio: tuple[Settings, Database]) -> Callable[[], SignInLink]:
    settings, database = studio

    def make() -> SignInLink:
        change = database.read(lambda connection: links.make_link(connection, local_principal(), settings))
        with Ledger(database.urls, settings) as ledger:
            return ledger.commit(change).result(20)

    return make


@pytest.fixture
def signed_in(browser: Browser, issue: Callable[..., IssuedKey]) -> IssuedKey:
    issued = issue()
    assert browser.sign_in(issued.key).status_code == 303
    return issued


@pytest.mark.usefixtures("signed_in")
def test_a_key_in_the_header_counts_alone(browser: Browser, issue: Callable[..., IssuedKey]) -> None:
    other = issue(role=Role.VIEWER, scopes=["search:read"])
    me = browser.get(SESSION, authorization=f"Bearer {other.key}").json()
    assert (me["actor"], me["session"]) == (f"key:{other.api_key.id}", None)
    assert code(browser.get(SESSION, authorization="Bearer nonsense")) == (401, "key_malformed")
    put = browser.client.post(KEYS, json={}, headers={"Authorization": f"Bearer {other.key}"})
    assert code(put) == (403, "role_forbidden")


@pytest.mark.usefixtures("signed_in")
def test_what_changes_something_shows_that_our_page_sent_it(browser: Browser) -> None:
    wanted = {"name": "made", "role": "Viewer", "scopes": ["search:read"]}
    token = {"X-CSRF-Token": browser.token()}
    assert browser.post(KEYS, token, json=wanted).status_code == 201
    assert code(browser.post(KEYS, json=wanted)) == (403, "csrf_token_missing")
    assert code(browser.post(KEYS, {"X-CSRF-Token": "x"}, json=wanted)) == (403, "csrf_token_invalid")
    assert code(browser.post(KEYS, {"X-CSRF-Token": b"\xe9"}, json=wanted)) == (403, "csrf_token_invalid")
    assert code(browser.client.post(KEYS, json=wanted, headers=token)) == (403, "origin_foreign")
    told = {"Sec-Fetch-Site": "same-origin"}
    assert browser.client.post(KEYS, json=wanted, headers={**token, **told}).status_code == 201
    for origin in ("http://evil.example", "null", "http://127.0.0.1:1", f"{browser.origin['Origin']}.evil.example"):
        refused = browser.client.post(KEYS, json=wanted, headers={**token, **told, "Origin": origin})
        assert code(refused) == (403, "origin_foreign")


@pytest.mark.usefixtures("signed_in")
def test_a_form_may_bring_the_token_in_a_field(browser: Browser) -> None:
    assert code(browser.post("/sign-out", data={"csrf_token": "wrong"})) == (403, "csrf_token_invalid")
    assert code(browser.post("/sign-out", data={"other": "1"})) == (403, "csrf_token_missing")
    many = {f"f{number}": "" for number in range(2000)}
    assert code(browser.post("/sign-out", data={**many, "csrf_token": "x"})) == (403, "csrf_token_missing")
    token = browser.token()
    form = {"content-type": "application/x-www-form-urlencoded; charset=utf-8"}
    parts = iter([b"a=1&csrf_", f"token={token}".encode()])
    assert browser.post("/sign-out", form, content=parts).status_code == 303


@pytest.mark.usefixtures("signed_in")
def test_a_form_without_announced_length_has_a_limit(browser: Browser) -> None:
    form = {"content-type": "application/x-www-form-urlencoded"}
    parts = (b"a" * 65_536 for _ in range(20))
    assert code(browser.post("/sign-out", form, content=parts)) == (413, "body_too_large")


@pytest.mark.usefixtures("signed_in")
def test_a_body_reaches_its_route_whole_after_the_token_was_found(browser: Browser) -> None:
    """A form where JSON is wanted: the route says so, having seen it."""
    form = {"content-type": "application/x-www-form-urlencoded"}
    refused = browser.post(KEYS, form, content=f"csrf_token={browser.token()}&name=x")
    assert code(refused) == (422, "request_invalid")


def test_signing_out_ends_the_session_and_copies_of_its_cookie(browser: Browser, signed_in: IssuedKey) -> None:
    copy = browser.client.cookies[COOKIE]
    answer = browser.post("/sign-out", data={"csrf_token": browser.token()})
    assert (answer.status_code, answer.headers["location"]) == (303, "/sign-in")
    assert 'stemma_session="";' in answer.headers["set-cookie"] and "Max-Age=0" in answer.headers["set-cookie"]
    assert COOKIE not in browser.client.cookies
    assert code(browser.get(SESSION, cookie=f"{COOKIE}={copy}")) == (401, "session_ended")
    assert code(browser.post("/sign-out", {"Authorization": f"Bearer {signed_in.key}"})) == (409, "no_session")


def test_a_session_whose_key_was_revoked_says_so(browser: Browser, signed_in: IssuedKey) -> None:
    token = browser.token()
    assert (
        browser.client.request(
            "DELETE", f"{KEYS}/{signed_in.api_key.id}", headers={**browser.origin, "X-CSRF-Token": token}
        ).status_code
        == 200
    )
    refused = browser.get(SESSION)
    assert code(refused) == (401, "session_key_revoked")
    assert (refused.json()["detail"], refused.json()["hint"]) == (
        "The key of this session was revoked.",
        "Sign in again.",
    )
    assert code(browser.post(KEYS, {"X-CSRF-Token": token}, json={})) == (401, "session_key_revoked")
    away = browser.get("/api/v1/session?a=1&b=%2F", **HTML)
    where = urlsplit(away.headers["location"])
    assert (away.status_code, where.path) == (303, "/sign-in")
    assert parse_qs(where.query) == {"next": ["/api/v1/session?a=1&b=%2F"], "reason": ["session_key_revoked"]}
    assert COOKIE not in browser.client.cookies
    page = browser.get(away.headers["location"], **HTML)
    assert page.status_code == 200 and "The key of this session was revoked." in page.text
    assert 'value="/api/v1/session?a=1&amp;b=%2F"' in page.text


@pytest.mark.parametrize(
    ("statement", "expected"),
    [
        ("UPDATE api_keys SET rotated_at = now() WHERE id = %s", "session_key_rotated"),
        ("UPDATE api_keys SET expires_at = now() WHERE id = %s", "session_key_expired"),
        ("UPDATE sessions SET expires_at = now() WHERE key_id = %s", "session_expired"),
        ("UPDATE sessions SET last_used_at = now() - interval '8 hours' WHERE key_id = %s", "session_expired"),
        ("DELETE FROM sessions WHERE key_id = %s", "session_unknown"),
    ],
)
def test_a_session_ends(
    browser: Browser, signed_in: IssuedKey, change: Callable[..., None], statement: str, expected: str
) -> None:
    assert browser.get(SESSION).status_code == 200
    change(statement, signed_in.api_key.id)
    assert code(browser.get(SESSION)) == (401, expected)


def test_a_cookie_that_is_not_exact_is_unknown(browser: Browser, signed_in: IssuedKey) -> None:
    cookie = browser.client.cookies[COOKIE]
    other = cookie[:-1] + ("A" if cookie[-1] != "A" else "B")
    for wrong in (other, cookie.replace("sts_", "stm_"), signed_in.key, cookie + "a", "", "x" * 5000):
        refused = httpx.get(browser.client.base_url.join(SESSION), headers={"Cookie": f"{COOKIE}={wrong}"})
        assert code(refused) == (401, "session_unknown")


def test_who_looks_at_a_page_without_a_session_is_sent_to_sign_in(browser: Browser) -> None:
    away = browser.get("/jobs?state=done", **HTML)
    assert (away.status_code, away.headers["location"]) == (303, "/sign-in?next=/jobs%3Fstate%3Ddone")
    assert "set-cookie" not in away.headers
    assert code(browser.get("/jobs")) == (401, "key_missing")
    assert code(browser.get("/jobs", accept="*/*")) == (401, "key_missing")
    for answer, why in (
        (browser.get("/jobs", **HTML, **{"HX-Request": "true"}), "key_missing"),
        (browser.get("/jobs", **HTML, authorization="Bearer x"), "key_malformed"),
        (browser.post("/jobs", HTML), "key_missing"),
    ):
        assert answer.status_code == 401 and f"<code>{why}</code>" in answer.text


def test_a_wrong_key_is_told_on_the_page(browser: Browser) -> None:
    for key, told in (("", "no API key"), ("<b>", "no API key"), (f"stm_{'0' * 32}_{'a' * 43}", "not known")):
        page = browser.sign_in(key, next="//evil.example")
        assert page.status_code == 401 and told in page.text and "set-cookie" not in page.headers
        assert "evil" not in page.text and "<b>" not in page.text
    assert code(browser.client.post("/sign-in", headers={"Origin": "http://evil.example"})) == (403, "origin_foreign")


def test_a_key_for_signed_requests_alone_is_not_traded(browser: Browser, issue: Callable[..., IssuedKey]) -> None:
    assert "signed requests" in browser.sign_in(issue(signed_only=True).key).text


def test_guessing_gets_no_answers_after_a_while(
    studio: tuple[Settings, Database], serve: Callable[..., Any], issue: Callable[..., IssuedKey]
) -> None:
    settings, database = studio
    few = settings.model_copy(update={"api_failures_per_minute": 3})
    with serve(create_app(few, database=database), key=None) as client:
        guesses = Browser(client.base_url)
        assert [guesses.sign_in("stm_guess").status_code for _ in range(4)] == [401, 401, 401, 429]
        assert [guesses.post("/sign-in/stl_guess").status_code, guesses.get(SESSION).status_code] == [429, 429]
        assert guesses.sign_in(issue().key).status_code == 303
        guesses.client.close()


def test_a_link_signs_in_once_and_not_by_being_looked_at(browser: Browser, make_link: Callable[[], SignInLink]) -> None:
    path = urlsplit(make_link().url).path
    for _ in range(2):
        page = browser.get(path, **HTML)
        assert page.status_code == 200 and f'action="{path}"' in page.text and "set-cookie" not in page.headers
    assert (answer := browser.post(path)).status_code == 303 and answer.headers["location"] == "/"
    me = browser.get(SESSION).json()
    assert me["role"] == "SUPER_ADMIN" and "admin:*" in me["scopes"]
    browser.client.cookies.clear()
    again = browser.post(path)
    assert again.status_code == 401 and "used already" in again.text and "set-cookie" not in again.headers


def test_a_link_expires_and_is_nothing_else(
    browser: Browser, make_link: Callable[[], SignInLink], change: Callable[..., None], issue: Callable[..., IssuedKey]
) -> None:
    link = make_link()
    change("UPDATE sign_in_links SET expires_at = now() WHERE id = %s", link.id)
    assert "expired" in browser.post(urlsplit(link.url).path).text
    for token in ("x", f"stl_{'0' * 32}_{'a' * 43}", issue().key, '"><script>'):
        refused = browser.post(f"/sign-in/{token}")
        assert refused.status_code == 401 and "not known" in refused.text and "<script>" not in refused.text
    assert "<script>" not in browser.get('/sign-in/"><script>').text


def test_pages_run_and_load_nothing_foreign(browser: Browser, make_link: Callable[[], SignInLink]) -> None:
    for path in ("/sign-in", urlsplit(make_link().url).path):
        page = browser.get(path, **HTML)
        policy = dict(part.split(" ", 1) for part in page.headers["content-security-policy"].split("; "))
        assert policy["default-src"] == policy["frame-ancestors"] == policy["base-uri"] == "'none'"
        assert not re.search(r"unsafe|https?:", page.headers["content-security-policy"])
        assert not re.search(r"<script(?! src=\"/static/)|style=|<style|https?://", page.text)
        assert page.headers["referrer-policy"] == page.headers["cross-origin-opener-policy"] == "same-origin"
        assert (page.headers["x-content-type-options"], page.headers["cache-control"]) == ("nosniff", "no-store")
    assert "content-security-policy" not in browser.get("/healthz").headers


def test_a_websocket_needs_a_session_and_a_page_of_ours(
    studio: tuple[Settings, Database], browser: Browser, signed_in: IssuedKey
) -> None:
    """No route takes one here: who is let through finds nothing (1000), the others are refused with a problem."""
    settings, database = studio
    cookie, ours = f"{COOKIE}={browser.client.cookies[COOKIE]}", "http://127.0.0.1:8400"
    where = ours.replace("http", "ws") + "/dagster"
    with TestClient(create_app(settings, database=database)) as client:

        def ended(**headers: str) -> int:
            with pytest.raises(WebSocketDisconnect) as caught, client.websocket_connect(where, headers=headers):
                pass
            refused = isinstance(caught.value, WebSocketDenialResponse)
            return caught.value.status_code if refused else caught.value.code

        assert ended(cookie=cookie, origin=ours) == ended(authorization=f"Bearer {signed_in.key}") == 1000
        assert ended(origin=ours) == ended(cookie=f"{COOKIE}=x", origin=ours) == 401
        assert ended(cookie=cookie) == ended(cookie=cookie, origin="http://evil.example") == 403
        assert ended(cookie=cookie, origin=ours, host="evil.example") == 421


BASE = "http://127.0.0.1:8400/sign-in"


@given(st.text() | st.text("/\\:.@?#\t\n abcevil%2F", max_size=12).map(lambda rest: f"/{rest}"))
def test_after_signing_in_one_stays_here(wanted: str) -> None:
    found = local_path(wanted)
    # As browsers read it: tabs and line ends are dropped, a backslash is a slash.
    as_read = re.sub(r"[\t\r\n]", "", found).replace("\\", "/")
    assert as_read.startswith("/") and urlsplit(urljoin(BASE, as_read)).netloc == "127.0.0.1:8400"
    assert found in (wanted, "/")


@pytest.mark.parametrize(
    "wanted", ["//evil", "/\\evil", "/\t/evil", "https://evil", "javascript:1", "evil", "", " /a", "/a b", "/\u00e9"]
)
def test_places_that_are_not_ours_are_the_start_page(wanted: str) -> None:
    assert local_path(wanted) == "/"


def test_places_of_ours_are_kept() -> None:
    for wanted in ("/", "/jobs?state=done&q=a%20b", "/runs/1#log", "/dagster//x"):
        assert local_path(wanted) == wanted
