"""If-Match on what may only be changed as it was seen (RFC 9110, 13.1.1; RFC 6585, 3)."""

from __future__ import annotations

import re
from typing import Annotated

from fastapi import Depends, Header

from stemma.errors import PreconditionRequired

_ENTITY_TAG = re.compile(r'(W/)?"([^"]*)"')


def seen_etags(
    if_match: Annotated[
        str | None,
        Header(
            alias="If-Match",
            max_length=4096,
            description="The ETag of what was looked at; `*` is not taken, because it says nothing of that",
            examples=['"8e4d8c9bc7fa23ac3349fdcf8707c60e"'],
        ),
    ] = None,
) -> frozenset[str]:
    """The strong entity tags of the header, without quotes; raises PreconditionRequired when it is missing or `*`."""
    if if_match is None or if_match.strip() == "*":
        what = "The request has to say by If-Match what was looked at."
        raise PreconditionRequired("if_match_missing", what, field="If-Match", hint="Send the ETag that GET gave.")
    return frozenset(tag for weak, tag in _ENTITY_TAG.findall(if_match) if not weak)


SeenDep = Annotated[frozenset[str], Depends(seen_etags)]


def entity_tag(etag: str) -> str:
    """The ETag header of what `etag` names."""
    return f'"{etag}"'
