"""Which names (of keys, parameters, headers, variables) say that their value is a secret."""

from __future__ import annotations

import re
from functools import lru_cache
from itertools import pairwise


def words(text: str) -> frozenset[str]:
    """The words of a text as a set, which reads better than a list of quoted ones."""
    return frozenset(text.split())


_PARTS = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-zà-ÿ]+")

# One of these words anywhere in the name is enough.
_STRONG = words(
    "password passwords passwd pwd passphrase passcode passwort kennwort contraseña contrasena motdepasse"
    " secret secrets apikey apikeys credential credentials authorization cookie cookies cvv cvc privatekey"
    " accesskey"
)
_STRONG_ENDS = ("password", "passwd", "secret", "apikey")
# These name a secret too, but are also words of other trades: in running text their values must look random.
_WEAK = words("token signature sig hmac jwt bearer csrf xsrf sessionid accesstoken refreshtoken authtoken")
_KEYS = words(
    "api auth access private priv secret signing encryption account service client db database master shared ssh"
    " storage session webhook subscription"
)
_PASSES = words("db database key user smtp ftp mysql pg redis root admin")
# "token_count", "secret_name": about a secret, not one.
_ABOUT = words(
    "count counts type types limit limits budget usage length len name names algorithm alg policy id ids version ttl"
    " expiry expires at in url uri endpoint path file size rate arn manager rotation required enabled valid error"
    " present index position field header prefix kind scanner detector"
)
# Tokens of tokenizers and of pagination.
_HARMLESS_TOKENS = words(
    "next page continuation sep pad eos bos unk mask cls special per stop start end max min last first word each"
    " this new any one input output prompt completion cached reasoning"
)


@lru_cache(maxsize=4096)
def strength(name: str) -> int:
    """2: the name says secret; 1: it often does, so that its value decides; 0: it does not."""
    parts = [part.lower() for part in _PARTS.findall(name[-80:])]
    if not parts:
        return 0
    if parts[-1] in _ABOUT and parts[-3:] != ["access", "key", "id"]:
        return 0
    if _STRONG.intersection(parts) or any(part.endswith(_STRONG_ENDS) for part in parts):
        return 2
    pairs = set(pairwise(parts))
    if any(second in {"key", "keys"} and first in _KEYS for first, second in pairs):
        return 2
    if any(second == "pass" and first in _PASSES for first, second in pairs):
        return 2
    if ("mot", "passe") in set(zip(parts, parts[2:], strict=False)):
        return 2
    if any(pair in pairs for pair in (("session", "id"), ("connection", "string"))):
        return 1
    for place, part in enumerate(parts):
        if part in _WEAK and not (part == "token" and place and parts[place - 1] in _HARMLESS_TOKENS):
            return 1
    return 0


def is_secret_name(name: str) -> bool:
    """Whether a key of this name holds a secret: `api_key`, `X-Auth-Token`, `clientSecret`; not `token_count`."""
    return strength(name) > 0
