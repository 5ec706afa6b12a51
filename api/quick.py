"""A shorter way for routes that are asked very often: requests that are in order are answered without FastAPI's part.

Resolving dependencies costs such a route more than its work. What a route's `answer` does not recognise as in order
goes the ordinary way, which alone words refusals of what was sent; what a request is refused for otherwise, its key,
its rate, its domain's errors, is the same on both.
"""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, Final, Generic, TypeVar

from fastapi import Request, Response
from fastapi.routing import APIRoute
from pydantic import BaseModel, ValidationError

from api.idempotency import HEADER, KEY_FORM
from api.limits import limited

A = TypeVar("A")
T = TypeVar("T")
M = TypeVar("M", bound=BaseModel)

Answer = Callable[[Request], Awaitable[Response | None]]

_JSON: Final = "application/json"


def quick(capability: str, answer: Answer) -> type[APIRoute]:
    """A route class as `limited` makes them, whose routes try `answer` first; it gives None before it did anything."""

    class QuickRoute(limited(capability)):  # type: ignore[misc]
        def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
            ordinary = super().get_route_handler()

            async def handle(request: Request) -> Response:
                return await answer(request) or await ordinary(request)

            return handle

    return QuickRoute


async def body_of(request: Request, model: type[M]) -> M | None:
    """The request's JSON body; None for what is no such body."""
    if request.headers.get("content-type") != _JSON:
        return None
    try:
        return model.model_validate_json(await request.body())
    except ValidationError:
        return None


def key_of(request: Request) -> tuple[bool, str | None]:
    """Whether the request's Idempotency-Key is in order, and the key, None where there is none."""
    given = request.headers.getlist(HEADER)
    if not given:
        return True, None
    return len(given) == 1 and KEY_FORM.fullmatch(given[0]) is not None, given[0]


class Workers:
    """A few threads for short work that waits for the database: no more of them than it has connections.

    More threads than that wait for each other's connections, and a turn of these costs half of one in anyio's pool,
    which is for work of any length.
    """

    def __init__(self, threads: int) -> None:
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="quick")

    def run(self, work: Callable[..., T], *arguments: Any) -> asyncio.Future[T]:
        """The result of `work`, which sees the caller's context variables."""
        context = contextvars.copy_context()
        return asyncio.get_running_loop().run_in_executor(self._pool, partial(context.run, work, *arguments))

    def close(self) -> None:
        """Wait for what is being worked on, and end the threads."""
        self._pool.shutdown()


class Together(Generic[A, T]):
    """Work that is done for many at once: who asks while others are worked for is worked for with those who came
    meanwhile, `at_most` together. `work` gives what each is told, or the error that it gets.

    It is done in nobody's context. For the event loop's thread alone.
    """

    def __init__(self, workers: Workers, work: Callable[[Sequence[A]], Sequence[T | Exception]], at_most: int) -> None:
        self._workers = workers
        self._work = work
        self._at_most = at_most
        self._waiting: deque[tuple[A, asyncio.Future[T]]] = deque()
        self._working = False

    async def __call__(self, asked: A) -> T:
        """What the work gives for this; raises the error that it has for it."""
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._waiting.append((asked, future))
        self._go_on()
        return await future

    def _go_on(self) -> None:
        if self._working or not self._waiting:
            return
        taken = [self._waiting.popleft() for _ in range(min(len(self._waiting), self._at_most))]
        work = contextvars.Context().run(self._workers.run, self._work, [asked for asked, _ in taken])
        work.add_done_callback(partial(self._tell, [future for _, future in taken]))
        self._working = True

    def _tell(self, futures: Sequence[asyncio.Future[T]], done: asyncio.Future[Sequence[T | Exception]]) -> None:
        self._working = False
        self._go_on()
        error = done.exception()
        for future, answer in zip(futures, [error] * len(futures) if error else done.result(), strict=True):
            if future.done():
                continue
            if isinstance(answer, BaseException):
                future.set_exception(answer)
            else:
                future.set_result(answer)


class Shared(Generic[T]):
    """One look for all who ask for the same before it begins: what each is told is as new as if they had looked."""

    def __init__(self, workers: Workers, look: Callable[[str], T]) -> None:
        self._workers = workers
        self._look = look
        self._lock = threading.Lock()
        self._waiting: dict[str, asyncio.Future[T]] = {}

    async def __call__(self, name: str) -> T:
        """What `look` says of the name; raises what it raises. For the event loop's thread alone."""
        with self._lock:
            waiting = self._waiting.get(name)
            if waiting is None:
                waiting = self._waiting[name] = self._workers.run(self._begin, name)
        # Whoever goes away takes the answer from nobody else.
        return await asyncio.shield(waiting)

    def _begin(self, name: str) -> T:
        # From here on, whoever asks has to look anew.
        with self._lock:
            del self._waiting[name]
        return self._look(name)
