"""Stored files to whoever has a signed URL of one, and signing such URLs.

A file is only ever looked at or saved: what a browser could run is saved, and all of it is served under a policy in
which nothing runs. What a signed URL is, is the business of `stemma.store.signed_urls`.
"""

from __future__ import annotations

import mimetypes
import re
from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Annotated, Final
from urllib.parse import quote

from fastapi import APIRouter, Header, Path, Request, Response
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, Field

from api.access import allow
from api.bodies import RequestBody
from api.deps import SettingsDep
from api.limits import limited
from api.openapi import problems
from api.problems import problem_response
from api.routers import API
from stemma.access.principal import Principal
from stemma.store import signed_urls
from stemma.store.files import FileStore, OpenFile

router = APIRouter(tags=["files"], route_class=limited("files"))

_BLOCK: Final = 1 << 18
_RANGE = re.compile(r"bytes=(?:([0-9]{1,18})-([0-9]{1,18})?|-([0-9]{1,18}))")
# The system's own table of types differs from machine to machine.
_TYPES: Final = mimetypes.MimeTypes()
_SHOWN: Final = ("image/avif", "image/gif", "image/jpeg", "image/png", "image/webp", "text/plain", "audio/", "video/")


class WantedUrlBody(RequestBody):
    """A file that somebody without a key is to read."""

    path: str = Field(description="The file's key", examples=["maps/roads.pmtiles"], max_length=1024)
    expires_in: int = Field(
        default=3600, ge=1, le=int(signed_urls.LONGEST.total_seconds()), description="Seconds", examples=[3600]
    )
    name: str | None = Field(
        default=None,
        max_length=signed_urls.LONGEST_NAME,
        description="The name to save it under; without one it is shown where that is safe",
        examples=["roads.pmtiles"],
    )


class SignedUrlBody(BaseModel):
    """A URL that can be read by whoever has it, until it expires."""

    url: str = Field(examples=["http://127.0.0.1:8400/files/maps/roads.pmtiles?v=1&expires=1798761600&sig=kZ0…"])
    expires_at: datetime


@router.post(
    f"{API}/files/sign", response_model=SignedUrlBody, responses=problems(503), summary="Sign the URL of a file"
)
def sign_url(
    _: Annotated[Principal, allow("publish:sign")], settings: SettingsDep, wanted: WantedUrlBody
) -> SignedUrlBody:
    """A URL by which whoever has it can read one stored file until it expires. It cannot be taken back alone."""
    signed = signed_urls.sign(settings, wanted.path, timedelta(seconds=wanted.expires_in), name=wanted.name)
    return SignedUrlBody(url=settings.api_url + signed.url, expires_at=signed.expires_at)


@router.get(
    f"{signed_urls.PREFIX}{{path:path}}",
    response_class=Response,
    responses={
        200: {"description": "The file", "content": {"*/*": {"schema": {}}}},
        206: {"description": "The part that Range asks for", "content": {"*/*": {"schema": {}}}},
        304: {"description": "It is as If-None-Match says it was seen"},
        **problems(403, 404, 416, 429, 503),
    },
    summary="Read a file by its signed URL",
)
def read_file(
    request: Request,
    settings: SettingsDep,
    path: Annotated[str, Path(examples=["maps/roads.pmtiles"])],
    asked: Annotated[str | None, Header(alias="Range", description="One range of bytes (RFC 9110, 14)")] = None,
    if_range: Annotated[str | None, Header(description="The ETag of which it is a part")] = None,
    if_none_match: Annotated[str | None, Header(description="ETags that are there already")] = None,
) -> Response:
    """The bytes of the file, whole or in part. It takes no key: the URL itself is signed."""
    permit = signed_urls.verify(settings, request.method, signed_urls.PREFIX + path, request.query_params.multi_items())
    opened = FileStore.open_default(settings).open_versioned(permit.key)
    etag = f'"{opened.version}"'
    headers = {
        "ETag": etag,
        "Accept-Ranges": "bytes",
        "Cache-Control": "private, no-cache",
        "Content-Security-Policy": "sandbox; default-src 'none'; frame-ancestors 'none'",
        "Referrer-Policy": "no-referrer",
    }
    if if_none_match is not None and (if_none_match.strip() == "*" or etag in _tags(if_none_match)):
        opened.file.close()
        return Response(status_code=304, headers=headers)
    part = _range(asked, opened.size) if if_range in (None, etag) else None
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
    headers |= {"Content-Length": str(len(sent)), **_shown_as(permit)}
    if part is not None:
        headers["Content-Range"] = f"bytes {part.start}-{part.stop - 1}/{opened.size}"
    return StreamingResponse(_blocks(opened, sent), 200 if part is None else 206, headers)


def _tags(header: str) -> set[str]:
    return {tag.strip().removeprefix("W/") for tag in header.split(",")}


def _range(asked: str | None, size: int) -> range | None:
    """The bytes that are asked for; None for all of them, and for what is no single range (RFC 9110, 14.2)."""
    found = _RANGE.fullmatch(asked.strip()) if asked is not None else None
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


def _shown_as(permit: signed_urls.Permit) -> dict[str, str]:
    """Its type, and whether a browser shows or saves it."""
    media_type, encoding = _TYPES.guess_type(permit.key, strict=False)
    if media_type is None or encoding is not None:
        media_type = "application/octet-stream"
    shown = permit.name is None and media_type.startswith(_SHOWN)
    if media_type.startswith("text/"):
        media_type += "; charset=utf-8"
    name = quote(permit.name or permit.key.rpartition("/")[2], safe="")
    disposition = "inline" if shown else "attachment"
    return {"Content-Type": media_type, "Content-Disposition": f"{disposition}; filename*=UTF-8''{name}"}
