"""E-mail and IP addresses, by the standard library."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator
from email.utils import parseaddr

from stemma.redaction.model import Kind, Source, Span
from stemma.redaction.names import words

_AT = re.compile(r"@|%40")
# Local parts are read backwards from the "@", at most 64 characters of them (RFC 5321): a scan forwards over letters
# with no "@" behind them would start again at each of them.
_LOCAL_REVERSED = re.compile(r"[\w.+'\-]{1,64}")
_DOMAIN = re.compile(r"[\w.\-]{3,255}")
_TOP_LEVEL = re.compile(r"xn--[a-z0-9-]{2,59}|[^\W\d_]{2,24}", re.IGNORECASE)
_AUTHORITY = re.compile(r"://[^\s/@]*:[^\s/]*\Z")
_FILE_SUFFIXES = words("png jpg jpeg gif svg webp avif ico gz tgz bz2 xz whl tar jar js mjs css json yaml yml")

_IPV4 = re.compile(r"[0-9]{1,3}(?:\.[0-9]{1,3}){3}(?!\w|\.[0-9]|-[A-Za-z]|\+\w)")
_VERSION_BEFORE = re.compile(
    r"(?:version|ver\.?|release|revision|rev|build|section|sect?\.|chapter|clause|table|figure|article|step|oid|§"
    r"|==|[~<>!^]=?|(?<![:/])[a-z0-9]/|[a-z_]-)[\"':=\s]{0,3}\Z"
)
# Global, unique local and link-local ones, and NAT64: "dead::beef" and "a::b" are none.
_IPV6 = re.compile(r"[236f][0-9a-f]{1,3}:[0-9a-f:]{1,36}(?:(?:\.[0-9]{1,3}){3})?(?![\w:])")
_GROUP_BEFORE = re.compile(r"(?<![0-9a-z])[0-9a-f]{1,4}:$")
_IPV6_START = re.compile(r"[23][0-9a-f]{3}:|f[cd][0-9a-f]{2}:|fe[89ab][0-9a-f]:|64:ff9b:")


def find_emails(source: Source) -> Iterator[Span]:
    """Addresses with a dotted domain; `git@host:path`, `icon@2x.png` and `package@1.2.3` are none."""
    text = source.text
    for at in _AT.finditer(text):
        local = _LOCAL_REVERSED.match(text[max(0, at.start() - 64) : at.start()][::-1])
        if local is None:
            continue
        name = local.group()[::-1].lstrip(".'-")
        end = _domain_end(text, at.end())
        start = at.start() - len(name)
        if not name or end is None or (name == "git" and text[end : end + 1] in {":", "/"}):
            continue
        # The password of a URL is not the local part of an address.
        if _AUTHORITY.search(text, max(0, start - 160), start):
            continue
        address = f"{name}@{text[at.end() : end]}"
        if parseaddr(address)[1] == address:
            yield Span(start, end, Kind.EMAIL)


def _domain_end(text: str, start: int) -> int | None:
    found = _DOMAIN.match(text, start)
    if found is None:
        return None
    labels = found.group().split(".")
    while len(labels) > 1:
        top = _TOP_LEVEL.match(labels[-1])
        if top is not None:
            break
        labels.pop()
    else:
        return None
    before = labels[:-1]
    if any(not label or len(label) > 63 or label[0] in "-_" or label[-1] in "-_" for label in before):
        return None
    numeric = sum(label.isdigit() for label in before)
    if top.group().lower() in _FILE_SUFFIXES or numeric > 1 or re.fullmatch(r"\dx", before[0]):
        return None
    return start + sum(len(label) + 1 for label in before) + top.end()


def find_ips(source: Source) -> Iterator[Span]:
    """Addresses of machines: neither loopback, unspecified nor reserved ones, nor what is written as a version."""
    text = source.lower
    for found in _IPV4.finditer(text):
        if _is_inside(text, found.start()) or _VERSION_BEFORE.search(source.before(found.start(), 16)):
            continue
        if _is_address(found.group()):
            yield Span(found.start(), found.end(), Kind.IP)
    for found in _IPV6.finditer(text) if ":" in text else ():
        address = found.group() if found.group().endswith("::") else found.group().removesuffix(":")
        longer = _is_inside(text, found.start()) or _GROUP_BEFORE.search(source.before(found.start(), 6))
        if not longer and _IPV6_START.match(address) and _is_address(address):
            yield Span(found.start(), found.start() + len(address), Kind.IP)


def _is_inside(text: str, start: int) -> bool:
    """Whether something longer runs into `start`; asked afterwards, as a look-behind would slow the search."""
    before = text[start - 1 : start]
    return before.isalnum() or before in {"_", "."}


def _is_address(written: str) -> bool:
    try:
        address = ipaddress.ip_address(written)
    except ValueError:
        return False
    if isinstance(address, ipaddress.IPv4Address) and (address.is_reserved or int(address) >> 24 == 0):
        return False
    return not (address.is_loopback or address.is_unspecified)
