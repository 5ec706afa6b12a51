"""A small policy that says one of everything, and the sample policies."""

from __future__ import annotations

from pathlib import Path

import pytest

from stemma.store.settings import REPOSITORY

SMALL = """\
name: finance.small
version: 1.0.0
changelog: First version.
description: Says one of everything.
node: finance
events: [Asked]
inputs:
  amount: {type: number, from: /event/data/amount}
  items: {type: numbers, from: /event/data/items, default: []}
  segment: {type: text, from: /context/segment, default: Home}
parameters: {least: 10}
variants:
  strict: {parameters: {least: 20}}
limits:
  - {input: amount, at_most: 1000, reason: Too much to be decided alone.}
bundles:
  - id: size
    rules:
      - {id: first, when: "size(items) > 0 && items[1] > 5.0", then: deny, reason: The second item is large.}
      - {id: small, when: amount < least, then: approve, reason: It is little.}
      - {id: large, when: amount > 500.0, then: escalate, reason: It is much.}
  - id: who
    rules:
      - {id: foreign, when: segment == "Foreign", then: deny, reason: They are not from here.}
default: {then: deny, reason: Nobody said yes.}
autonomy:
  - {level: AL3, when: amount < 5.0}
  - {level: AL1, when: "items.all(item, item > 0.0)"}
escalation: {to: finance, within_hours: 24, then: deny}
"""
CASES = """\
cases:
  - name: little
    event: {type: Asked, data: {amount: 1}}
    expect: {verdict: approve, level: AL3, rules: [size/small]}
"""


@pytest.fixture(scope="session")
def small() -> str:
    return SMALL


@pytest.fixture(scope="session")
def cases() -> str:
    return CASES


@pytest.fixture(scope="session", params=["finance/discounts", "hr/leave"])
def sample(request: pytest.FixtureRequest) -> Path:
    return REPOSITORY / "samples" / "policies" / f"{request.param}.yaml"
