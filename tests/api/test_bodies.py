"""What is refused of a JSON body before a route sees it, and that each refusal names what it is about."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from hypothesis import given
from hypothesis import strategies as st

from api.app import create_app
from api.bodies import MAX_DEPTH, RequestBody, check_json
from stemma.errors import InvalidInput
from stemma.store.database import Database
from stemma.store.settings import Settings

SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-(2**53) + 1, 2**53 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_characters="\0", codec="utf-8"))
)
NAMES = st.text(st.characters(exclude_characters="\0", codec="utf-8"))
DOCUMENTS = st.recursive(SCALARS, lambda inner: st.lists(inner) | st.dictionaries(NAMES, inner), max_leaves=20)
REFUSED = {
    b'{"amount": 1': ("json_invalid", "body"),
    b"\xef\xbb\xbf{}": ("json_invalid", "body"),
    b'{"note": "\xff"}': ("body_not_utf8", "body"),
    '{"note": "x"}'.encode("utf-16"): ("body_not_utf8", "body"),
    b'{"note": "a\\u0000b"}': ("json_not_usable", "note"),
    b'{"note\\u0000": 1}': ("json_not_usable", "body"),
    b'{"tags": ["a", "\\ud800"]}': ("json_not_usable", "tags.1"),
    b'{"amount": NaN}': ("json_not_usable", "amount"),
    b'{"amount": -Infinity}': ("json_not_usable", "amount"),
    b'{"amount": 1e999}': ("json_not_usable", "amount"),
    b'{"amount": 9007199254740992}': ("json_not_usable", "amount"),
    b'{"amount": ' + b"9" * 5000 + b"}": ("json_not_usable", "amount"),
    b'{"amount": 1, "amount": 2}': ("json_not_usable", "body"),
    b'{"more": {"a": 1, "a": 1}}': ("json_not_usable", "more"),
    b"[" * (MAX_DEPTH + 1) + b"]" * (MAX_DEPTH + 1): ("json_too_deep", "0.0.0"),
    b'{"a":' * 100_000: ("json_too_deep", "body"),
    b'{"ammount": 1}': ("request_invalid", "amount"),
    b'{"amount": 1, "ammount": 1}': ("request_invalid", "ammount"),
    b'{"amount": "many"}': ("request_invalid", "amount"),
    b'{"amount": 1.5}': ("request_invalid", "amount"),
    b'{"amount": 1, "tags": "a"}': ("request_invalid", "tags"),
    b"[]": ("request_invalid", "body"),
    b"null": ("request_invalid", "body"),
    b"": ("request_invalid", "body"),
}


class Order(RequestBody):
    amount: int
    note: str | None = None
    tags: tuple[str, ...] = ()


@pytest.fixture(scope="module")
def shop(empty: tuple[Settings, Database], serve: Any) -> Iterator[httpx.Client]:
    settings, database = empty
    app: FastAPI = create_app(settings, database=database)

    @app.post("/orders")
    def take(order: Order) -> Order:
        return order

    with serve(app) as opened:
        yield opened


def post(client: httpx.Client, content: bytes, content_type: str = "application/json") -> httpx.Response:
    return client.post("/orders", content=content, headers={"Content-Type": content_type})


def refusal(response: httpx.Response) -> tuple[str, str]:
    assert response.status_code == 422, response.text
    assert response.headers["content-type"] == "application/problem+json"
    body = response.json()
    return body["code"], body["errors"][0]["field"]


@pytest.mark.parametrize("content", REFUSED, ids=lambda content: repr(content[:20]))
def test_what_no_route_can_use_is_refused_with_its_field(shop: httpx.Client, content: bytes) -> None:
    assert refusal(post(shop, content)) == REFUSED[content]
    assert refusal(post(shop, content, "application/vnd.studio+json; charset=utf-8")) == REFUSED[content]


def test_what_is_usable_reaches_the_route_as_it_was_sent(shop: httpx.Client) -> None:
    order = {"amount": 9007199254740991, "note": "é😀\n", "tags": ["x" * 900_000]}
    for content in (json.dumps(order).encode(), json.dumps(order, ensure_ascii=False).encode()):
        assert post(shop, content).json() == order


def test_a_body_that_is_no_json_is_refused(shop: httpx.Client) -> None:
    for content_type in ("text/plain", "application/jsonp", "", "application"):
        assert refusal(post(shop, b'{"amount": 1}', content_type)) == ("request_invalid", "body")


def test_an_oversized_body_is_refused_announced_or_not(shop: httpx.Client) -> None:
    content = b'{"note": "' + b"x" * (1 << 20) + b'"}'
    headers = {"Content-Type": "application/json"}
    for sent in (content, iter([content[:1000], content[1000:]])):
        refused = shop.post("/orders", content=sent, headers=headers)
        assert (refused.status_code, refused.json()["code"]) == (413, "body_too_large")


def test_many_faults_are_answered_briefly(shop: httpx.Client) -> None:
    unknown = {f"{number}{'x' * 1000}": 1 for number in range(900)}
    refused = post(shop, json.dumps(unknown).encode())
    assert refused.status_code == 422
    assert len(refused.content) < 10_000


@pytest.mark.parametrize("address", ["/orders?a=%FF", "/orders/%C3", "/orders?%ED%A0%80"])
def test_an_address_that_is_not_utf8_is_refused(shop: httpx.Client, address: str) -> None:
    code, field = refusal(shop.get(address))
    assert (code, field in ("path", "query")) == ("text_not_utf8", True)


def test_nul_in_a_header_is_refused(shop: httpx.Client) -> None:
    with socket.create_connection((shop.base_url.host, shop.base_url.port or 80)) as connection:
        connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Request-ID: a\0bcdefgh\r\n\r\n")
        assert connection.recv(100).startswith(b"HTTP/1.1 400 ")
    assert shop.get("/healthz").status_code == 200


@given(DOCUMENTS)
def test_every_usable_document_is_let_through(document: Any) -> None:
    check_json(json.dumps(document).encode())
    check_json(json.dumps(document, ensure_ascii=False).encode())


@given(st.binary() | st.text('[]{}":,0123456789eE+-\\u0dNaIty\n ').map(str.encode))
def test_whatever_is_sent_is_usable_or_refused(content: bytes) -> None:
    try:
        check_json(content)
    except InvalidInput as error:
        assert error.field
    else:
        json.loads(content)
