"""Cards, bank accounts and national identity numbers: how they are written, and who validates them.

The validators are those of `python-stdnum`; a form that it does not know (the UK's National Insurance number) has its
rule here. A form so plain that a checksum alone says little (nine digits, say) counts only behind a word that names
it, such as "BSN" or "tax id".
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from itertools import chain

from stemma.redaction.model import Kind, Source, Span

_CONTEXT = 48
_SHAPE = str.maketrans(
    "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ", "9" * 10 + "A" * 52
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class _Rule:
    """A written form.

    `first` are the shapes (9 for a digit, A for a letter) of its first word that holds a digit, which begins `lead`
    characters into the form; `words` are those of which one must stand before it, none: the form is enough.
    """

    validator: str
    form: re.Pattern[str]
    first: tuple[str, ...]
    words: tuple[str, ...] = ()
    lead: int = 0
    kind: Kind = Kind.NATIONAL_ID


def _rule(
    validator: str, form: str, first: str, words: str = "", *, lead: int = 0, kind: Kind = Kind.NATIONAL_ID
) -> _Rule:
    return _Rule(
        validator, re.compile(form), tuple(first.split()), tuple(filter(None, words.split("|"))), lead=lead, kind=kind
    )


def _nines(*lengths: int) -> str:
    return " ".join("9" * length for length in lengths)


_D = "[0-9]"
_RULES = (
    _rule("card", rf"{_D}{{4}}([ -]){_D}{{4}}\1{_D}{{4}}\1{_D}{{4}}(?:\1{_D}{{3}})?", "9999", kind=Kind.CARD),
    _rule("card", rf"{_D}{{4}}([ -]){_D}{{6}}\1{_D}{{4,5}}", "9999", kind=Kind.CARD),
    _rule("card", rf"{_D}{{14,19}}", _nines(14, 15, 16, 19), kind=Kind.CARD),
    # Written with punctuation of their own, or with letters and a checksum: the form is enough.
    _rule("us.ssn us.itin", r"[0-9]{3}-[0-9]{2}-[0-9]{4}", "999"),
    _rule("nino", r"[A-Z]{2}[0-9]{6}[A-D]", "AA999999A"),
    _rule("nino", r"[A-Z]{2} ?[0-9]{2} [0-9]{2} [0-9]{2} ?[A-D]", "AA99"),
    _rule("nino", r"[A-Z]{2} [0-9]{2} [0-9]{2} [0-9]{2} ?[A-D]", "99", lead=3),
    _rule("nino", r"[A-Z]{2} [0-9]{6} ?[A-D]", "999999 999999A", lead=3),
    _rule("de.idnr", r"[0-9]{2} [0-9]{3} [0-9]{3} [0-9]{3}", "99"),
    _rule("nir", r"[12][0-9]{14}", _nines(15)),
    _rule("nir", r"[12]([ .])[0-9]{2}\1[0-9]{2}\1[0-9][0-9AB]\1[0-9]{3}\1[0-9]{3}[ .][0-9]{2}", "9"),
    _rule("nir", r"[12][0-9]{4}2[AB][0-9]{8}", "999999A99999999"),
    _rule("es.dni", r"[0-9]{8}[ -]?[A-HJ-NP-TV-Z]", "99999999A 99999999"),
    _rule("es.dni", r"[0-9]{2}\.[0-9]{3}\.[0-9]{3}-?[A-HJ-NP-TV-Z]", "99"),
    _rule("es.nie", r"[XYZ][0-9]{7}[ -]?[A-HJ-NP-TV-Z]", "A9999999A A9999999"),
    _rule("es.nie", r"[XYZ]-[0-9]{7}-?[A-HJ-NP-TV-Z]", "9999999A 9999999", lead=2),
    _rule("it.codicefiscale", r"[A-Za-z]{6}[0-9]{2}[A-Za-z][0-9]{2}[A-Za-z][0-9]{3}[A-Za-z]", "AAAAAA99A99A999A"),
    _rule("it.codicefiscale", r"[A-Z]{3} [A-Z]{3} [0-9]{2}[A-Z][0-9]{2} [A-Z][0-9]{3}[A-Z]", "99A99", lead=8),
    _rule("br.cpf", r"[0-9]{3}\.[0-9]{3}\.[0-9]{3}-[0-9]{2}", "999"),
    _rule("in_.aadhaar", r"[2-9][0-9]{3}([ -])[0-9]{4}\1[0-9]{4}", "9999"),
    _rule("be.nn", r"[0-9]{2}[. ][0-9]{2}[. ][0-9]{2}[- ][0-9]{3}[. ][0-9]{2}", "99"),
    _rule("ch.ssn", r"756\.[0-9]{4}\.[0-9]{4}\.[0-9]{2}", "756 999"),
    _rule("ch.ssn", r"756[0-9]{10}", _nines(13)),
    _rule("se.personnummer", r"(?:[0-9]{2})?[0-9]{6}[-+][0-9]{4}", "999999 99999999"),
    _rule("fi.hetu", r"[0-9]{6}[-+A-FU-Y][0-9]{3}[0-9A-Y]", "999999 999999A999A 999999A9999"),
    _rule("cz.rc", r"[0-9]{6}/[0-9]{3,4}", "999999"),
    _rule("kr.rrn", r"[0-9]{6}-[0-9]{7}", "999999"),
    _rule("cn.ric", r"[1-9][0-9]{16}[0-9X]", "99999999999999999A " + _nines(18)),
    _rule("mx.curp", r"[A-Z]{4}[0-9]{6}[HMX][A-Z]{5}[0-9A-Z][0-9]", "AAAA999999AAAAAAA9 AAAA999999AAAAAA99"),
    _rule("cl.rut", r"[0-9]{1,2}\.[0-9]{3}\.[0-9]{3}-[0-9K]", "9 99"),
    _rule("ar.cuit", r"(?:20|23|24|27)-[0-9]{8}-[0-9]", "99"),
    _rule("th.pin", r"[0-9]-[0-9]{4}-[0-9]{5}-[0-9]{2}-[0-9]", "9"),
    # Plain digits: only behind a word that names them.
    _rule("us.ssn us.itin", r"[0-9]{3}( ?)[0-9]{2}\1[0-9]{4}", _nines(3, 9), "ssn|social security|itin|taxpayer"),
    _rule("ca.sin", r"[0-9]{3}([ -]?)[0-9]{3}\1[0-9]{3}", _nines(3, 9), r"\bsin\b|social insurance|assurance sociale"),
    _rule("gb.nhs", r"[0-9]{3}([ -]?)[0-9]{3}\1[0-9]{4}", _nines(3, 10), r"\bnhs\b"),
    _rule("gb.utr", r"[0-9]{10}|[0-9]{5} [0-9]{5}", _nines(5, 10), r"\butr\b|taxpayer reference"),
    _rule("de.idnr", r"[0-9]{11}", _nines(11), r"steuer|\bidnr|\btin\b|tax id"),
    _rule("nl.bsn", r"[0-9]{9}|[0-9]{4}\.[0-9]{2}\.[0-9]{3}", _nines(4, 9), r"\bbsn\b|burgerservice|sofi"),
    _rule("br.cpf", r"[0-9]{11}", _nines(11), r"\bcpf\b"),
    _rule("in_.aadhaar", r"[2-9][0-9]{11}", _nines(12), "aadhaar|aadhar|uidai|आधार"),
    _rule("in_.pan", r"[A-Z]{5}[0-9]{4}[A-Z]", "AAAAA9999A", r"\bpan\b|permanent account"),
    _rule("be.nn", r"[0-9]{11}", _nines(11), "rijksregister|registre national|national number|niss|insz"),
    _rule("se.personnummer", r"(?:[0-9]{2})?[0-9]{10}", _nines(10, 12), "personnummer|personal number"),
    _rule("dk.cpr", r"[0-9]{6}-?[0-9]{4}", _nines(6, 10), r"\bcpr\b|personnummer"),
    _rule("no.fodselsnummer", r"[0-9]{6} ?[0-9]{5}", _nines(6, 11), "fødselsnummer|fodselsnummer|personnummer"),
    _rule("pl.pesel", r"[0-9]{11}", _nines(11), "pesel"),
    _rule("ro.cnp", r"[0-9]{13}", _nines(13), r"\bcnp\b|cod numeric"),
    _rule("cz.rc", r"[0-9]{9,10}", _nines(9, 10), "rodné|rodne"),
    _rule("hr.oib", r"[0-9]{11}", _nines(11), r"\boib\b"),
    _rule("pt.nif", r"[0-9]{3}( ?)[0-9]{3}\1[0-9]{3}", _nines(3, 9), r"\bnif\b|contribuinte"),
    _rule("gr.amka", r"[0-9]{11}", _nines(11), r"αμκα|\bamka\b"),
    _rule("ie.pps", r"[0-9]{7}[A-Z]{1,2}", "9999999A 9999999AA", r"\bpps|personal public service"),
    _rule("at.vnr", r"[0-9]{4} ?[0-9]{6}", _nines(4, 10), r"\bsvnr|versicherungsnummer|\bsvn\b|sv-n"),
    _rule("bg.egn", r"[0-9]{10}", _nines(10), r"\begn\b|егн"),
    _rule("ee.ik", r"[0-9]{11}", _nines(11), "isikukood"),
    _rule("lt.asmens", r"[0-9]{11}", _nines(11), "asmens kod"),
    _rule("lv.pvn", r"[0-9]{6}-?[0-9]{5}", _nines(6, 11), "personas kod"),
    _rule("tr.tckimlik", r"[0-9]{11}", _nines(11), "kimlik|t.c."),
    _rule("il.idnr", r"[0-9]{9}|[0-9]{8}-[0-9]", _nines(8, 9), "teudat|zehut|תעודת זהות"),
    _rule("za.idnr", r"[0-9]{13}|[0-9]{6} [0-9]{4} [0-9]{3}", _nines(6, 13), r"\bid\b|identity"),
    _rule("kr.rrn", r"[0-9]{13}", _nines(13), "주민|resident registration"),
    _rule("jp.in_", r"[0-9]{4}( ?)[0-9]{4}\1[0-9]{4}", _nines(4, 12), "my number|個人番号|マイナンバー"),
    _rule("th.pin", r"[0-9]{13}", _nines(13), "thai id|national id|บัตรประชาชน"),
    _rule("my.nric", r"[0-9]{6}-?[0-9]{2}-?[0-9]{4}", _nines(6, 12), "nric|mykad"),
    _rule("id.nik", r"[0-9]{16}", _nines(16), r"\bnik\b|\bktp\b"),
    _rule("au.tfn", r"[0-9]{3}( ?)[0-9]{3}\1[0-9]{2,3}", _nines(3, 8, 9), r"\btfn\b|tax file"),
    _rule("nz.ird", r"[0-9]{2,3}-?[0-9]{3}-?[0-9]{3}", _nines(2, 3, 8, 9), r"\bird\b|inland revenue"),
    _rule("ar.dni", r"[0-9]{8}|[0-9]{2}\.[0-9]{3}\.[0-9]{3}", _nines(2, 8), r"\bdni\b|documento"),
)  # fmt: skip
_BY_SHAPE: dict[str, tuple[_Rule, ...]] = {
    shape: tuple(rule for rule in _RULES if shape in rule.first) for shape in chain(*(rule.first for rule in _RULES))
}
_IBAN = re.compile(r"[A-Z]{2}[0-9]{2}(?:[ -]?[A-Z0-9]){11,30}")
_IBAN_COMPACT = re.compile(r"[A-Za-z]{2}[0-9]{2}[A-Za-z0-9]{11,30}")
_SHORTEST_IBAN = 15


def shape_of(word: str) -> str:
    """The word with 9 for each digit and A for each ASCII letter."""
    return word.translate(_SHAPE)


def find_identifiers(source: Source, start: int, shape: str) -> Iterator[Span]:
    """What begins with the word of this shape at `start` and passes its validator."""
    if shape.startswith("AA99"):
        found = _find_iban(source.text, start)
        if found is not None:
            yield found
    for rule in _BY_SHAPE.get(shape, ()):
        begin = start - rule.lead
        match = rule.form.match(source.text, begin) if begin >= 0 else None
        if match is None or _is_glued(source.text, *match.span()):
            continue
        if rule.words and not _names(rule.words).search(source.before(begin, _CONTEXT)):
            continue
        if any(_is_valid(name, match.group().replace(" ", "")) for name in rule.validator.split()):
            yield Span(begin, match.end(), rule.kind)


@cache
def _names(words: tuple[str, ...]) -> re.Pattern[str]:
    return re.compile("|".join(words))


def _is_glued(text: str, start: int, end: int) -> bool:
    """Whether the characters are a part of something longer: a word, a hyphenated code, a decimal, a price."""
    before, after = text[max(0, start - 2) : start], text[end : end + 2]
    if before:
        last = before[-1]
        escape = last in "nrt" and before[:-1] == "\\"
        if (last.isalnum() and not escape) or last in "_$€£¥#":
            return True
        if last in "-.+,:" and before[:-1].isalnum() and (last == "-" or before[0].isdigit()):
            return True
    if after:
        if after[0].isalnum() or after[0] == "_":
            return True
        return after[0] in "-.,:" and after[1:].isalnum() and (after[0] == "-" or after[1].isdigit())
    return False


def _find_iban(text: str, start: int) -> Span | None:
    """An IBAN at `start`: the longest prefix of what may belong to it that its country's form and checksum accept."""
    match = _IBAN.match(text, start) or _IBAN_COMPACT.match(text, start)
    if match is None:
        return None
    places = [place for place in range(start, match.end()) if text[place] not in " -"]
    compact = "".join(text[place] for place in places).upper()
    for length in range(len(compact), _SHORTEST_IBAN - 1, -1):
        end = places[length - 1] + 1
        number = compact[:length]
        if _remainder_of_97(number) == 1 and not _is_glued(text, start, end) and _is_valid("iban", number):
            return Span(start, end, Kind.IBAN)
    return None


