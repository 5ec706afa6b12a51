"""Redaction works in linear time, without the network, and costs nothing until it is used."""

from __future__ import annotations

import subprocess
import sys
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stemma.redaction import redact
from stemma.store.settings import REPOSITORY

_HEAVY = {"phonenumbers", "stdnum", "detect_secrets", "requests", "urllib3", "ssl", "asyncio", "multiprocessing"}

_UNITS = [
    "a", "1", "1 ", "1-", "1.", "1:", "0", "@", "a@", "a@b.", "a@b.c,", "+", "+4", "+49 ", "(030) ", "((0",
    "030 1234 567 ", "4111", "4111 1111 ", "DE89", "DE89 ", "AB12 3456 ", "eyJ", "eyJ.", "eyJa.eyJb.", "sk-",
    "ghp_", "xoxb-1-", "://", "://a:", "a:b@", "://u:p@", "?token=", "password=", "password='", "pwd='pwd=\"",
    "secret: ", "Bearer ", "Bearer a1", "Authorization: ", "Cookie: a=", "-----BEGIN PRIVATE KEY-----",
    "-----BEGIN PRIVATE KEY-----\n", "::", "2001:", "2001:db8::", "1.2.3.", "1.2.3.4 ", "[secret]", "vs_", "file-",
    "aws key \"", "ibm key   =   ", "_authtoken=", "%40", "tel 123456789 ", "ssn 123-45-6789 ", "İ", "\\n", "\t",
    "key=", "tokentoken=", "-us1", "SG.", "12345678A ", "131052-", "***", "\\\"password\\\":\\\"",
    "password=[secret]", "sk-T3BlbkFJ", "ibm" + " " * 90 + "a1b2c3d4e5f6a7b8c9d0e1f2 ",
]  # fmt: skip
_SMALL, _LARGE = 10_000, 40_000
# Four times the text takes four times as long; what backtracks would take sixteen times. Short runs are all noise.
_AT_MOST, _NOISE = 9.0, 0.05


def _seconds(text: str) -> float:
    started = time.process_time()
    redact(text)
    return time.process_time() - started


@pytest.mark.parametrize("unit", _UNITS, ids=repr)
def test_work_grows_linearly_with_repetitive_text(unit: str) -> None:
    def repeated(length: int) -> str:
        return (unit * (length // len(unit) + 1))[:length]

    redact(repeated(1_000))
    small = min(_seconds(repeated(_SMALL)) for _ in range(2))
    assert _seconds(repeated(_LARGE)) <= _AT_MOST * small + _NOISE


@settings(max_examples=40, deadline=None)
@given(st.lists(st.sampled_from(_UNITS), min_size=2, max_size=4).map("".join))
def test_work_grows_linearly_with_mixtures(unit: str) -> None:
    def repeated(length: int) -> str:
        return (unit * (length // len(unit) + 1))[:length]

    redact(repeated(1_000))
    small = min(_seconds(repeated(_SMALL // 4)) for _ in range(2))
    assert _seconds(repeated(_LARGE // 4)) <= _AT_MOST * small + _NOISE


@pytest.mark.parametrize("unit", ["?token=", "xoxb-1-", "eyJa.eyJb.", "pwd='", "a@b."])
def test_a_hundred_kilobytes_of_what_backtracks_elsewhere(unit: str) -> None:
    text = (unit * 100_000)[:100_000]
    redact(text[:1_000])
    assert _seconds(text) <= _AT_MOST * _seconds(text[:25_000]) + _NOISE


def _run(program: str) -> str:
    return subprocess.run(
        [sys.executable, "-c", program], cwd=REPOSITORY, capture_output=True, text=True, check=True
    ).stdout


def test_it_works_with_sockets_refused() -> None:
    program = """
import socket

def refuse(*arguments, **options):
    raise AssertionError("a socket was asked for")

socket.socket.connect = socket.socket.connect_ex = socket.getaddrinfo = socket.create_connection = refuse
from stemma.redaction import redact
aws, slack = "AKIA" + "Q" * 15 + "7", "xoxb-" + "123456789012-" * 2 + "a1" * 12
text = f"bob@example.org +49 30 123456 4111 1111 1111 1111 {aws} {slack} sk_live_" + "a1" * 12 + " 8.8.8.8"
print(redact(text).text)
"""
    assert _run(program).strip() == "[email] [phone] [card] [secret] [secret] [secret] [ip]"


def test_importing_it_imports_nothing_heavy() -> None:
    loaded = _run("import sys, stemma.redaction; print(*{name.split('.')[0] for name in sys.modules})").split()
    assert _HEAVY.intersection(loaded) == set()
