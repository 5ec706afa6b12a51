"""Secrets: provider keys by detect-secrets' plugins, and what is secret by its place (assignments, headers, URLs).

Only the plugins' patterns and offline checks are used, never their `verify`, which asks the provider. Their patterns
run over one token at a time, in windows of a fixed size, because some of them backtrack over whatever they are given.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from importlib import import_module

from stemma.redaction.model import PROVIDER_PREFIXES, Kind, Source, Span
from stemma.redaction.names import strength, words

_TOKEN = re.compile(r"[A-Za-z0-9_\-+/=.~:@%?&]{16,}")
_TAIL = re.compile(r"[A-Za-z0-9_\-]*=*")
_WINDOW, _STEP = 512, 256
_LOOKBACK = 96
_LONGEST_TAIL = 4096
_JUDGED = 256


@dataclass(frozen=True, slots=True)
class _Plugin:
    """A detect-secrets plugin and strings of which one is in every token (or lower-cased assignment) it can match."""

    module: str
    name: str
    anchors: tuple[str, ...]


_PLUGINS = (
    _Plugin("artifactory", "ArtifactoryDetector", ("AKC", "AP")),
    _Plugin("aws", "AWSKeyDetector", ("A3T", "ABIA", "ACCA", "AKIA", "ASIA")),
    _Plugin("discord", "DiscordBotTokenDetector", (".",)),
    _Plugin("github_token", "GitHubTokenDetector", ("gh",)),
    _Plugin("gitlab_token", "GitLabTokenDetector", ("gl", "GR1348941")),
    _Plugin("mailchimp", "MailchimpDetector", ("-us",)),
    _Plugin("openai", "OpenAIDetector", ("T3BlbkFJ",)),
    _Plugin("pypi_token", "PypiTokenDetector", ("pypi-",)),
    _Plugin("sendgrid", "SendGridDetector", ("SG.",)),
    _Plugin("slack", "SlackDetector", ("xox", "hooks.slack.com")),
    _Plugin("square_oauth", "SquareOAuthDetector", ("sq0csp-",)),
    _Plugin("stripe", "StripeDetector", ("k_live_",)),
    _Plugin("telegram_token", "TelegramBotTokenDetector", (":",)),
    _Plugin("twilio", "TwilioKeyDetector", ("AC", "SK")),
)
_ASSIGNED_PLUGINS = (
    _Plugin("aws", "AWSKeyDetector", ("aws",)),
    _Plugin("azure_storage_key", "AzureStorageKeyDetector", ("accountkey=",)),
    _Plugin("cloudant", "CloudantDetector", ("cloudant", "clou", "cl_", "cl-")),
    _Plugin("ibm_cloud_iam", "IbmCloudIamDetector", ("ibm", "iam")),
    _Plugin("ibm_cos_hmac", "IbmCosHmacDetector", ("secret",)),
    _Plugin("npm", "NpmDetector", ("_authtoken",)),
    _Plugin("softlayer", "SoftlayerDetector", ("softlayer", "sl_", "sl-")),
)

# Providers that detect-secrets has no plugin or an older form for, and our own keys, sessions and links.
_PREFIXED = (
    *((kind, re.compile(rf"{kind}[A-Za-z0-9_.\-]{{16,}}")) for kind in ("stm_", "sts_", "stl_")),
    ("sk-", re.compile(r"sk-(?:proj-|svcacct-|admin-|ant-[a-z0-9]+-|or-v1-|lf-)?[A-Za-z0-9_\-]{20,}")),
    ("github_pat_", re.compile(r"github_pat_[A-Za-z0-9_]{22,}")),
    ("AIza", re.compile(r"AIza[0-9A-Za-z_\-]{35}")),
    ("ya29.", re.compile(r"ya29\.[0-9A-Za-z_\-]{20,}")),
    ("GOCSPX-", re.compile(r"GOCSPX-[0-9A-Za-z_\-]{20,}")),
    ("hf_", re.compile(r"hf_[A-Za-z0-9]{30,}")),
    ("k_", re.compile(r"[sr]k_(?:live|test)_[0-9A-Za-z]{16,}")),
    ("whsec_", re.compile(r"whsec_[0-9A-Za-z+/]{24,}")),
    ("xox", re.compile(r"xox[abeoprs](?:\.xox[bp])?-[0-9A-Za-z\-]{20,}")),
    ("xapp-", re.compile(r"xapp-[0-9]-[0-9A-Za-z\-]{20,}")),
    ("npm_", re.compile(r"npm_[A-Za-z0-9]{36}")),
    ("dop_v1_", re.compile(r"dop_v1_[a-f0-9]{64}")),
    ("shp", re.compile(r"shp(?:at|ca|pa|ss)_[a-fA-F0-9]{32}")),
    ("hvs.", re.compile(r"hvs\.[A-Za-z0-9_\-]{24,}")),
    ("gsk_", re.compile(r"gsk_[A-Za-z0-9]{40,}")),
    ("pcsk_", re.compile(r"pcsk_[A-Za-z0-9_]{40,}")),
    ("lin_api_", re.compile(r"lin_api_[A-Za-z0-9]{40}")),
)
_PROVIDER_ID = re.compile(rf"(?:{'|'.join(PROVIDER_PREFIXES)})[_-][A-Za-z0-9]{{16,64}}(?![A-Za-z0-9_-])")
_JWT = re.compile(r"eyJ[A-Za-z0-9_\-=]{8,}(?:\.[A-Za-z0-9_\-=]*){1,4}")
_LETTER, _DIGIT = re.compile(r"[A-Za-z]"), re.compile(r"[0-9]")


def find_tokens(source: Source) -> Iterator[Span]:
    """Keys that their own form gives away, and identifiers of objects at a model provider."""
    text = source.text
    for token in _TOKEN.finditer(text):
        start, end = token.span()
        if _DIGIT.search(text, start, end) is None and "AKC" not in token.group():
            continue
        for begin in range(start, end, _STEP):
            stop = min(end, begin + _WINDOW)
            yield from _in_window(source, begin, stop, end)
            if stop == end:
                break


def _in_window(source: Source, start: int, stop: int, end: int) -> Iterator[Span]:
    text, part = source.text, source.text[start:stop]
    for plugin in _PLUGINS:
        if any(anchor in part for anchor in plugin.anchors):
            yield from _matches(source, _patterns(plugin), start, stop, end, Kind.SECRET)
    for anchor, pattern in _PREFIXED:
        if anchor in part:
            yield from _matches(source, (pattern,), start, stop, end, Kind.SECRET)
    if "_" in part or "-" in part:
        for span in _matches(source, (_PROVIDER_ID,), start, stop, end, Kind.PROVIDER_ID):
            if _LETTER.search(text, text.find(_separator(text, span), span.start) + 1, span.end):
                yield span
    if "eyJ" in part:
        for found in _JWT.finditer(text, start, stop):
            if _begins_token(text, found.start()) and _is_jwt_header(found.group().split(".")[0]):
                yield Span(found.start(), _jwt_end(text, found.end()), Kind.SECRET)
    if stop - start >= 24:
        line = max(text.rfind("\n", 0, start), start - _LOOKBACK, -1) + 1
        context = source.lower[line:stop]
        for plugin in _ASSIGNED_PLUGINS:
            if any(anchor in context for anchor in plugin.anchors):
                for pattern in _patterns(plugin):
                    for found in pattern.finditer(text, line, min(len(text), stop + 1)):
                        group = found.lastindex or 0
                        # Without a group the name is a part of the match: AccountKey=…
                        begin = found.start(group) if group else text.find("=", found.start()) + 1
                        yield Span(begin, found.end(group), Kind.SECRET)


def _separator(text: str, span: Span) -> str:
    return "_" if "_" in text[span.start : span.end] else "-"


def _matches(
    source: Source, patterns: tuple[re.Pattern[str], ...], start: int, stop: int, end: int, kind: Kind
) -> Iterator[Span]:
    text = source.text
    for pattern in patterns:
        for found in pattern.finditer(text, start, stop):
            begin = found.start()
            if not _begins_token(text, begin) or _DIGIT.search(found.group()) is None:
                continue
            stop_tail = min(end, found.end() + _LONGEST_TAIL) if kind is Kind.SECRET else found.end()
            tail = _TAIL.match(text, found.end(), stop_tail)
            yield Span(begin, tail.end() if tail else found.end(), kind)


def _begins_token(text: str, start: int) -> bool:
    """Whether no word runs into `start`; an escaped line break or a percent-encoded character is no word."""
    if start == 0 or not text[start - 1].isalnum():
        return True
    return re.fullmatch(r".?\\[nrt]|%[0-9A-Fa-f]{2}", text[max(0, start - 3) : start], re.DOTALL) is not None


def _is_jwt_header(part: str) -> bool:
    from detect_secrets.plugins.jwt import JwtTokenDetector

    return JwtTokenDetector.is_formally_valid(part)


def _jwt_end(text: str, position: int) -> int:
    rest = re.compile(r"[A-Za-z0-9_\-=+/]*(?:\.[A-Za-z0-9_\-=+/]+)*").match(text, position)
    return rest.end() if rest else position


@cache
def _patterns(plugin: _Plugin) -> tuple[re.Pattern[str], ...]:
    detector = getattr(import_module(f"detect_secrets.plugins.{plugin.module}"), plugin.name)
    patterns = tuple(detector.denylist)
    if plugin.module == "aws":
        # The first finds key ids by their form, the second secrets by the name that they are assigned to.
        return patterns[:1] if "AKIA" in plugin.anchors else patterns[1:]
    # The second finds any word in capitals that begins with AP and a hexadecimal digit.
    return patterns[:1] if plugin.module == "artifactory" else patterns


_PEM = re.compile(r"-----BEGIN [A-Z0-9 ]{0,40}PRIVATE KEY(?: BLOCK)?-----")
_PEM_END = re.compile(r"-----END [A-Z0-9 ]{0,40}PRIVATE KEY(?: BLOCK)?-----")
_PEM_BODY = re.compile(r"(?:[A-Za-z0-9+/=\s\\]|[A-Za-z-]+: [^\n]*\n)*")


def find_private_keys(source: Source) -> Iterator[Span]:
    """PEM blocks, cut off ones too."""
    text, done, ends = source.text, 0, True
    for begin in _PEM.finditer(text):
        if begin.start() < done:
            continue
        end = _PEM_END.search(text, begin.end()) if ends else None
        ends = end is not None
        if end is None:
            body = _PEM_BODY.match(text, begin.end())
            done = body.end() if body else begin.end()
        else:
            done = end.end()
        yield Span(begin.start(), done, Kind.SECRET)


_URL_TOKEN = re.compile(
    r"[?&;](?:(?:x-amz-|x-goog-|x-ms-)(?:signature|credential|security-token|expires|date|signedheaders)"
    r"|(?:[a-z0-9]{1,16}[_-])?(?:token|secret|signature|password|passwd|apikey)|sig|hmac|api[_-]key|access[_-]key"
    r"|awsaccesskeyid|googleaccessid|key-pair-id|policy|expires|expiry|exp|se|jwt|pwd|session_?id"
    r"|subscription-key|(?P<plain>key|code|state|auth|hash|ticket|nonce))=(?P<value>[^&;#\s\"'<>`\\]+)"
)
_RANDOM = re.compile(r"(?=[^0-9]*[0-9])(?=[^A-Za-z]*[A-Za-z])[A-Za-z0-9_\-+/=.~%]{16,}")


def find_url_tokens(source: Source) -> Iterator[Span]:
    """Values of query parameters that sign or authorize; the rest of the URL stays."""
    if "=" not in source.text:
        return
    for found in _URL_TOKEN.finditer(source.lower):
        start, end = found.span("value")
        if found["plain"] is None or _RANDOM.fullmatch(source.text, start, end):
            yield Span(start, end, Kind.URL_TOKEN)


_USERINFO = re.compile(r"[^\s/:@?#\"'<>\[\]]{0,128}:(?P<password>[^\s/\"'<>]{1,256})@")


def find_url_passwords(source: Source) -> Iterator[Span]:
    """The password in `scheme://user:password@host`."""
    position = source.text.find("://")
    while position >= 0:
        found = _USERINFO.match(source.text, position + 3)
        if found is not None:
            yield Span(*found.span("password"), Kind.SECRET)
        position = source.text.find("://", position + 3)


_SCHEME = re.compile(r"(?<![\w-])(bearer|basic)[ \t]+([a-z0-9\-._~+/]{8,}=*)")


def find_authorizations(source: Source) -> Iterator[Span]:
    """What follows `Bearer` or `Basic`, unless it is an English word."""
    if "bearer" not in source.lower and "basic" not in source.lower:
        return
    for found in _SCHEME.finditer(source.lower):
        start, end = found.span(2)
        value = source.text[start:end]
        given = _is_user_and_password(value) if found[1] == "basic" else _DIGIT.search(value) or len(value) >= 24
        if given:
            yield Span(start, end, Kind.SECRET)


def _is_user_and_password(value: str) -> bool:
    try:
        return b":" in base64.b64decode(value, validate=True)
    except binascii.Error:
        return False


# Cheap signs that a name such as strength() knows may stand here.
_ROOTS = (
    "passw", "passphrase", "passcode", "kennwort", "contrase", "passe", "pwd", "secret", "token", "key", "credential",
    "authorization", "cookie", "signature", "cvv", "cvc", "_pass", "jwt", "csrf", "xsrf", "session", "hmac",
    "connection",
)  # fmt: skip
_NAME_LEFT = re.compile(r"[\w.\-]{1,40}")
_NAME_RIGHT = re.compile(r"[\w\-]{0,40}")
_OPERATOR = re.compile(r"(?:\\{0,2}[\"'`])?\]?[ \t]{0,8}(?P<sign>=>|:=|={1,3}|:(?!:))[ \t]{0,8}")
_OPTION = re.compile(r"[ \t]{1,8}(?=[^\s-])")
_NAME_REACH = 128
_QUOTED = re.compile(r"[a-zA-Z@]{0,2}(?P<quote>\\{0,2}[\"'`])(?P<value>[^\r\n]{0,4096}?)(?P=quote)")
# Judged by its beginning, so that a long run of names without values is not read anew for each of them.
_UNQUOTED = r"[^\s\"'`,;&<>()\[\]{}|\\]"
_BARE = re.compile(f"{_UNQUOTED}{{1,{_JUDGED}}}")
_BARE_REST = re.compile(f"{_UNQUOTED}*")
_HEADER = re.compile(
    r"(?P<scheme>(?:bearer|basic|token|digest|negotiate|apikey|aws4-hmac-sha256|hmac|signature)[ \t]+)"
    r"(?P<value>[^\r\n\"'`\\]+)"
)
_COOKIES = re.compile(r"[\w.\-]+=[^\r\n\"'`\\]*")
_BENIGN = words(
    "none null nil true false yes no on off str string int integer float bool bytes any object undefined required"
    " optional missing invalid expired empty unset changed wrong incorrect default bearer basic here default"
    " secretstr redacted hidden masked unknown ok"
)
_REFERENCE = re.compile(r"(?:[$%<{*]|os\.|env\.|self\.|settings\.|config\.|secrets\.|process\.|x{3,}\Z|\.{3})", re.I)


def find_assigned(source: Source) -> Iterator[Span]:
    """Values that their name makes secret: `password=…`, `"api_key": "…"`, `Authorization: …`, `--token …`."""
    lower, done = source.lower, 0
    places = sorted(place for root in _ROOTS if root in lower for place in _places(lower, root))
    for place in places:
        if place < done:
            continue
        right = _NAME_RIGHT.match(source.text, place)
        left = _NAME_LEFT.match(source.text[max(0, place - 40) : place][::-1])
        start, end = place - (left.end() if left else 0), right.end() if right else place
        name = source.text[start:end]
        weight = 0 if _is_placeholder(source.text, start, end) else strength(name.lstrip("-"))
        if not weight:
            continue
        done = end
        found = _value(source, name, end, weight)
        if found is not None:
            # The value may end with a name of its own, whose value lies behind it.
            done = max(end, found.end - _NAME_REACH)
            yield found


def _is_placeholder(text: str, start: int, end: int) -> bool:
    """Whether a name is what stands in a secret's place; in `user[token]=…` it is a name."""
    in_brackets = text[start - 1 : start] == "[" and text[end : end + 1] == "]"
    return in_brackets and text[start:end] in {"secret", "token"} and not text[start - 2 : start - 1].isalnum()


