"""Sessions over HTTP: signing in and out, what a browser has to show, and how a session ends."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import httpx
import psycopg
import pytest

from api.app import create_app
from api.sessions import COOKIE
from stemma.access.keys import IssuedKey
from stemma.access.permissions import Role
from stemma.store.database import Database, DatabaseUrls
from stemma.store.settings import Settings

HTML = {"Accept": "text/html,application/xhtml+xml,*/*;q=0.8"}
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

    def post(self, path: str, headers: dict[str, str] | None = None, **more: Any) -> httpx.Response:
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
