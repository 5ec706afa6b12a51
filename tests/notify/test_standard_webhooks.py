"""Standard Webhooks: the vectors that its project publishes, its own library as the other side, and what is refused."""

from __future__ import annotations

import base64
import time
from datetime import UTC, datetime

import pytest
import standardwebhooks
from hypothesis import given
from hypothesis import strategies as st

from stemma.errors import InvalidInput, Unauthenticated
from stemma.notify.standard_webhooks import ID, SIGNATURE, TIMESTAMP, new_secret, secret_bytes, sign, verify

# libraries/python/tests/test_webhooks.py and libraries/rust/src/lib.rs of standard-webhooks/standard-webhooks.
PUBLISHED = [
    (
        "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
        "msg_p5jXN8AQM9LWM0D4loKWxJek",
        1614265330,
        b'{"test": 2432232314}',
        "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
    ),
    (
        "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD",
        "msg_27UH4WbU6Z5A5EzD8u03UvzRbpk",
        1649367553,
        b'{"email":"test@example.com","username":"test_user"}',
        "v1,tZ1I4/hDygAJgO5TYxiSd6Sd0kDW6hPenDe+bTa3Kkw=",
    ),
]
SECRET, MESSAGE, AT, BODY, GOOD = PUBLISHED[0]
KEY = secret_bytes(SECRET)
WRONG = "v1,Ceo5qEr07ixe2NLpvHk3FH9bwy/WavXrAFQ/9tdO6mc="


def headers(**changed: str | None) -> dict[str, str]:
    made = {ID: MESSAGE, TIMESTAMP: str(AT), SIGNATURE: GOOD}
    made.update({f"webhook-{name}": value or "" for name, value in changed.items()})
    return {name: value for name, value in made.items() if value}


@pytest.mark.parametrize(("secret", "message", "at", "body", "signature"), PUBLISHED)
def test_published_signatures(secret: str, message: str, at: int, body: bytes, signature: str) -> None:
    signed = sign([secret_bytes(secret)], message, at, body)
    assert signed[SIGNATURE] == signature
    assert verify([secret_bytes(secret)], signed, body, now=at) == message


@pytest.mark.parametrize("secret", ["MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaS"])
def test_published_secrets_with_and_without_prefix_and_padding(secret: str) -> None:
    padded = secret + "=" * (-len(secret) % 4)
    assert secret_bytes(secret) == secret_bytes(f"whsec_{secret}") == base64.b64decode(padded)
    assert secret_bytes(padded) == secret_bytes(secret)


def test_one_of_several_signatures_is_enough() -> None:
    several = f"{WRONG} v2,Ceo5qEr07ixe2NLpvHk3FH9bwy/WavXrAFQ/9tdO6mc= {GOOD} {WRONG}"
    assert verify([KEY], headers(signature=several), BODY, now=AT) == MESSAGE


def test_both_secrets_of_a_rotation_are_taken() -> None:
    old, new = secret_bytes(new_secret()), secret_bytes(new_secret())
    for senders, receivers in [([old], [new, old]), ([old, new], [new]), ([new, old], [old])]:
        assert verify(receivers, sign(senders, MESSAGE, AT, BODY), BODY, now=AT) == MESSAGE


@pytest.mark.parametrize(
    ("changed", "code"),
    [
        ({"id": None}, "webhook_headers_missing"),
        ({"timestamp": None}, "webhook_headers_missing"),
        ({"signature": None}, "webhook_headers_missing"),
        ({"timestamp": "hello"}, "webhook_headers_invalid"),
        ({"timestamp": "1614265330.0"}, "webhook_headers_invalid"),
        ({"timestamp": "nan"}, "webhook_headers_invalid"),
        ({"timestamp": "-1"}, "webhook_headers_invalid"),
        ({"timestamp": "٣"}, "webhook_headers_invalid"),
        ({"id": "a.b"}, "webhook_headers_invalid"),
        ({"id": "a b"}, "webhook_headers_invalid"),
        ({"id": "a" * 256}, "webhook_headers_invalid"),
        ({"id": "msg_other"}, "webhook_signature_invalid"),
        ({"timestamp": str(AT - 1)}, "webhook_signature_invalid"),
        ({"timestamp": str(AT - 301)}, "webhook_timestamp_old"),
        ({"timestamp": str(AT + 301)}, "webhook_timestamp_new"),
        ({"signature": WRONG}, "webhook_signature_invalid"),
        ({"signature": "v1,"}, "webhook_signature_invalid"),
        ({"signature": GOOD[:10]}, "webhook_signature_invalid"),
        ({"signature": GOOD.removeprefix("v1,")}, "webhook_signature_invalid"),
        ({"signature": GOOD.replace("v1", "v1a")}, "webhook_signature_invalid"),
        ({"signature": " ".join([WRONG] * 16 + [GOOD])}, "webhook_signature_invalid"),
        ({"signature": "v1,ü , ,, v1"}, "webhook_signature_invalid"),
    ],
)
def test_what_is_refused(changed: dict[str, str | None], code: str) -> None:
    with pytest.raises(Unauthenticated) as refused:
        verify([KEY], headers(**changed), BODY, now=AT)
    assert refused.value.code == code


def test_the_bytes_count() -> None:
    with pytest.raises(Unauthenticated, match="No signature"):
        verify([KEY], headers(), BODY + b" ", now=AT)


def test_a_message_is_taken_for_five_minutes() -> None:
    for now in (AT - 300, AT + 300):
        assert verify([KEY], headers(), BODY, now=now) == MESSAGE
    for now in (AT - 300.5, AT + 300.5):
        with pytest.raises(Unauthenticated):
            verify([KEY], headers(), BODY, now=now)


@given(body=st.text(), message=st.from_regex(r"[A-Za-z0-9_-]{1,40}", fullmatch=True))
def test_the_published_library_and_ours_understand_each_other(body: str, message: str) -> None:
    secret, now = new_secret(), int(time.time())
    library = standardwebhooks.Webhook(secret)
    ours = sign([secret_bytes(secret)], message, now, body.encode())
    library.verify(body, ours, json_parse=False)
    theirs = {**ours, SIGNATURE: library.sign(message, datetime.fromtimestamp(now, UTC), body)}
    assert verify([secret_bytes(secret)], theirs, body.encode()) == message


@pytest.mark.parametrize("text", ["", "whsec_", "whsec_c2hvcnQ=", "whsec_äöü", "whsec_" + "A" * 100, "not base64!"])
def test_a_secret_that_is_none_is_not_repeated(text: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        secret_bytes(text)
    assert refused.value.code == "webhook_secret_invalid"
    assert text == "" or text == "whsec_" or text not in str(refused.value)