def _places(lower: str, root: str) -> Iterator[int]:
    place = lower.find(root)
    while place >= 0:
        yield place
        place = lower.find(root, place + len(root))


def _value(source: Source, name: str, end: int, weight: int) -> Span | None:
    text = source.text
    operator = _OPERATOR.match(text, end) or (_OPTION.match(text, end) if name.startswith("--") else None)
    if operator is None:
        return None
    at = operator.end()
    header = name.lower().endswith(("authorization", "cookie"))
    if header:
        found = (_HEADER if name.lower().endswith("authorization") else _COOKIES).match(source.lower, at)
        if found is not None:
            group = "value" if "value" in found.re.groupindex else 0
            return Span(*found.span(group), Kind.SECRET)
    quoted = _QUOTED.match(text, at)
    if quoted is not None:
        start, stop = quoted.span("value")
        return Span(start, stop, Kind.SECRET) if _is_secret(text[start:stop], name, weight) else None
    bare = _BARE.match(text, at)
    if bare is None:
        return None
    start, stop = bare.span()
    if stop - start == _JUDGED and _is_secret(bare.group(), name, weight):
        rest = _BARE_REST.match(text, stop)
        return Span(start, rest.end() if rest else stop, Kind.SECRET)
    if "#" in bare.group() and text[end - len(name) - 1 : end - len(name)] in {"?", "&"}:
        stop = start + bare.group().index("#")
    colon = operator.groupdict().get("sign") == ":"
    if colon:
        stop -= len(bare.group()) - len(bare.group().rstrip(".:!?"))
    value = text[start:stop]
    if (text[stop : stop + 1] in {"(", "["} and "." in value) or not _is_secret(value, name, weight):
        return None
    # "password: please choose one" and "the secret: patience" are prose.
    if colon and not _looks_made_up(value):
        ends = re.match(r"[.,;:!?]?[ \t]*(?:\n|\Z)", text[stop : stop + 8])
        if ends is None or name.lower() in {"secret", "secrets"}:
            return None
    return Span(start, stop, Kind.SECRET)


def _is_secret(value: str, name: str, weight: int) -> bool:
    word = value.strip().lower()
    if len(word) < 3 or word in _BENIGN or _REFERENCE.match(word) or word == name.lower().lstrip("-"):
        return False
    if re.search(r"\w", word) is None:
        return False
    return weight == 2 or _is_random(value)


def _looks_made_up(value: str) -> bool:
    return re.fullmatch(r"[A-ZÀ-Þ]?[a-zà-ÿ]+(?:-[a-z]+)*", value) is None


def _is_random(value: str) -> bool:
    """Whether a value is more likely drawn than written: letters with digits, or detect-secrets' entropy."""
    if "://" not in value and len(value) >= 8 and _LETTER.search(value) and _DIGIT.search(value):
        return True
    return len(value) >= 20 and " " not in value and "://" not in value and _entropy()(value[:_JUDGED]) > 3.5


@cache
def _entropy() -> Callable[[str], float]:
    from detect_secrets.plugins.high_entropy_strings import Base64HighEntropyString

    measure: Callable[[str], float] = Base64HighEntropyString().calculate_shannon_entropy
    return measure
