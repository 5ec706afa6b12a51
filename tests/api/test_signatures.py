"""Requests that are signed by RFC 9421; the signatures are made here by hand, from the RFC."""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
import time
from collections.abc import Callable, Iterator
from typing import Any
from uuid import uuid4

import httpx
import psycopg
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as trials
from hypothesis import strategies as st

from api.app import create_app
from stemma.access.keys import IssuedKey, revoke_key
from stemma.access.principal import local_principal
from stemma.access.signatures import SignedRequest, authenticate_signed
from stemma.errors import Unauthenticated
from stemma.ledger.service import Ledger
from stemma.store.database import Database, DatabaseUrls
from stemma.store.settings import REPOSITORY, Settings

OWN = "/api/v1/keys/me"
DOCUMENTS = "/api/v1/documents"


def digest(body: bytes, name: str = "sha-256") -> str:
    made = hashlib.new(name.replace("-", ""), body).digest()
    return f"{name}=:{base64.b64encode(made).decode()}:"


def sign(
    request: httpx.Request,
    issued: IssuedKey,
    *,
    covered: tuple[str, ...] | None = None,
    created: float | None = None,
    nonce: str | None = None,
    keyid: str | None = None,
    parameters: str | None = None,
    secret: str | None = None,
    content_digest: str | None = None,
) -> httpx.Request:
    """Add the header fields of a signature (RFC 9421, 3.1)."""
    request.read()
    if request.content and content_digest != "":
        request.headers["Content-Digest"] = content_digest or digest(request.content)
    covered = covered or ("@method", "@target-uri", *(("content-digest",) if request.content else ()))
    query = request.url.query.decode()
    values = {
        "@method": request.method,
        "@target-uri": str(request.url),
        "@path": request.url.raw_path.partition(b"?")[0].decode(),
        "@query": f"?{query}",
        "content-digest": request.headers.get("Content-Digest", ""),
    }
    if parameters is None:
        at = int(time.time() if created is None else created)
        parameters = f';created={at};nonce="{nonce or uuid4()}";keyid="{keyid or issued.api_key.id}"'
    inputs = f"({' '.join(f'{chr(34)}{name}{chr(34)}' for name in covered)}){parameters}"
    base = "".join(f'"{name}": {values[name]}\n' for name in covered) + f'"@signature-params": {inputs}'
    made = hmac.digest(base64.b64decode(secret or issued.signing_secret), base.encode(), "sha256")
    request.headers["Signature-Input"] = f"sig={inputs}"
    request.headers["Signature"] = f"sig=:{base64.b64encode(made).decode()}:"
    return request


def code(response: httpx.Response) -> tuple[int, str]:
    return response.status_code, response.json().get("code", "")


@pytest.fixture(scope="module")
def studio(
    tmp_path_factory: pytest.TempPathFactory,
    new_database: Callable[[], DatabaseUrls],
    drop_database: Callable[[DatabaseUrls], None],
) -> Iterator[tuple[Settings, Database]]:
    """Settings and database of a studio of this module's own."""
    urls = new_database()
    with Database(urls) as database:
        yield Settings(home=tmp_path_factory.mktemp("signatures")), database
    drop_database(urls)


@pytest.fixture(scope="module")
def api(studio: tuple[Settings, Database], serve: Any) -> Iterator[httpx.Client]:
    """A client without a key."""
    settings, database = studio
    with serve(create_app(settings, database=database), key=None) as client:
        yield client


@pytest.fixture(scope="module")
def issued(studio: tuple[Settings, Database], issue_key: Callable[..., IssuedKey]) -> IssuedKey:
    """A key that is for signatures alone."""
    settings, database = studio
    return issue_key(settings, database.urls, signed_only=True)


@pytest.mark.parametrize("covered", [("@method", "@target-uri"), ("@query", "@path", "@method")])
@pytest.mark.parametrize("path", [OWN, "/api/v1/audit?actor=a%20b&limit=1"])
def test_a_signed_request_is_let_in_without_its_key(
    api: httpx.Client, issued: IssuedKey, covered: tuple[str, ...], path: str
) -> None:
    assert api.send(sign(api.build_request("GET", path), issued, covered=covered)).status_code == 200
    refused = api.get(path, headers={"Authorization": f"Bearer {issued.key}"})
    assert code(refused) == (401, "signature_required")


