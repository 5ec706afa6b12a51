"""Phone numbers, by Google's libphonenumber (`phonenumbers`)."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from typing import Any

from stemma.redaction.model import Source

# Written without a country code, a number is looked for under the numbering plans of these regions.
_TRUNK_ZERO = (
    "GB", "DE", "FR", "NL", "BE", "AT", "CH", "IE", "SE", "FI", "AU", "NZ", "JP", "KR", "IN", "ZA", "TR", "IL", "TW",
    "IT", "BR",
)  # fmt: skip
_REGIONS = (*_TRUNK_ZERO, "US", "ES", "PT", "DK", "NO", "PL", "CZ", "GR", "MX", "AR", "SG", "HK", "CN")

_RUN = re.compile(r"[(+]{0,2}[0-9](?:[ \t\u00a0.\-/()\u2010-\u2015]{0,3}[0-9]){6,17}")
_SEPARATED = re.compile(r"[0-9][^0-9]{1,3}[0-9]")
_BRACKETS = re.compile(r"\(\+?[0-9]{1,5}\)")
_NORTH_AMERICAN = re.compile(
    r"(?:1[-. ])?(?:\([2-9][0-9]{2}\) ?|[2-9][0-9]{2}([-. ]))[2-9][0-9]{2}(?(1)\1|[-. ])[0-9]{4}(?![0-9])"
)
_DATE = re.compile(r"\(?[0-9]{1,4}([./-])[0-9]{1,2}\1[0-9]{1,4}(?![0-9]|\1[0-9])")
_DECIMAL = re.compile(r"[0-9]{1,3}[.][0-9]{5,}(?![0-9 .\-/]*[0-9])")
_CALLING = re.compile(
    r"(?:\btel|phone|fon\b|\bph\b|\bph\.|\bmob|\bcell|\bcall\b|\bring\b|\bdial\b|\bfax\b|whatsapp|\bsms\b|\btext me\b"
    r"|handy|rufnummer|anruf|numéro|\btél|téléphone|appel|móvil|celular|llam|cellulare|telef|telev|puhelin|nummer"
    r"|\bmobil|電話|전화|тел)[^0-9\n]{0,24}\Z"
)
_EXTENSION = 16


@cache
def _library() -> Any:
    import phonenumbers

    return phonenumbers


@cache
def _plan(region: str) -> re.Pattern[str]:
    """All national numbers of a region, as its numbering plan's pattern: a cheap test before the real one."""
    metadata = _library().PhoneMetadata.metadata_for_region(region)
    return re.compile(metadata.general_desc.national_number_pattern)


def find_phone(source: Source, start: int) -> tuple[int, int] | None:
    """The phone number that begins with the digit at `start`, or with a plus or bracket before it.

    A number with a country code is enough by itself. Without one it must be written as a number of its region is
    written, with a trunk 0, brackets or the North American dashes, or a word like "phone" must stand before it.
    """
    text = source.text
    begin = start
    if begin and text[begin - 1] == "+":
        begin -= 1
    if begin and text[begin - 1] == "(" and _BRACKETS.match(text, begin - 1):
        begin -= 1
    if begin and (text[begin - 1].isalnum() or text[begin - 1] in "_$€£¥#"):
        return None
    # Digits behind a dash or point are the rest of a code, a date, a decimal.
    before = text[max(0, begin - 2) : begin]
    if len(before) == 2 and (before[1] in "-./:" and before[0].isdigit() or before[1] == "-" and before[0].isalpha()):
        return None
    run = _RUN.match(text, begin)
    if run is None or _DATE.match(text, start) or _DECIMAL.match(text, start):
        return None
    written = run.group()
    window = text[begin : run.end() + _EXTENSION]
    for region, leniency in _readings(source, begin, written):
        found = _match(window, region, leniency)
        if found is not None:
            return begin + found[0], begin + found[1]
    return None


def _readings(source: Source, begin: int, written: str) -> Iterator[tuple[str | None, int]]:
    leniency = _library().Leniency
    if "+" in written[:2]:
        yield None, leniency.VALID
        return
    digits = re.sub(r"[^0-9]", "", written)
    if digits.startswith("00"):
        yield "DE", leniency.VALID
        return
    if _CALLING.search(source.before(begin, 48)):
        for region in _plausible(_REGIONS, digits):
            yield region, leniency.VALID
    if _NORTH_AMERICAN.match(source.text, begin):
        yield "US", leniency.STRICT_GROUPING
    if (digits.startswith("0") and _SEPARATED.search(written)) or _BRACKETS.match(written):
        for region in _plausible(_TRUNK_ZERO, digits):
            yield region, leniency.STRICT_GROUPING


def _plausible(regions: tuple[str, ...], digits: str) -> Iterator[str]:
    """Regions in whose plan some beginning of the digits is a number; a trunk 0 is not part of it."""
    national = digits.removeprefix("0")
    for region in regions:
        plan = _plan(region)
        if plan.match(national) or plan.match(digits):
            yield region


def _match(window: str, region: str | None, leniency: int) -> tuple[int, int] | None:
    for found in _library().PhoneNumberMatcher(window, region, leniency, 4):
        return (found.start, found.end) if found.start <= 2 else None
    return None
