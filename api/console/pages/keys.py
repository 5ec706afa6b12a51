"""Keys: the list, a form for a new one, whose secrets are shown once, and pages that ask before a key is changed."""

from __future__ import annotations

from datetime import UTC, date, datetime, time, timedelta
from typing import Annotated, Any, Final
from uuid import UUID

from fastapi import APIRouter, Form, Path, Request, Response
from starlette.concurrency import run_in_threadpool

from api.access import allow
from api.console.forms import FormOnceDep, kept, new_token, redirect
from api.console.rendering import render
from api.deps import DatabaseDep, LedgerDep, PageDep, SettingsDep
from api.limits import limited
from stemma.access import keys
from stemma.access.catalog import list_keys, read_key
from stemma.access.permissions import SCOPES, Role, covers, permissions_of
from stemma.access.principal import Principal
from stemma.errors import InvalidInput, StemmaError

router = APIRouter(prefix="/keys", route_class=limited("console"), include_in_schema=False)

_SENT_TWICE: Final = (
    "The form was sent twice and made one key. Its secrets went with the first answer: rotate it to get new ones."
)

AdminDep = Annotated[Principal, allow("admin:keys")]
IdPath = Annotated[UUID, Path(alias="id")]
TextField = Annotated[str, Form(max_length=4096)]


@router.get("")
def show(request: Request, principal: AdminDep, database: DatabaseDep, page: PageDep) -> Response:
    """All keys, revoked ones too, in the order in which they were created."""
    found = database.read(lambda connection: list_keys(connection, cursor=page.cursor, limit=page.limit))
    return render(request, "pages/keys.html", page=found)


@router.get("/new")
def ask_for_new(request: Request, principal: AdminDep) -> Response:
    """The form."""
    return _form(request, principal, {}, None)


@router.post("")
async def create(
    request: Request,
    principal: AdminDep,
    once: FormOnceDep,
    database: DatabaseDep,
    settings: SettingsDep,
    ledger: LedgerDep,
    name: TextField = "",
    role: TextField = "",
    scopes: Annotated[list[str], Form()] = [],  # noqa: B006 (FastAPI copies it)
    more_scopes: TextField = "",
    expires_on: TextField = "",
    signed_only: Annotated[bool, Form()] = False,
) -> Response:
    """Shows the new key, or the form again with what is wrong in it."""
    given = {
        "name": name,
        "role": role,
        "scopes": scopes,
        "more_scopes": more_scopes,
        "expires_on": expires_on,
        "signed_only": signed_only,
    }
    try:
        wanted = keys.NewKey(
            name, role, [*scopes, *more_scopes.replace(",", " ").split()], _end_of(expires_on), signed_only
        )
        change = await run_in_threadpool(
            database.read, lambda connection: keys.create_key(connection, principal, wanted, settings)
        )
    except StemmaError as error:
        return await run_in_threadpool(_form, request, principal, given, error)
    issued = await once.write(ledger, change, kept=lambda _: kept(redirect("/keys", said=_SENT_TWICE, tone="info")))
    return await run_in_threadpool(_issued, request, issued, "Key created")


@router.get("/{id}/rotate")
def ask_to_rotate(request: Request, principal: AdminDep, key_id: IdPath, database: DatabaseDep) -> Response:
    """Says what rotating does, and asks."""
    key = database.read(lambda connection: read_key(connection, key_id))
    return render(request, "pages/key_change.html", key=key, step="rotate", own=key.id == principal.key_id)


@router.post("/{id}/rotate")
async def rotate(
    request: Request,
    principal: AdminDep,
    key_id: IdPath,
    database: DatabaseDep,
    settings: SettingsDep,
    ledger: LedgerDep,
) -> Response:
    """Shows the new secrets; the old ones are refused from now on."""
    change = await run_in_threadpool(
        database.read, lambda connection: keys.rotate_key(connection, principal, key_id, settings)
    )
    issued = await ledger.commit_async(change)
    return await run_in_threadpool(_issued, request, issued, "Key rotated")


@router.get("/{id}/revoke")
def ask_to_revoke(request: Request, principal: AdminDep, key_id: IdPath, database: DatabaseDep) -> Response:
    """Says what revoking does, and asks."""
    key = database.read(lambda connection: read_key(connection, key_id))
    return render(request, "pages/key_change.html", key=key, step="revoke", own=key.id == principal.key_id)


@router.post("/{id}/revoke")
async def revoke(principal: AdminDep, key_id: IdPath, database: DatabaseDep, ledger: LedgerDep) -> Response:
    """The key is refused from now on, and with it the sessions that it was traded for."""
    change = await run_in_threadpool(database.read, lambda connection: keys.revoke_key(connection, principal, key_id))
    revoked = await ledger.commit_async(change)
    return redirect("/keys", said=f"The key {revoked.name} is revoked. Nobody gets in with it any more.")


def _form(request: Request, principal: Principal, given: dict[str, Any], error: StemmaError | None) -> Response:
    own = permissions_of(principal.role)
    return render(
        request,
        "pages/key_new.html",
        status=error.status if error else 200,
        store=error is None,
        given=given,
        once=new_token(),
        error=error,
        roles=[role for role in Role if permissions_of(role) <= own],
        scopes=[scope for scope in (f"{name}:*" for name in SCOPES) if any(covers(o, scope) for o in principal.scopes)],
        tomorrow=(datetime.now(UTC) + timedelta(days=1)).date().isoformat(),
    )


def _issued(request: Request, issued: keys.IssuedKey, title: str) -> Response:
    return render(request, "pages/key_issued.html", store=False, issued=issued, title=title)


def _end_of(day: str) -> datetime | None:
    """The end of a day in UTC; None for no day."""
    if not day:
        return None
    try:
        return datetime.combine(date.fromisoformat(day), time.max.replace(microsecond=0), UTC)
    except ValueError as error:
        hint = "Write it as 2027-12-31, or leave it empty."
        raise InvalidInput("expiry_invalid", "This is no day.", field="expires_at", hint=hint) from error
