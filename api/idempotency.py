"""The Idempotency-Key of mutating routes (draft-ietf-httpapi-idempotency-key-header): a repeat has no second effect.

Here is what makes two requests the same and which requests run now; keeping answers is `stemma.ledger.idempotency`'s
business. A route that changes something asks for `OnceDep` and ends with `return await once.commit(...)`. It names its
permission before: what was kept is shown to nobody who may not do it any more.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import json
import re
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Annotated, Any, Final, TypeVar

import psycopg
from fastapi import Depends, FastAPI, Header, Request, Response, params
from pydantic import BaseModel
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import UploadFile

from api.deps import DatabaseDep
from stemma.access.principal import Principal
from stemma.access.tokens import pepper_lost, read_pepper
from stemma.errors import Conflict, StemmaError, Unavailable
from stemma.ledger.change import Change
from stemma.ledger.idempotency import Answer, KeyedRequest, keep, kept_answer, key_reused
from stemma.ledger.service import Ledger
from stemma.ledger.writer import Statement
from stemma.store.database import Database

T = TypeVar("T")

HEADER: Final = "Idempotency-Key"
KEY_FORM: Final = re.compile("[ -~]{1,255}")
REPLAYED: Final = "Idempotency-Replayed"


class Running:
    """The keyed requests that this process works on. It is used on the event loop's thread alone and so needs no
    lock; between processes the database decides.
    """

    def __init__(self) -> None:
        self._requests: dict[tuple[str, str, str], bytes] = {}

    def __len__(self) -> int:
        return len(self._requests)

    def begin(self, request: KeyedRequest) -> None:
        """Raises Conflict (`idempotency_in_flight`) while the same request runs, InvalidInput for another one."""
        name = (request.caller, request.route, request.key)
        running = self._requests.get(name)
        if running is None:
            self._requests[name] = request.sha256
        elif running != request.sha256:
            raise key_reused()
        else:
            raise Conflict(
                "idempotency_in_flight",
                "The first request with this Idempotency-Key has not been answered yet.",
                field=HEADER,
                hint="Send it again after the seconds in Retry-After.",
            )

    def end(self, request: KeyedRequest) -> None:
        """Whoever began a request says that it is over, however it went."""
        del self._requests[request.caller, request.route, request.key]


class Once:
    """Commits the change of one request, and keeps the answer with it where the request has a key."""

    def __init__(self, request: KeyedRequest | None) -> None:
        self._request = request

    async def commit(
        self,
        ledger: Ledger,
        change: Change[T],
        *,
        status: int,
        body: Callable[[T], BaseModel | None],
        headers: Mapping[str, str] | None = None,
        kept: Callable[[T], BaseModel | None] | None = None,
    ) -> Response:
        """Write the change and answer with `body` of its result once it is durable; no thread waits meanwhile.

        `kept` is what a repeat is answered with, for answers that hold a secret. Both are functions without effect:
        a batch that fails is run again. Raises what `Ledger.commit` says.
        """

        def answer(said: BaseModel | None) -> Answer:
            text = b"" if said is None else said.model_dump_json(by_alias=True).encode()
            return Answer(status, headers or {}, text)

        repeated = kept or body
        made: list[Answer] = []

        def keeping(done: T) -> Answer:
            made[:] = [answer(repeated(done))]
            return made[0]

        result = await self.write(ledger, change, kept=keeping)
        return _response(made[0] if made and kept is None else answer(body(result)))

    async def write(self, ledger: Ledger, change: Change[T], *, kept: Callable[[T], Answer]) -> T:
        """The same for who answers in a form of its own: gives the result; `kept` is what a repeat is answered with."""
        companions: tuple[Statement, ...] = ()
        if self._request is not None:
            companions = (keep(self._request, lambda entries: kept(change.result(entries))),)
        return await ledger.commit_async(change, *companions)


class _Replayed(Exception):
    """The request was done before; this is what it was answered with."""

    def __init__(self, answer: Answer) -> None:
        self.answer = answer


KeyHeader = Annotated[
    str | None,
    Header(
        alias=HEADER,
        pattern=f"^{KEY_FORM.pattern}$",
        description="Chosen by the client, one per operation: for 24 hours, a repeat with the same key has no "
        "second effect and is answered with the first answer",
        examples=["8e03978e-40d5-43dd-bc93-6894a57f9324"],
    ),
]


async def once(request: Request, database: DatabaseDep, key: KeyHeader = None) -> AsyncIterator[Once]:
    """What commits the request's change; a request that was answered before ends here with that answer.

    Raises Conflict (`idempotency_in_flight`) and InvalidInput (`idempotency_key_reused`).
    """
    if key is None:
        yield Once(None)
        return
    async with once_for(request.app, database, await keyed_by(request, key)) as commits:
        yield commits


async def once_at_commit(request: Request, database: DatabaseDep, key: KeyHeader = None) -> AsyncIterator[Once]:
    """The same for a route that is asked very often and has no effect before its commit: a repeat is found there."""
    async with found_at_commit(request, database, key) as commits:
        yield commits


@contextlib.asynccontextmanager
async def found_at_commit(request: Request, database: Database, key: str | None) -> AsyncIterator[Once]:
    """What `once_at_commit` gives, for who holds the parts of a request already."""
    if key is None:
        yield Once(None)
        return
    async with once_for(request.app, database, await keyed_by(request, key), look_first=False) as commits:
        yield commits


@contextlib.asynccontextmanager
async def once_for(
    app: FastAPI, database: Database, keyed: KeyedRequest, *, look_first: bool = True
) -> AsyncIterator[Once]:
    """The same for a request that is known by something else than its Idempotency-Key."""
    running: Running = app.state.running
    running.begin(keyed)
    try:
        if look_first:
            await _replay(database, keyed)
        try:
            yield Once(keyed)
        except Unavailable:
            raise
        except (StemmaError, psycopg.IntegrityError):
            # Another process may have been first; then its effect is what this one stumbled over.
            await _replay(database, keyed)
            raise
    finally:
        running.end(keyed)


# The key is given back before the answer goes out: whoever has the answer may send the request again.
OnceDep = Annotated[Once, Depends(once, scope="function")]
OnceAtCommitDep = Annotated[Once, Depends(once_at_commit, scope="function")]


def install(app: FastAPI) -> None:
    """Make the application's routes able to ask for `OnceDep`."""
    app.state.running = Running()
    app.add_exception_handler(_Replayed, _on_replayed)


