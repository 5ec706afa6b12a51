"""Signed URLs: what was signed holds until it expires, and nothing else does."""

from __future__ import annotations

import stat
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stemma.errors import Forbidden, InvalidInput, StemmaError
from stemma.redaction.engine import redact
from stemma.store import signed_urls
from stemma.store.files import check_key
from stemma.store.settings import Settings
from stemma.store.signed_urls import Permit, sign, verify

HOUR = timedelta(hours=1)
Parts = tuple[str, str, list[tuple[str, str]]]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    return Settings(home=tmp_path_factory.mktemp("signed"))


def parts(url: str) -> Parts:
    split = urlsplit(url)
    return "GET", unquote(split.path), parse_qsl(split.query, keep_blank_values=True)


def refusal(settings: Settings, given_parts: Parts) -> str | None:
    try:
        verify(settings, *given_parts)
    except Forbidden as error:
        return error.code
    return None


def _is_key(text: str) -> bool:
    try:
        check_key(text)
    except InvalidInput:
        return False
    return True


segments = st.text(st.characters(codec="utf-8", exclude_characters="/\\", exclude_categories=["Cc"]), min_size=1)
file_keys = st.lists(segments, min_size=1, max_size=4).map("/".join).filter(_is_key)
names = st.none() | st.text("abc.-_ üß😀&=?#%+;", min_size=1, max_size=20)


@given(file_keys, names)
def test_what_was_signed_holds(home: Settings, key: str, name: str | None) -> None:
    signed = sign(home, key, HOUR, name=name)
    assert signed.url.isascii() and signed.url.startswith("/files/")
    assert verify(home, *parts(signed.url)) == Permit(key, name)


@given(st.data())
def test_any_change_of_any_part_fails(home: Settings, data: st.DataObject) -> None:
    key, name = data.draw(file_keys), data.draw(names)
    method, path, query = parts(sign(home, key, HOUR, name=name).url)
    what = data.draw(st.sampled_from(["method", "path", "value", "name of a field", "more", "less", "twice"]))
    place = data.draw(st.integers(0, len(query) - 1))
    field, value = query[place]
    other = st.text(min_size=0, max_size=60)
    changed: Any = {
        "method": lambda: (data.draw(st.sampled_from(["HEAD", "POST", "PUT", "DELETE", "get"])), path, query),
        "path": lambda: (method, data.draw(_edited(path)), query),
        "value": lambda: (method, path, _put(query, place, (field, data.draw(_edited(value))))),
        "name of a field": lambda: (method, path, _put(query, place, (data.draw(_edited(field)), value))),
        "more": lambda: (method, path, [*query, (data.draw(other), data.draw(other))]),
        "less": lambda: (method, path, query[:place] + query[place + 1 :]),
        "twice": lambda: (method, path, [*query, query[place]]),
    }[what]()
    assert refusal(home, changed) == "url_signature_invalid"


def _put(query: list[tuple[str, str]], place: int, pair: tuple[str, str]) -> list[tuple[str, str]]:
    return [*query[:place], pair, *query[place + 1 :]]


def _edited(text: str) -> st.SearchStrategy[str]:
    """The text with one character put in, taken out or replaced."""
    edits = st.tuples(st.integers(0, len(text)), st.integers(0, 1), st.text(max_size=1))
    return edits.map(lambda e: text[: e[0]] + e[2] + text[e[0] + e[1] :]).filter(lambda made: made != text)


def test_it_expires(home: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    signed = sign(home, "a.txt", HOUR)
    assert HOUR - timedelta(seconds=2) <= signed.expires_at - datetime.now(UTC) <= HOUR

    class Later(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> datetime:
            return signed.expires_at

    monkeypatch.setattr(signed_urls, "datetime", Later)
    assert refusal(home, parts(signed.url)) == "url_expired"
    method, path, query = parts(signed.url)
    later = [(name, "99999999999" if name == "expires" else value) for name, value in query]
    assert refusal(home, (method, path, later)) == "url_signature_invalid"


def test_its_key_is_private_and_ends_every_url(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path)
    signed = sign(settings, "a.txt", HOUR)
    key = tmp_path / "keys" / "signed-urls.key"
    assert (stat.S_IMODE(key.stat().st_mode), key.stat().st_size) == (0o600, 32)
    assert refusal(settings, parts(signed.url)) is None
    key.unlink()
    assert refusal(settings, parts(signed.url)) == "url_signature_invalid" and not key.exists()
    again = sign(settings, "a.txt", HOUR)
    assert refusal(settings, parts(signed.url)) == "url_signature_invalid"
    assert refusal(settings, parts(again.url)) is None
    assert refusal(Settings(home=tmp_path / "other"), parts(again.url)) == "url_signature_invalid"


@pytest.mark.parametrize(
    ("key", "more", "code"),
    [
        ("../a", {}, "key_invalid"),
        ("/etc/passwd", {}, "key_invalid"),
        ("a", {"name": "x/y"}, "name_invalid"),
        ("a", {"name": "x\r\ny"}, "name_invalid"),
        ("a", {"name": ""}, "name_invalid"),
        ("a", {"expires_in": timedelta(0)}, "expiry_invalid"),
        ("a", {"expires_in": timedelta(days=8)}, "expiry_invalid"),
    ],
)
def test_what_cannot_be_signed(home: Settings, key: str, more: dict[str, Any], code: str) -> None:
    with pytest.raises(StemmaError) as caught:
        sign(home, key, **{"expires_in": HOUR, **more})
    assert caught.value.code == code


def test_redaction_takes_the_signature_out(home: Settings) -> None:
    url = sign(home, "maps/a.png", HOUR).url
    said = redact(f"GET http://127.0.0.1:8400{url} failed").text
    assert url.rpartition("=")[2] not in said and "maps/a.png" in said
