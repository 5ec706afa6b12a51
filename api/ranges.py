"""A stored file as a response, whole or in part: ETag, `If-None-Match`, `Range` and `If-Range` (RFC 9110).

Which file it is, who may read it and what a browser makes of it is said by the route.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Final

from fastapi import Depends, Header, Request, Response
from fastapi.responses import StreamingResponse

from api.openapi import problems
from api.problems import problem_response
from stemma.store.files import OpenFile

_BLOCK: Final = 1 << 18
_RANGE = re.compile(r"bytes=(?:([0-9]{1,18})-([0-9]{1,18})?|-([0-9]{1,18}))")
_OF_THE_BODY: Final = frozenset({"Content-Type", "Content-Disposition"})

RESPONSES: Final[dict[int | str, dict[str, Any]]] = {
    200: {"description": "The file", "content": {"*/*": {"schema": {}}}},
    206: {"description": "The part that Range asks for", "content": {"*/*": {"schema": {}}}},
    304: {"description": "It is as If-None-Match says it was seen"},
    **problems(416),
}
"""What a route that answers by `respond` declares, beside its own problems."""


@dataclass(frozen=True, slots=True)
class Asked:
    """What a request asks for of a file."""

    part: str | None
    if_range: str | None
    if_none_match: str | None


def asked(
    part: Annotated[str | None, Header(alias="Range", description="One range of bytes (RFC 9110, 14)")] = None,
    if_range: Annotated[str | None, Header(description="The ETag of which it is a part")] = None,
    if_none_match: Annotated[str | None, Header(description="ETags that are there already")] = None,
) -> Asked:
    """The headers that choose a part."""
    return Asked(part, if_range, if_none_match)


AskedDep = Annotated[Asked, Depends(asked)]


def respond(request: Request, wanted: Asked, opened: OpenFile, headers: Mapping[str, str]) -> Response:
    """The file, the part of it that is asked for, or that it has not changed; closes it.

    `headers` say what the file is and how long it is kept.
    """
    etag = f'"{opened.version}"'
    made = {"ETag": etag, "Accept-Ranges": "bytes", **headers}
    seen = wanted.if_none_match
    if seen is not None and (seen.strip() == "*" or etag in _tags(seen)):
        opened.file.close()
        return Response(
            status_code=304, headers={name: value for name, value in made.items() if name not in _OF_THE_BODY}
        )
    part = _range(wanted.part, opened.size) if wanted.if_range in (None, etag) else None
    if part is not None and not part:
        opened.file.close()
        return problem_response(
            request.scope,
            status=416,
            code="range_not_satisfiable",
            title="Range not satisfiable",
            detail=f"The file has {opened.size} bytes.",
            headers={"Content-Range": f"bytes */{opened.size}"},
        )
    sent = range(opened.size) if part is None else part
    made["Content-Length"] = str(len(sent))
    if part is not None:
        made["Content-Range"] = f"bytes {part.start}-{part.stop - 1}/{opened.size}"
    return StreamingResponse(_blocks(opened, sent), 200 if part is None else 206, made)


def _tags(header: str) -> set[str]:
    return {tag.strip().removeprefix("W/") for tag in header.split(",")}


def _range(wanted: str | None, size: int) -> range | None:
    """The bytes that are asked for; None for all of them, and for what is no single range (RFC 9110, 14.2)."""
    found = _RANGE.fullmatch(wanted.strip()) if wanted is not None else None
    if found is None:
        return None
    first, last, suffix = (int(text) if text is not None else None for text in found.groups())
    if suffix is not None:
        return range(max(0, size - suffix), size)
    assert first is not None
    if last is not None and last < first:
        return None
    return range(first, size if last is None else min(last + 1, size))


def _blocks(opened: OpenFile, sent: range) -> Iterator[bytes]:
    with opened.file as file:
        file.seek(sent.start)
        left = len(sent)
        while left and (block := file.read(min(_BLOCK, left))):
            left -= len(block)
            yield block
