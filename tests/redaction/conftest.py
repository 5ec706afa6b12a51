from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import pytest


class Labelled(NamedTuple):
    """A text with one finding, at `start`."""

    kind: str
    origin: str
    text: str
    value: str
    start: int


def _rows(name: str) -> list[list[str]]:
    lines = (Path(__file__).parent / name).read_text("utf-8").splitlines()
    return [line.split("\t") for line in lines if line and not line.startswith("#")]


@pytest.fixture(scope="session")
def labelled() -> list[Labelled]:
    """Invented texts that each hold one finding."""
    rows = []
    for kind, origin, template, marked in _rows("labelled.tsv"):
        value = marked.replace("¦", "")
        rows.append(Labelled(kind, origin, template.replace("{}", value), value, template.index("{}")))
    return rows


@pytest.fixture(scope="session")
def lookalikes() -> list[tuple[str, str]]:
    """Texts that hold nothing, with what they look like."""
    return [(row[0], row[1]) for row in _rows("lookalikes.tsv")]
