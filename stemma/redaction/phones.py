"""Phone numbers, by Google's libphonenumber (`phonenumbers`)."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from itertools import islice
from typing import Any, NamedTuple

from stemma.redaction.model import Source

# Written without a country code, a number is looked for under the numbering plans of these regions.
_TRUNK_ZERO = (
    "GB", "DE", "FR", "NL", "BE", "AT", "CH", "IE", "SE", "FI", "AU", "NZ", "JP", "KR", "IN", "ZA", "TR", "IL", "TW",
    "IT", "BR",
)  # fmt: skip
_NO_TRUNK = ("US", "ES", "PT", "DK", "NO", "PL", "CZ", "GR", "MX", "SG", "HK", "IT", "IN", "CN", "BR", "AR")

_RUN = re.compile(r"[(+]{0,2}[0-9](?:[ \t\u00a0.\-/()\u2010-\u2015]{0,3}[0-9]){6,17}")
_SEPARATED = re.compile(r"[0-9][^0-9]{1,3}[0-9]")
_BRACKETS = re.compile(r"\(\+?[0-9]{1,5}\)")
_NORTH_AMERICAN = re.compile(
    r"(?:1[-. ])?(?:\([2-9][0-9]{2}\) ?|[2-9][0-9]{2}([-. ]))[2-9][0-9]{2}(?(1)\1|[-. ])[0-9]{4}(?![0-9])"
)
_DATE = re.compile(r"\(?[0-9]{1,4}([./-])[0-9]{1,2}\1[0-9]{1,4}(?![0-9]|\1[0-9])")
# Digits behind a dash or point are the rest of a code, a date, a decimal.
_BEHIND_A_CODE = re.compile(r"[0-9][\-./:]|[^\W\d_]-")
_DECIMAL = re.compile(r"[0-9]{1,2}\.[0-9]{5,}")
_CALLING = re.compile(
    r"(?:\btel|phone|fon\b|\bph\b|\bph\.|\bmob|\bcell|\bcall\b|\bring\b|\bdial\b|\bfax\b|whatsapp|\bsms\b|\btext me\b"
    r"|handy|rufnummer|anruf|numéro|\btél|téléphone|appel|móvil|celular|llam|cellulare|telef|telev|puhelin"
    r"|\bmobil|電話|전화|тел)[^0-9\n]{0,24}\Z"
)
_GROUP = re.compile("[0-9]+")
_SHORTEST, _LONGEST = 7, 12
_EXTENSION = 16
_TRIES = 10
_PRICED = ("_", "$", "€", "£", "¥", "#")
_ESCAPES = ("\\n", "\\r", "\\t")


@cache
def _library() -> Any:
    import phonenumbers

    return phonenumbers


_SERVICES = (
    "fixed_line", "mobile", "toll_free", "premium_rate", "shared_cost", "personal_number", "voip", "pager", "uan",
    "voicemail",
)  # fmt: skip


@cache
def _plan(region: str) -> re.Pattern[str]:
    """All national numbers of a region and of those that share its country code, from the library's metadata.

    The library compiles its patterns anew whenever `re` has forgotten them, which trying 34 regions ensures; this
    pattern of ours leaves it the few regions in which the number can be valid.
    """
    library = _library()
    patterns = set()
    for sharing in library.COUNTRY_CODE_TO_REGION_CODE[library.country_code_for_region(region)]:
        metadata = library.PhoneMetadata.metadata_for_region(sharing)
        services = [getattr(metadata, service) for service in _SERVICES]
        patterns |= {found.national_number_pattern for found in services if found and found.national_number_pattern}
    return re.compile("|".join(sorted(patterns)))


def find_phone(source: Source, start: int) -> tuple[int, int] | None:
    """The phone number that begins with the digit at `start`, or with a plus or bracket before it.

    A number with a country code is enough by itself. Without one it must be written as a number of its region is
    written, with a trunk 0, brackets or the North American dashes, or a word like "phone" must stand before it.
    """
    text = source.text
    # Most digits are no number's, which is soon seen.
    if _RUN.match(text, start) is None:
        return None
    begin = start
    if begin and text[begin - 1] == "+":
        begin -= 1
    if begin and text[begin - 1] == "(" and _BRACKETS.match(text, begin - 1):
        begin -= 1
    before = text[max(0, begin - 2) : begin]
    if before[-1:] in _PRICED or (before[-1:].isalnum() and before not in _ESCAPES):
        return None
    run = None if _BEHIND_A_CODE.fullmatch(before) else _RUN.match(text, begin)
    if run is None or _DATE.match(text, start) or _DECIMAL.match(text, start):
        return None
    written = run.group()
    for reading in islice(_readings(source, begin, written), _TRIES):
        window = written[: reading.length] if reading.length else text[begin : run.end() + _EXTENSION]
        for found in _library().PhoneNumberMatcher(window, reading.region, reading.leniency, 4):
            if _GROUP.search(window, 0, found.start) is None:
                return begin + found.start, begin + found.end
            break
    return None


class _Reading(NamedTuple):
    """A region in which to read a number, how strictly, and how much of what is written; 0: all and an extension."""

    region: str | None
    leniency: int
    length: int = 0


def _readings(source: Source, begin: int, written: str) -> Iterator[_Reading]:
    leniency = _library().Leniency
    if "+" in written[:2]:
        yield _Reading(None, leniency.VALID)
        return
    digits = "".join(_GROUP.findall(written))
    if digits.startswith("00"):
        yield _Reading("DE", leniency.VALID)
        return
    if _CALLING.search(source.before(begin, 48)):
        regions = _TRUNK_ZERO if digits.startswith("0") else (*_NO_TRUNK, *_TRUNK_ZERO)
        for region, length in _plausible(regions, written):
            yield _Reading(region, leniency.VALID, length)
    if _NORTH_AMERICAN.match(source.text, begin):
        yield _Reading("US", leniency.STRICT_GROUPING)
    if (digits.startswith("0") and _SEPARATED.search(written)) or _BRACKETS.match(written):
        for region, length in _plausible(_TRUNK_ZERO, written):
            yield _Reading(region, leniency.STRICT_GROUPING, length)


def _plausible(regions: tuple[str, ...], written: str) -> Iterator[tuple[str, int]]:
    """Regions in whose plan the digits up to the end of a group are a number, and that end; the longest come first."""
    groups = list(_GROUP.finditer(written))
    for count in range(len(groups), 0, -1):
        head = "".join(group.group() for group in groups[:count]).removeprefix("0")
        if _SHORTEST <= len(head) <= _LONGEST:
            for region in regions:
                if _plan(region).fullmatch(head):
                    yield region, groups[count - 1].end()
