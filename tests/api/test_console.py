"""The console without a browser: files, forms, themes, what each principal sees, and errors as pages."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from datetime import UTC, datetime, timedelta

import httpx
import pytest

from api.app import create_app
from api.console import files, rendering, vendor
from api.console.charts import Bar, bars
from api.sessions import COOKIE, UPLOADS
from stemma.access import sessions
from stemma.access.authentication import recognise
from stemma.access.keys import IssuedKey
from stemma.access.permissions import Role
from stemma.access.sessions import OpenedSession
from stemma.errors import CheckFailed
from stemma.ledger.journal import transition
from stemma.ledger.service import Ledger
from stemma.store.database import Database, DatabaseUrls
from stemma.store.settings import Settings

HTML = {"Accept": "text/html,application/xhtml+xml,*/*;q=0.8"}
Serve = Callable[..., AbstractContextManager[httpx.Client]]


@pytest.fixture(scope="module")
def desk(
    tmp_path_factory: pytest.TempPathFactory,
    new_database: Callable[[], DatabaseUrls],
    drop_database: Callable[[DatabaseUrls], None],
    serve: Serve,
) -> Iterator[httpx.Client]:
    """A client of an empty studio that bears a key which may do everything, and asks for pages."""
    urls = new_database()
    settings = Settings(home=tmp_path_factory.mktemp("console"), max_document_bytes=1000)
    with Database(urls) as database, serve(create_app(settings, database=database)) as client:
        client.headers.update(HTML)
        yield client
    drop_database(urls)


def test_a_new_studio_says_what_to_do(desk: httpx.Client) -> None:
    page = desk.get("/")
    assert page.status_code == 200
    assert "What to do next" in page.text and "stemma materialize" in page.text
    assert "Nothing has been indexed yet." in page.text


def test_a_page_that_is_kept_is_asked_for_by_its_etag(desk: httpx.Client) -> None:
    first = desk.get("/approvals")
    assert first.headers["Content-Encoding"] == "gzip"
    again = desk.get("/approvals", headers={"If-None-Match": first.headers["ETag"]})
    assert (again.status_code, again.content) == (304, b"")


def test_what_went_wrong_is_on_the_overview(settings: Settings, database: Database, serve: Serve) -> None:
    data = {"status": "degraded", "detail": "9 of 20 answered <5xx>."}
    alert = transition("alert", subject="service/api", actor="health", data=data)
    with Ledger(database.urls, settings) as ledger:
        ledger.append([alert]).result(20)
    with serve(create_app(settings, database=database)) as client:
        assert "9 of 20 answered &lt;5xx&gt;." in client.get("/", headers=HTML).text


def test_files_are_kept_for_ever_under_their_version(desk: httpx.Client) -> None:
    kept = desk.get(files.address("base.css"))
    assert kept.headers["Cache-Control"] == "public, max-age=31536000, immutable"
    assert kept.headers["Content-Encoding"] == "gzip"
    assert desk.get("/static/older/base.css").headers["Cache-Control"] == "no-cache"
    plain = desk.get(files.address("base.css"), headers={"Accept-Encoding": "identity"})
    assert plain.content == kept.content and "Content-Encoding" not in plain.headers
    for missing in ("nothing.css", "vendor/vendor.json", "../rendering.py", "%2e%2e/rendering.py"):
        assert desk.get(f"/static/{files.version()}/{missing}").status_code == 404


def test_the_theme_is_a_cookie_that_works_without_a_script(desk: httpx.Client) -> None:
    with httpx.Client(base_url=desk.base_url, headers=desk.headers, trust_env=False) as browser:
        answer = browser.post("/theme", data={"theme": "narco-noir", "back": "/keys/new?x=1"})
        assert (answer.status_code, answer.headers["Location"]) == (303, "/keys/new?x=1")
        assert 'data-theme="narco-noir"' in browser.get("/keys/new").text
        browser.post("/theme", data={"theme": "auto"})
        assert "data-theme" not in browser.get("/keys/new").text
        assert browser.post("/theme", data={"theme": "beige"}).status_code == 422
        for elsewhere in ("//example.org", "https://example.org", "/\\example.org", ""):
            answer = browser.post("/theme", data={"theme": "auto", "back": elsewhere})
            assert answer.headers["Location"] == "/"


def test_a_key_is_created_by_a_form_and_shown_once(desk: httpx.Client) -> None:
    page = desk.post("/keys", data={"name": "ci <b>", "role": "Viewer", "scopes": ["search:*"], "expires_on": ""})
    assert page.status_code == 200 and page.headers["Cache-Control"] == "no-store"
    assert "stm_" in page.text and "ci &lt;b&gt;" in page.text and "<b>" not in page.text
    key = page.text[page.text.index("stm_") :].partition("<")[0]
    asked = {"Authorization": f"Bearer {key}"}
    assert desk.get("/api/v1/keys/me", headers=asked).json()["name"] == "ci <b>"
    assert key not in desk.get("/keys").text
    # A Viewer with one scope is shown that alone, and what else it asks for is refused by a page.
    shown = desk.get("/", headers=asked).text
    assert 'href="/search"' in shown and 'href="/keys"' not in shown and "Ledger entries" not in shown
    refused = desk.get("/keys", headers=asked)
    assert refused.status_code == 403 and "role_forbidden" in refused.text and "<h1>" in refused.text


def test_a_form_that_is_sent_twice_makes_one_key(desk: httpx.Client) -> None:
    def token() -> str:
        return desk.get("/keys/new").text.partition('name="once" value="')[2].partition('"')[0]

    form = {"name": "twice", "role": "Viewer", "scopes": "search:*", "once": token()}
    assert form["once"] != token()
    first, again = desk.post("/keys", data=form), desk.post("/keys", data=form)
    assert first.status_code == 200 and "stm_" in first.text
    assert (again.status_code, again.headers["Location"]) == (303, "/keys")
    assert "made one key" in desk.get("/keys").text and "stm_" not in again.text
    desk.cookies.clear()
    assert [key["name"] for key in desk.get("/api/v1/keys").json()["data"]].count("twice") == 1
    other = desk.post("/keys", data=form | {"name": "other"})
    assert other.status_code == 422 and "form_reused" in other.text
    # What was refused made nothing, and may be sent again under its token.
    late = form | {"once": token(), "role": "King"}
    assert desk.post("/keys", data=late).status_code == 422
    assert desk.post("/keys", data=late | {"role": "Viewer"}).status_code == 200


def test_a_form_that_is_sent_twice_queues_one_job(desk: httpx.Client) -> None:
    page = desk.get("/jobs/new", params={"kind": "noop"}).text
    form = {"kind": "noop", "once": page.partition('name="once" value="')[2].partition('"')[0]}
    first, again = desk.post("/jobs", data=form), desk.post("/jobs", data=form)
    desk.cookies.clear()
    assert first.status_code == again.status_code == 303
    assert first.headers["Location"] == again.headers["Location"]
    assert len(desk.get("/api/v1/jobs").json()["data"]) == 1
    assert desk.post("/jobs", data=form | {"priority": "5"}).status_code == 422


@pytest.mark.parametrize(
    ("field", "form"),
    [
        ("name", {"name": " ", "role": "Viewer", "scopes": "search:*"}),
        ("role", {"name": "x", "role": "King", "scopes": "search:*"}),
        ("scopes", {"name": "x", "role": "Viewer"}),
        ("scopes", {"name": "x", "role": "Viewer", "more_scopes": "search:fly"}),
        ("expires_at", {"name": "x", "role": "Viewer", "scopes": "search:*", "expires_on": "2001-01-01"}),
        ("expires_at", {"name": "x", "role": "Viewer", "scopes": "search:*", "expires_on": "soon"}),
    ],
)
def test_a_form_says_what_is_wrong_with_it_and_keeps_the_rest(
    desk: httpx.Client, field: str, form: dict[str, str]
) -> None:
    page = desk.post("/keys", data=form)
    assert page.status_code == 422
    assert page.text.count('class="wrong"') == 1
    assert f'value="{form["name"]}"' in page.text


def test_rotating_and_revoking_ask_first(desk: httpx.Client) -> None:
    created = desk.post("/keys", data={"name": "short-lived", "role": "Viewer", "scopes": "search:*"}).text
    key_id = created[created.index("<dt>Id</dt>") :].split("<code>")[1].partition("<")[0]
    assert "Rotate short-lived" in desk.get(f"/keys/{key_id}/rotate").text
    assert "stm_" in desk.post(f"/keys/{key_id}/rotate").text
    revoked = desk.post(f"/keys/{key_id}/revoke")
    assert (revoked.status_code, revoked.headers["Location"]) == (303, "/keys")
    said = desk.get("/keys", headers={"Cookie": f"stemma_flash={revoked.cookies['stemma_flash']}"})
    assert "The key short-lived is revoked." in said.text
    assert 'stemma_flash=""' in said.headers["Set-Cookie"]
    desk.cookies.clear()
    again = desk.post(f"/keys/{key_id}/rotate")
    assert again.status_code == 409 and "Create a new one." in again.text


def test_an_upload_lands_in_the_inbox_or_says_why_not(desk: httpx.Client) -> None:
    def send(name: str, content: bytes, **fields: str) -> httpx.Response:
        answer = desk.post("/search/upload", files={"file": (name, content)}, data=fields)
        desk.cookies.clear()
        return answer

    assert send("notes.md", b"# Notes\n").headers["Location"] == "/search"
    assert "already has a different notes.md" in send("notes.md", b"# Other\n").text
    assert send("notes.md", b"# Other\n", replace="true").status_code == 303
    for name, content, status, why in (
        ("empty.md", b"", 422, "The file is empty."),
        ("big.md", b"x" * 1001, 413, "larger than 1000 bytes"),
        ("run.exe", b"MZ\0\0", 415, "Supported are"),
        ("../up.md", b"x", 422, "holds a path"),
    ):
        page = send(name, content)
        assert page.status_code == status, name
        assert why in page.text, name
    assert "No file was chosen." in desk.post("/search/upload").text


def test_a_search_that_cannot_be_answered_says_what_to_do(desk: httpx.Client) -> None:
    page = desk.get("/search", params={"q": "anything"})
    assert page.status_code == 503
    assert "stemma materialize" in page.text and 'value="anything"' in page.text


def test_problems_are_pages_for_browsers_and_json_for_programs(desk: httpx.Client) -> None:
    page = desk.get("/nothing/here")
    assert page.status_code == 404 and page.headers["Content-Type"].startswith("text/html")
    assert "not_found" in page.text and page.headers["X-Request-ID"] in page.text
    part = desk.get("/nothing/here", headers={"HX-Request": "true"})
    assert part.headers["HX-Retarget"] == "#content"
    for path, accept in (("/api/v1/nothing", HTML["Accept"]), ("/nothing/here", "application/json")):
        answer = desk.get(path, headers={"Accept": accept})
        assert answer.json()["code"] == "not_found"
    told = desk.get("/search/documents/999999")
    assert told.status_code == 404 and "search again" in told.text
    assert desk.get("/search", params={"mode": "magic"}).status_code == 422


def test_a_file_sent_in_a_session_takes_the_token_of_its_form(
    settings: Settings, database: Database, issue_key: Callable[..., IssuedKey], serve: Serve
) -> None:
    issued = issue_key(settings, database.urls)
    with Ledger(database.urls, settings) as ledger:
        begun = sessions.begin(recognise(database, settings, issued.key), settings)
        opened: OpenedSession = ledger.commit(begun).result(20)
    with serve(create_app(settings, database=database), key=None) as client:
        client.headers.update({**HTML, "Origin": str(client.base_url).rstrip("/")})
        cookie = {"Cookie": f"{COOKIE}={opened.cookie}"}
        file = {"file": ("notes.md", b"# Notes\n")}
        token = opened.session.csrf_token
        assert token in client.get("/search", headers=cookie).text
        for path in UPLOADS:
            for wrong in ({}, {"csrf_token": "x"}):
                refused = client.post(path, files=file, data=wrong, headers=cookie)
                assert refused.status_code == 403 and "csrf_token" in refused.text
        # Nowhere else is the field of such a form looked at.
        elsewhere = client.post("/api/v1/documents", files=file, data={"csrf_token": token}, headers=cookie)
        assert elsewhere.status_code == 403
        assert list(settings.inbox.rglob("notes.md")) == []
        sent = client.post("/search/upload", files=file, data={"csrf_token": token}, headers=cookie)
        assert sent.status_code == 303
        revoked = client.post(f"/keys/{issued.api_key.id}/revoke", data={"csrf_token": token}, headers=cookie)
        assert revoked.status_code == 303
        over = client.get("/keys", headers=cookie)
        assert over.headers["Location"] == "/sign-in?next=/keys&reason=session_key_revoked"
        assert "The key of this session was revoked." in client.get(over.headers["Location"]).text
        # A form that was open meanwhile gets a page, which no redirect could be.
        late = client.post("/theme", data={"csrf_token": token, "theme": "auto"}, headers=cookie)
        assert late.status_code == 401 and 'href="/sign-in"' in late.text


def test_the_shell_says_who_asks_and_offers_no_way_out_of_a_key(desk: httpx.Client) -> None:
    assert Role.OWNER in desk.get("/").text
    assert "/sign-out" not in desk.get("/").text


def test_vendored_files_are_those_of_the_manifest(monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:
    vendor.check()
    for library in vendor.libraries():
        assert library.version.replace(".", "").isdigit() and library.licence
        for file in library.files:
            assert hashlib.sha256((vendor.VENDOR / file.name).read_bytes()).hexdigest() == file.sha256
    monkeypatch.setattr(vendor, "VENDOR", tmp_path)
    (tmp_path / "other.js").write_text("")
    with pytest.raises(CheckFailed) as failed:
        vendor.check()
    assert "other.js" in failed.value.message and "htmx.min.js" in failed.value.message
    assert json.loads(vendor.MANIFEST.read_text())


def test_a_chart_draws_every_figure_and_escapes_its_title() -> None:
    drawn = bars([Bar("a", 3), Bar("b", 0), Bar("c", 6)], title='"<script>')
    assert drawn.count("<rect") == 3 and drawn.count("bar none") == 1
    assert "<script>" not in drawn
    assert bars([], title="nothing").count("<rect") == 0


@pytest.mark.parametrize(
    ("text", "spans", "shown"),
    [
        ("a <b> c", [(2, 5)], "a <mark>&lt;b&gt;</mark> c"),
        ("abc", [], "abc"),
        ("abc", [(0, 1), (2, 3)], "<mark>a</mark>b<mark>c</mark>"),
    ],
)
def test_marked_text_is_escaped(text: str, spans: list[tuple[int, int]], shown: str) -> None:
    assert rendering.marked(text, spans) == shown


@pytest.mark.parametrize(
    ("value", "shown"), [(0.34, "340 ms"), (12.46, "12.5 s"), (184, "3 min 04 s"), (7260, "2 h 01 min")]
)
def test_durations(value: float, shown: str) -> None:
    assert rendering.duration(value) == shown


@pytest.mark.parametrize(("value", "shown"), [(12, "12 bytes"), (1400, "1.4 kB"), (52_428_800, "52.4 MB")])
def test_sizes(value: int, shown: str) -> None:
    assert rendering.size(value) == shown


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (-5, "less than a minute left"),
        (200, "3 min left"),
        (7260, "2 h 1 min left"),
        (183_600, "2 d 3 h left"),
    ],
)
def test_what_is_left(seconds: int, shown: str) -> None:
    now = datetime(2026, 1, 1, tzinfo=UTC)
    assert rendering.left(now + timedelta(seconds=seconds), now) == shown


def test_a_name_is_brief_in_lists() -> None:
    assert rendering.brief("key:5b0f8c1e-8d8c-4d1c-9a5b-0f2a6f2a7c11, run/7") == "key:5b0f8c1e…, run/7"
