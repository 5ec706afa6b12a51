"""A receipt outside the studio: the envelope, what it proves, and that no byte of it can change."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from stemma.errors import CheckFailed, InvalidInput, NotFound, StemmaError, Unavailable
from stemma.ledger import dsse
from stemma.ledger.attestation import MEDIA_TYPE, Verified, attest, verify_attestation
from stemma.ledger.entries import canonical
from stemma.ledger.heads import HeadStore
from stemma.ledger.keys import (
    PublicKey,
    SigningKey,
    public_keys,
    read_public_keys,
    rotate_signing_key,
    signing_key,
)
from stemma.ledger.receipts import Materialization, receipt_id, sync
from stemma.ledger.service import Ledger
from stemma.ledger.signer import sign_once
from stemma.store.database import Database
from stemma.store.settings import Settings

Make = Callable[..., Materialization]

# protocol.md of the DSSE specification, version 1.0: test vectors.
VECTOR = {
    "payload": "aGVsbG8gd29ybGQ=",
    "payloadType": "http://example.com/HelloWorld",
    "signatures": [{"sig": "A3JqsQGtVsJ2O2xqrI5IcnXip5GToJ3F+FnZ+O88SjtR6rDAajabZKciJTfUiHqJPcIAriEGAHTVeCUjW2JIZA=="}],
}
VECTOR_KEY = ec.EllipticCurvePublicNumbers(
    46950820868899156662930047687818585632848591499744589407958293238635476079160,
    5640078356564379163099075877009565129882514886557779369047442380624545832820,
    ec.SECP256R1(),
)


@pytest.fixture
def exported(database: Database, settings: Settings, new_materialization: Make) -> bytes:
    """The receipt of the third of five materializations."""
    with Ledger(database.urls, settings) as ledger:
        sync(database, ledger, [new_materialization("book/bound", f"run-{n}", n) for n in range(1, 6)])
    sign_once(database.urls.app, settings)
    return attest(database, settings, receipt_id("run-3", "book/bound", None))


def pem(settings: Settings) -> bytes:
    return "".join(key.pem for key in public_keys(settings).values()).encode()


def resigned(data: bytes, key: SigningKey, change: Callable[[dict[str, Any]], object]) -> bytes:
    """The statement changed and signed anew, as only who has the key can."""
    statement = json.loads(base64.b64decode(json.loads(data)["payload"]))
    change(statement)
    return dsse.sign(MEDIA_TYPE, canonical(statement), key).to_bytes()


def test_the_encoding_is_that_of_the_specification() -> None:
    encoded = dsse.pae(VECTOR["payloadType"], base64.b64decode(VECTOR["payload"]))
    assert encoded == b"DSSEv1 29 http://example.com/HelloWorld 11 hello world"
    raw = base64.b64decode(VECTOR["signatures"][0]["sig"])
    signature = encode_dss_signature(int.from_bytes(raw[:32], "big"), int.from_bytes(raw[32:], "big"))
    VECTOR_KEY.public_key().verify(signature, encoded, ec.ECDSA(hashes.SHA256()))


def test_lengths_are_counted_in_bytes() -> None:
    assert dsse.pae("ü", b"") == b"DSSEv1 2 \xc3\xbc 0 "


def test_an_exported_receipt_verifies_with_the_public_key_alone(exported: bytes, settings: Settings) -> None:
    verified = verify_attestation(exported, read_public_keys(pem(settings)))
    assert (verified.receipt.run_id, verified.receipt.seq) == ("run-3", 3)
    assert verified.key_id == verified.head_key_id == signing_key(settings).key_id
    statement = json.loads(base64.b64decode(json.loads(exported)["payload"]))
    assert statement["_type"] == "https://in-toto.io/Statement/v1"
    (artifact,) = verified.receipt.artifacts
    assert statement["subject"] == [{"name": artifact.name, "digest": {"sha256": artifact.sha256}}]


@given(st.data())
@hypothesis_settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_one_changed_byte_fails(exported: bytes, settings: Settings, data: st.DataObject) -> None:
    keys = read_public_keys(pem(settings))
    at = data.draw(st.integers(0, len(exported) - 1))
    byte = data.draw(st.integers(0, 255).filter(lambda value: value != exported[at]))
    with pytest.raises((CheckFailed, InvalidInput)):
        verify_attestation(exported[:at] + bytes([byte]) + exported[at + 1 :], keys)


@pytest.mark.parametrize("change", [lambda d: d[:-1], lambda d: d + b"\n", lambda d: b"", lambda d: b"[" * 100_000])
def test_a_cut_longer_or_other_file_is_none(
    exported: bytes, settings: Settings, change: Callable[[bytes], bytes]
) -> None:
    with pytest.raises(InvalidInput) as caught:
        verify_attestation(change(exported), read_public_keys(pem(settings)))
    assert caught.value.code == "envelope_unreadable"


def test_another_studios_key_does_not_verify_it(exported: bytes, tmp_path: Path) -> None:
    other = Settings(home=tmp_path / "other")
    signing_key(other)
    with pytest.raises(CheckFailed) as caught:
        verify_attestation(exported, read_public_keys(pem(other)))
    assert caught.value.code == "key_unknown"


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (lambda s: s["predicate"]["entry"]["body"]["data"].update(asset="book/forged"), "entry_altered"),
        (lambda s: s["predicate"]["entry"]["body"].update(subject="book/forged"), "entry_altered"),
        (lambda s: s["predicate"]["entry"].update(seq=4), "entry_altered"),
        (lambda s: s["subject"][0]["digest"].update(sha256="00" * 32), "entry_altered"),
        (lambda s: s["predicate"]["inclusion"].pop(), "proof_invalid"),
        (lambda s: s["predicate"]["head"]["head"]["chains"].pop(), "head_forged"),
        (lambda s: s["predicate"]["entry"]["body"].update(chain="audit"), "statement_invalid"),
        (lambda s: s.update(predicateType="urn:other"), "statement_invalid"),
        (lambda s: s["predicate"].pop("head"), "statement_invalid"),
        (lambda s: s["predicate"].update(inclusion=["zz"]), "statement_invalid"),
        (lambda s: s["predicate"]["entry"]["body"]["data"].pop("inputs"), "statement_invalid"),
    ],
)
def test_even_the_key_cannot_sign_what_the_ledger_does_not_hold(
    exported: bytes, settings: Settings, change: Callable[[dict[str, Any]], object], code: str
) -> None:
    forged = resigned(exported, signing_key(settings), change)
    with pytest.raises(CheckFailed) as caught:
        verify_attestation(forged, public_keys(settings))
    assert caught.value.code == code


def test_receipts_of_before_a_rotation_stay_verifiable(exported: bytes, settings: Settings, database: Database) -> None:
    old = pem(settings)
    rotate_signing_key(settings)
    both = read_public_keys(pem(settings))
    assert len(both) == 2 and verify_attestation(exported, both)
    anew = attest(database, settings, receipt_id("run-1", "book/bound", None))
    verified = verify_attestation(anew, both)
    assert isinstance(verified, Verified) and verified.key_id != verified.head_key_id
    with pytest.raises(CheckFailed):
        verify_attestation(anew, read_public_keys(old))


def test_what_cannot_be_exported_says_why(
    database: Database, settings: Settings, new_materialization: Make, exported: bytes
) -> None:
    with pytest.raises(NotFound):
        attest(database, settings, receipt_id("run-9", "book/bound", None))
    store = HeadStore(settings)
    for key in list(store.keys()):
        store.supersede(key)
    with pytest.raises(Unavailable) as caught:
        attest(database, settings, receipt_id("run-3", "book/bound", None))
    assert caught.value.code == "head_pending"


@pytest.mark.parametrize(
    "text",
    [b"", b"no key", b"-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----", b"\xff" * 100],
)
def test_a_file_that_holds_no_key_is_refused(text: bytes) -> None:
    with pytest.raises(InvalidInput) as caught:
        read_public_keys(text)
    assert caught.value.code == "public_key_unreadable"


def test_a_key_of_another_kind_is_refused() -> None:
    from cryptography.hazmat.primitives import serialization

    text = VECTOR_KEY.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    with pytest.raises(StemmaError):
        read_public_keys(text)


def test_a_key_comes_back_as_it_was_written(settings: Settings) -> None:
    signing_key(settings)
    (key,) = public_keys(settings).values()
    assert read_public_keys(key.pem.encode()) == {key.key_id: PublicKey(key.key_id, key.public, "", None, None)}