@pytest.mark.parametrize("algorithm", ["sha-256", "sha-512"])
def test_a_signed_body_is_what_was_signed(
    studio: tuple[Settings, Database], api: httpx.Client, issue_key: Callable[..., IssuedKey], algorithm: str
) -> None:
    settings, database = studio
    issued = issue_key(settings, database.urls)

    def upload(name: str) -> httpx.Request:
        return api.build_request("POST", DOCUMENTS, files={"file": (name, b"# A" * 100_000)})

    request = upload(f"{algorithm}.md")
    signed = sign(request, issued, content_digest=digest(request.read(), algorithm))
    assert api.send(signed).status_code == 201
    request = upload("never.md")
    changed = sign(request, issued, content_digest=digest(b"something else", algorithm))
    assert code(api.send(changed)) == (401, "digest_mismatch")
    wanted = {"name": algorithm, "role": "Viewer", "scopes": ["search:*"]}
    made = sign(api.build_request("POST", "/api/v1/keys", json=wanted), issued)
    assert api.send(made).status_code == 201
    other = sign(
        api.build_request("POST", "/api/v1/keys", json=wanted), issued, content_digest=digest(b"something else")
    )
    assert code(api.send(other)) == (401, "digest_mismatch")
    keys = api.send(sign(api.build_request("GET", "/api/v1/keys"), issued)).json()["data"]
    assert [key["name"] for key in keys if key["created_by"] == f"key:{issued.api_key.id}"] == [algorithm]
    assert (settings.inbox / f"{algorithm}.md").exists() and not (settings.inbox / "never.md").exists()


def test_a_replay_is_refused_by_every_process_and_after_a_restart(
    studio: tuple[Settings, Database], api: httpx.Client, issued: IssuedKey, serve: Any
) -> None:
    settings, database = studio
    signed = sign(api.build_request("GET", OWN), issued, covered=("@method", "@path", "@query"))
    assert api.send(signed).status_code == 200
    assert code(api.send(signed)) == (401, "signature_replayed")
    with serve(create_app(settings, database=database), key=None) as another:
        signed.url = another.base_url.join(OWN)
        signed.headers["Host"] = f"{signed.url.host}:{signed.url.port}"
        assert code(another.send(signed)) == (401, "signature_replayed")


def test_nonces_that_are_too_old_to_matter_are_removed(
    studio: tuple[Settings, Database], api: httpx.Client, issued: IssuedKey
) -> None:
    _, database = studio
    with psycopg.connect(database.urls.owner) as connection:
        connection.execute("DELETE FROM signature_nonces")
    for _ in range(2):
        assert api.send(sign(api.build_request("GET", OWN), issued)).status_code == 200
        with psycopg.connect(database.urls.owner) as connection:
            assert connection.execute("SELECT count(*) FROM signature_nonces").fetchone() == (1,)
            connection.execute("UPDATE signature_nonces SET expires_at = now() - interval '1 second'")


@pytest.mark.parametrize(
    ("how", "expected"),
    [
        ({"created": time.time() - 3600}, "clock_skew"),
        ({"created": time.time() + 3600}, "clock_skew"),
        ({"secret": base64.b64encode(b"x" * 32).decode()}, "signature_invalid"),
        ({"keyid": str(uuid4())}, "key_unknown"),
        ({"keyid": "nobody"}, "key_unknown"),
        ({"covered": ("@method",)}, "signature_incomplete"),
        ({"covered": ("@method", "@path")}, "signature_incomplete"),
        ({"covered": ("@target-uri",)}, "signature_incomplete"),
        ({"covered": ("@method", "@method", "@target-uri")}, "signature_invalid"),
        ({"parameters": ""}, "signature_incomplete"),
        ({"parameters": f';created={int(time.time())};keyid="a"'}, "signature_incomplete"),
        ({"parameters": ';created="now";nonce="a";keyid="a"'}, "signature_incomplete"),
        ({"nonce": "n" * 129}, "signature_malformed"),
        ({"nonce": "n" * 5000}, "signature_malformed"),
    ],
)
def test_a_signature_that_does_not_hold_is_told_why(
    api: httpx.Client, issued: IssuedKey, how: dict[str, Any], expected: str
) -> None:
    refused = api.send(sign(api.build_request("GET", OWN), issued, **how))
    assert code(refused) == (401, expected)
    assert refused.json()["hint"]