async def _on_replayed(request: Request, replayed: Exception) -> Response:
    assert isinstance(replayed, _Replayed)
    return _response(replayed.answer, {REPLAYED: "true"})


def _response(answer: Answer, more: Mapping[str, str] | None = None) -> Response:
    media_type = "application/json" if answer.body else None
    return Response(answer.body, answer.status, {**answer.headers, **(more or {})}, media_type)


async def _replay(database: Database, keyed: KeyedRequest) -> None:
    """End the request with the answer that was kept for it, where there is one."""
    answer = await run_in_threadpool(database.glance, lambda connection: kept_answer(connection, keyed))
    if answer is not None:
        raise _Replayed(answer)


async def keyed_by(request: Request, key: str) -> KeyedRequest:
    """The request under this key of its caller's; raises Unavailable with code `pepper_lost`."""
    principal: Principal = request.state.principal
    route = request.scope["route"]
    asked = [
        request.method,
        request.scope["path"],
        request.scope["query_string"].decode("latin-1"),
        request.headers.getlist("if-match"),
        await _content(request, route.body_field),
    ]
    # Under a key, since a body may hold no more than a person's name, which a plain digest lets anyone guess.
    # Reading 32 bytes takes less than a thread's turn.
    pepper = read_pepper(request.app.state.settings)
    if pepper is None:
        raise pepper_lost("is gone")
    digest = hmac.digest(pepper, b"stemma kept answer\x00" + json.dumps(asked).encode(), "sha256")
    return KeyedRequest(principal.actor, f"{request.method} {route.path}", key, digest)


async def _content(request: Request, body_field: Any) -> Any:
    """The body's digest; that of each part for a form, because its boundaries differ from one sending to the next."""
    if body_field is None or not isinstance(body_field.field_info, params.Form):
        return hashlib.sha256(await request.body()).hexdigest()
    parts = []
    for name, value in (await request.form()).multi_items():
        if isinstance(value, UploadFile):
            digest = await run_in_threadpool(hashlib.file_digest, value.file, "sha256")
            await value.seek(0)
            parts.append([name, value.filename, digest.hexdigest()])
        else:
            parts.append([name, value])
    return parts