def _remainder_of_97(number: str) -> int:
    return int("".join(str(int(letter, 36)) for letter in number[4:] + number[:4])) % 97


def _is_valid(validator: str, number: str) -> bool:
    try:
        return _validator(validator)(number)
    except Exception:
        # Some validators raise what they do not declare: cn.ric a KeyError for a county that it does not know.
        return False


@cache
def _validator(name: str) -> Callable[[str], bool]:
    if name in _OWN_VALIDATORS:
        return _OWN_VALIDATORS[name]
    valid: Callable[[str], bool] = import_module(f"stdnum.{name}").is_valid
    return valid


# Issuers' ranges (ISO/IEC 7812) with their lengths; the checksum alone would take one number in ten.
_ISSUERS = re.compile(
    r"4[0-9]{15}(?:[0-9]{3})?|5[1-5][0-9]{14}|2(?:22[1-9]|2[3-9][0-9]|[3-6][0-9]{2}|7[01][0-9]|720)[0-9]{12}"
    r"|3[47][0-9]{13}|3(?:0[0-5]|[689][0-9])[0-9]{11}|(?:6011|65[0-9]{2}|64[4-9][0-9])[0-9]{12}|35[0-9]{14}"
    r"|62[0-9]{14}(?:[0-9]{3})?|(?:5018|5020|5038|6304|6759|676[1-3])[0-9]{12}(?:[0-9]{3})?"
)


def _is_card(number: str) -> bool:
    from stdnum import luhn

    digits = re.sub("[ -]", "", number)
    return _ISSUERS.fullmatch(digits) is not None and len(set(digits)) > 1 and bool(luhn.is_valid(digits))


# https://www.gov.uk/hmrc-internal-manuals/national-insurance-manual/nim39110
_NINO = re.compile(r"(?!BG|GB|KN|NK|NT|TN|ZZ)[A-CEGHJ-PR-TW-Z][A-CEGHJ-NPR-TW-Z][0-9]{6}[A-D]")


def _is_nino(number: str) -> bool:
    return _NINO.fullmatch(number.replace(" ", "")) is not None


def _is_nir(number: str) -> bool:
    from stdnum.fr import nir

    compact = re.sub("[ .]", "", number)
    month = int(compact[3:5])
    return (1 <= month <= 12 or 20 <= month <= 42 or month >= 50) and bool(nir.is_valid(compact))


_OWN_VALIDATORS: dict[str, Callable[[str], bool]] = {"card": _is_card, "nino": _is_nino, "nir": _is_nir}
