"""Stored files to whoever has a signed URL of one, and signing such URLs.

A file is only ever looked at or saved: what a browser could run is saved, and all of it is served under a policy in
which nothing runs. What a signed URL is, is the business of `stemma.store.signed_urls`.
"""

from __future__ import annotations

import mimetypes
from datetime import datetime, timedelta
from typing import Annotated, Final
from urllib.parse import quote

from fastapi import APIRouter, Path, Request, Response
from pydantic import BaseModel, Field

from api import ranges
from api.access import allow
from api.bodies import RequestBody
from api.deps import SettingsDep
from api.limits import limited
from api.openapi import problems
from api.routers import API
from stemma.access.principal import Principal
from stemma.store import signed_urls
from stemma.store.files import FileStore

router = APIRouter(tags=["files"], route_class=limited("files"))

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
    responses={**ranges.RESPONSES, **problems(403, 404, 429, 503)},
    summary="Read a file by its signed URL",
)
def read_file(
    request: Request,
    settings: SettingsDep,
    path: Annotated[str, Path(examples=["maps/roads.pmtiles"])],
    asked: ranges.AskedDep,
) -> Response:
    """The bytes of the file, whole or in part. It takes no key: the URL itself is signed."""
    permit = signed_urls.verify(settings, request.method, signed_urls.PREFIX + path, request.query_params.multi_items())
    opened = FileStore.open_default(settings).open_versioned(permit.key)
    headers = {
        "Cache-Control": "private, no-cache",
        "Content-Security-Policy": "sandbox; default-src 'none'; frame-ancestors 'none'",
        "Referrer-Policy": "no-referrer",
        **_shown_as(permit),
    }
    return ranges.respond(request, asked, opened, headers)


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