@pytest.mark.parametrize(
    ("field", "value", "expected"),
    [
        ("Signature-Input", "", "signature_malformed"),
        ("Signature-Input", "(", "signature_malformed"),
        ("Signature-Input", "sig=1", "signature_malformed"),
        ("Signature-Input", "a=(), b=()", "signature_malformed"),
        ("Signature", "", "signature_invalid"),
        ("Signature", "sig=1", "signature_invalid"),
        ("Signature", "other=:AAAA:", "signature_invalid"),
        ("Signature", "sig=:AAAA:", "signature_invalid"),
        ("Host", "localhost", "signature_invalid"),
    ],
)
def test_a_signature_that_was_tampered_with_is_refused(
    api: httpx.Client, issued: IssuedKey, field: str, value: str, expected: str
) -> None:
    signed = sign(api.build_request("GET", OWN), issued)
    signed.headers[field] = value
    assert code(api.send(signed)) == (401, expected)


def test_another_method_path_or_query_is_another_request(api: httpx.Client, issued: IssuedKey) -> None:
    for method, path in (("GET", "/api/v1/audit"), ("GET", f"{OWN}?x=1"), ("POST", OWN)):
        signed = sign(api.build_request("GET", OWN), issued)
        moved = api.build_request(method, path, headers=signed.headers)
        assert code(api.send(moved)) == (401, "signature_invalid")


def test_a_body_without_a_covered_digest_is_refused(api: httpx.Client, issued: IssuedKey) -> None:
    for how, expected in (
        ({"content_digest": "", "covered": ("@method", "@target-uri")}, "signature_incomplete"),
        ({"covered": ("@method", "@target-uri")}, "signature_incomplete"),
        ({"content_digest": "md5=:AAAA:"}, "signature_malformed"),
        ({"content_digest": "nonsense("}, "signature_malformed"),
    ):
        request = api.build_request("POST", "/api/v1/keys", json={"name": "ci"})
        assert code(api.send(sign(request, issued, **how))) == (401, expected)  # type: ignore[arg-type]


def test_a_revoked_key_signs_nothing_any_more(
    studio: tuple[Settings, Database], api: httpx.Client, issue_key: Callable[..., IssuedKey]
) -> None:
    settings, database = studio
    issued = issue_key(settings, database.urls)
    assert api.send(sign(api.build_request("GET", OWN), issued)).status_code == 200
    change = database.read(lambda connection: revoke_key(connection, local_principal(), issued.api_key.id))
    with Ledger(database.urls, settings) as ledger:
        ledger.commit(change).result(20)
    assert code(api.send(sign(api.build_request("GET", OWN), issued))) == (401, "key_revoked")


def test_the_example_in_the_docs_signs(api: httpx.Client, issued: IssuedKey) -> None:
    page = (REPOSITORY / "docs" / "SECURITY.md").read_text()
    example: dict[str, Any] = {}
    (source,) = [
        block for block in re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL) if "signed_headers" in block
    ]
    exec(source, example)
    body = b'{"name": "ci", "role": "Viewer", "scopes": ["search:*"]}'
    for method, path, sent, status in (("GET", OWN, b"", 200), ("POST", "/api/v1/keys", body, 201)):
        url = str(api.base_url.join(path))
        headers = example["signed_headers"](method, url, sent, issued.api_key.id, issued.signing_secret)
        answer = api.request(method, url, content=sent, headers={**headers, "Content-Type": "application/json"})
        assert answer.status_code == status


@given(st.text(st.characters(max_codepoint=255)), st.text(st.characters(max_codepoint=255)))
@trials(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=200)
def test_no_header_does_more_than_being_refused(studio: tuple[Settings, Database], inputs: str, signature: str) -> None:
    settings, database = studio
    headers = {"signature-input": inputs, "signature": signature}
    with pytest.raises(Unauthenticated):
        authenticate_signed(database, settings, SignedRequest("GET", "http://127.0.0.1/", headers))
