"""The style sheets: colours stand in tokens.css alone, and are legible in both themes (WCAG 2.2, 1.4.3 and 1.4.11)."""

from __future__ import annotations

import re
from itertools import product

import pytest

from api.console.files import FOLDER
from api.console.rendering import TEMPLATES

HEX = re.compile(r"#[0-9a-fA-F]{3,8}\b")
TOKEN = re.compile(r"--([a-z-]+): light-dark\((#[0-9a-f]{6}), (#[0-9a-f]{6})\);")
GROUNDS = ("ground", "surface", "raised")
TONES = ("good", "warn", "bad", "info")
TEXT = [
    *product(("text", "muted", "accent", "accent-strong"), GROUNDS),
    *product(TONES, GROUNDS),
    *((tone, f"{tone}-soft") for tone in (*TONES, "accent")),
    *(("text", f"{tone}-soft") for tone in TONES),
    ("text", "mark"),
    ("on-accent", "accent"),
    ("on-accent", "accent-strong"),
    ("on-bad", "bad"),
    ("map-name", "map-land"),
]
SERIES = [f"series-{name}" for name in (*"abcdefg", "other")]
CONTROLS = [
    *product(("control", "accent"), GROUNDS),
    *((tone, f"{tone}-soft") for tone in TONES),
    *product(SERIES, ("surface", "map-land", "map-water")),
]
OURS = sorted(
    path
    for path in (*FOLDER.rglob("*"), *TEMPLATES.rglob("*"))
    if path.is_file() and path.parent.name != "vendor" and path.name != "tokens.css"
)


def themes() -> dict[str, dict[str, str]]:
    found = TOKEN.findall((FOLDER / "tokens.css").read_text())
    return {
        "vibelabz-clean": {name: light for name, light, _ in found},
        "narco-noir": {name: dark for name, _, dark in found},
    }


def luminance(colour: str) -> float:
    """Relative luminance, as WCAG 2.2 defines it."""
    channels = (int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5))
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    lighter, darker = sorted((luminance(one), luminance(other)), reverse=True)
    return (lighter + 0.05) / (darker + 0.05)


def test_contrast_is_what_the_standard_says() -> None:
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    assert contrast("#777777", "#ffffff") == pytest.approx(4.48, abs=0.01)


@pytest.mark.parametrize("theme", ["narco-noir", "vibelabz-clean"])
def test_text_and_controls_are_legible(theme: str) -> None:
    colours = themes()[theme]
    wanted = [*((pair, 4.5) for pair in TEXT), *((pair, 3.0) for pair in CONTROLS)]
    found = {(pair, least): contrast(colours[pair[0]], colours[pair[1]]) for pair, least in wanted}
    assert {pair: round(ratio, 2) for pair, ratio in found.items() if ratio < pair[1]} == {}


@pytest.mark.parametrize("path", OURS, ids=lambda path: path.name)
def test_no_colour_stands_outside_the_tokens(path) -> None:
    assert HEX.findall(re.sub(r"&#\d+;|href=\"#[\w-]+\"", "", path.read_text())) == []


def test_every_token_that_is_used_exists() -> None:
    defined = set(re.findall(r"(--[a-z0-9-]+):", (FOLDER / "tokens.css").read_text()))
    used = {name for path in FOLDER.glob("*.css") for name in re.findall(r"var\((--[a-z0-9-]+)\)", path.read_text())}
    assert used - defined == set()
