"""Redaction ends on hostile text, works without the network, and costs nothing until it is used."""

from __future__ import annotations

import json
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stemma.redaction import redact
from stemma.store.settings import REPOSITORY

_HEAVY = {"phonenumbers", "stdnum", "detect_secrets", "requests", "urllib3", "ssl", "asyncio", "multiprocessing"}

# What makes careless patterns backtrack, one piece a line; how the time grows with them is measured in benchmarks/.
_HOSTILE = [json.loads(line) for line in Path(__file__).with_name("hostile.jsonl").read_text("utf-8").splitlines()]


def _redacted(unit: str, length: int) -> str:
    return redact((unit * (length // len(unit) + 1))[:length]).text


@pytest.mark.parametrize("unit", _HOSTILE, ids=repr)
def test_hostile_text_comes_to_an_end_and_to_rest(unit: str) -> None:
    redacted = _redacted(unit, 10_000)
    assert redact(redacted).text == redacted


@settings(max_examples=40, deadline=None)
@given(st.lists(st.sampled_from(_HOSTILE), min_size=2, max_size=4).map("".join))
def test_mixtures_come_to_an_end_and_to_rest(unit: str) -> None:
    text = (unit * (2_500 // len(unit) + 1))[:2_500]
    redacted = redact(text)
    places = [(found.start, found.end) for found in redacted.findings]
    assert all(0 <= start <= end <= len(text) for start, end in places)
    assert all(end <= start for (_, end), (start, _) in pairwise(places))
    assert redact(redacted.text).text == redacted.text


@pytest.mark.parametrize("unit", ["tel 123456789 a", "Authorization: a"])
def test_a_chain_of_findings_is_followed_to_its_end(unit: str) -> None:
    assert "123456789" not in _redacted(unit, 3_000)
    assert not redact(_redacted(unit, 3_000)).findings


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
