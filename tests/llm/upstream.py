"""A model provider on loopback: it speaks the Responses API and Chat Completions, and misbehaves as it is told.

Every test and benchmark that calls a model calls this one. It counts what it served, in the same words as it tells
its clients. `python -m tests.llm.upstream --tokens 500` runs it as a process of its own and prints its URL.

    with Upstream() as upstream:
        upstream.say("first answer", Answer("second", fails="dies", after=1))
        settings = Settings(local_base_url=upstream.url)
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
import json
import re
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Final, Literal, Self

Protocol = Literal["responses", "chat"]
Fails = Literal["dies", "ends", "garbage", "half_frame", "stall", "endless", "error"]
"""dies: the connection is cut; ends: it ends in good order but unfinished; garbage: bytes that are no JSON; half_frame:
part of an event and then the end; stall: nothing more comes; endless: tokens without end; error: an error event."""

MODEL: Final = "loopback-1"
PRICES: Final = ("1", "4")
"""What a million tokens in and out of `MODEL` cost in US dollars, for tests that give it a price."""

_PATIENCE: Final = 60.0
_NEXT_WORD = re.compile(r"\s*\S+(?:\s+\Z)?")


def words(text: str) -> tuple[str, ...]:
    """What this provider counts as the tokens of a text; together they are the text, but for one of blanks alone."""
    return tuple(_NEXT_WORD.findall(text))


@dataclass(frozen=True)
class Answer:
    """What one request is answered with.

    `after` is how many tokens come before it fails, `gap` the seconds between two, `stamps` replaces each token by the
    time of its sending (`time.time()`), `split` sends single bytes, `usage` says what was used, `wait` is how long
    nothing at all is sent, `error` what a `status` other than 200 comes with. It does not fail before `until` is set,
    so that its client can have what came before.
    """

    text: str = "The quick brown fox jumps over the lazy dog."
    tool_calls: tuple[tuple[str, str], ...] = ()
    status: int = 200
    headers: tuple[tuple[str, str], ...] = ()
    error: str = "Scripted."
    fails: Fails | None = None
    after: int = 2
    gap: float = 0.0
    wait: float = 0.0
    stamps: bool = False
    split: bool = False
    usage: bool = True
    cached: int = 0
    keep_limit: bool = True
    until: threading.Event | None = None


@dataclass(frozen=True)
class Asked:
    """A request as it came in."""

    protocol: Protocol
    body: dict[str, Any]
    headers: dict[str, str]

    @property
    def stream(self) -> bool:
        return bool(self.body.get("stream"))

    @property
    def messages(self) -> list[dict[str, Any]]:
        """The turns, whichever protocol; those of the Responses API have function calls and their outputs as items."""
        given = self.body.get("messages" if self.protocol == "chat" else "input") or []
        turns = [{"role": "user", "content": given}] if isinstance(given, str) else list(given)
        if instructions := self.body.get("instructions"):
            turns.insert(0, {"role": "system", "content": instructions})
        return turns

    @property
    def tools(self) -> list[str]:
        """The names of the tools that are offered natively."""
        return [tool.get("function", tool)["name"] for tool in self.body.get("tools") or ()]

    @property
    def text(self) -> str:
        """All that was said to the model."""
        return "\n".join(_said(turn) for turn in self.messages)

    @property
    def tokens_in(self) -> int:
        return max(1, len(words(self.text)))

    @property
    def limit(self) -> int | None:
        names = ("max_output_tokens", "max_completion_tokens", "max_tokens")
        return next((self.body[name] for name in names if self.body.get(name)), None)


def _said(turn: dict[str, Any]) -> str:
    said = turn.get("content") or turn.get("output") or ""
    return said if isinstance(said, str) else " ".join(part.get("text", "") for part in said)


@dataclass
class Served:
    """One request and how far it came; `told` says whether its client was told what it used."""

    asked: Asked
    status: int
    tokens_in: int = 0
    tokens_out: int = 0
    tokens_cached: int = 0
    ended: Literal["open", "done", "failed", "left"] = "open"
    told: bool = False


@dataclass
class Totals:
    """Sums over what was served."""

    calls: int = 0
    refused: int = 0
    tokens_in: int = 0
    tokens_out: int = 0
    open: int = 0


Respond = Callable[[Asked], Answer]


@dataclass
class Upstream:
    """The provider, on a free loopback port, in a thread of its own. `with` opens and closes it.

    It answers with what `say` queued, else with what `respond` makes of the request, else with `usual`.
    """

    usual: Answer = Answer()
    respond: Respond | None = None
    port: int = 0
    url: str = field(default="", init=False)
    served: list[Served] = field(default_factory=list, init=False)
    listed: int = field(default=0, init=False)
    keep: bool = True

    def __post_init__(self) -> None:
        self._queued: deque[Answer] = deque()
        self._totals = Totals()
        self._handlers: set[asyncio.Task[None]] = set()

    def say(self, *answers: Answer | str) -> None:
        """Queue what the next requests are answered with, one each."""
        self._queued.extend(Answer(one) if isinstance(one, str) else one for one in answers)

    @property
    def totals(self) -> Totals:
        """The sums so far."""
        return Totals(**vars(self._totals))

    @property
    def asked(self) -> list[Asked]:
        """The requests so far."""
        return [one.asked for one in self.served]

    def clear(self) -> None:
        """Forget what was served and what is queued."""
        self._queued.clear()
        self.served.clear()
        self._totals = Totals()

    def __enter__(self) -> Self:
        started = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run(started.set)), daemon=True)
        self._thread.start()
        assert started.wait(20)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._end.set)
        self._thread.join()

    async def serve(self, started: Callable[[], object]) -> None:
        """Serve on the running event loop until cancelled, for a process of its own."""
        await self._run(started)

    async def _run(self, started: Callable[[], object]) -> None:
        self._loop = asyncio.get_running_loop()
        self._end = asyncio.Event()
        server = await self._loop.create_server(self._protocol, "127.0.0.1", self.port, backlog=4096)
        self.port = server.sockets[0].getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}/v1"
        started()
        await self._end.wait()
        server.close()
        for handler in list(self._handlers):
            handler.cancel()
        await asyncio.gather(*self._handlers, return_exceptions=True)

    def _protocol(self) -> asyncio.Protocol:
        return asyncio.StreamReaderProtocol(_Reader(limit=1 << 24), self._connected)  # type: ignore[arg-type]

    async def _connected(self, reader: _Reader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._handlers.add(task)
        try:
            while await self._one(reader, writer):
                pass
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            pass
        finally:
            self._handlers.discard(task)
            writer.close()

    async def _one(self, reader: _Reader, writer: asyncio.StreamWriter) -> bool:
        """Answer one request; gives whether the connection can take another."""
        head = await reader.readuntil(b"\r\n\r\n")
        line, *lines = head.decode("latin-1").split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (one.partition(":") for one in lines if one)}
        body = await reader.readexactly(int(headers.get("content-length", 0)))
        _, path, _ = line.split(" ")
        if path.endswith("/models"):
            self.listed += 1
            listing = {"object": "list", "data": [{"id": MODEL, "object": "model", "owned_by": "tests"}]}
            return await _whole(writer, 200, json.dumps(listing).encode())
        if path.endswith("/served"):
            return await _whole(writer, 200, json.dumps(vars(self._totals)).encode())
        if not path.endswith(("/responses", "/chat/completions")):
            return await _whole(writer, 404, b'{"error": {"message": "There is nothing here."}}')
        asked = Asked("responses" if path.endswith("/responses") else "chat", json.loads(body), headers)
        return await self._answer(asked, self._chosen(asked), reader, writer)

    def _chosen(self, asked: Asked) -> Answer:
        if self._queued:
            return self._queued.popleft()
        return self.usual if self.respond is None else self.respond(asked)

    async def _answer(self, asked: Asked, answer: Answer, reader: _Reader, writer: asyncio.StreamWriter) -> bool:
        served = Served(asked, answer.status)
        if self.keep:
            self.served.append(served)
        self._totals.calls += 1
        self._totals.open += 1
        try:
            if answer.wait:
                reader.at_end = asyncio.current_task().cancel  # type: ignore[union-attr,assignment]
                await asyncio.sleep(answer.wait)
            if answer.status != 200:
                self._totals.refused += 1
                served.ended = "failed"
                said = json.dumps({"error": {"message": answer.error, "type": "scripted", "code": "scripted"}}).encode()
                return await _whole(writer, answer.status, said, answer.headers)
            served.tokens_in, served.tokens_cached = asked.tokens_in, answer.cached
            self._totals.tokens_in += asked.tokens_in
            speaking = _Speaking(self._totals, served, answer, writer)
            reader.at_end = speaking.leave
            return await (speaking.stream() if asked.stream else speaking.whole())
        except (ConnectionError, asyncio.CancelledError):
            if served.ended == "open":
                served.ended = "left"
            raise
        finally:
            reader.at_end = None
            self._totals.open -= 1


class _Reader(asyncio.StreamReader):
    """Tells at once that the client went away, also while nothing is being read."""

    at_end: Callable[[], None] | None = None

    def feed_eof(self) -> None:
        super().feed_eof()
        self._tell()

    def set_exception(self, exc: BaseException) -> None:
        super().set_exception(exc)
        self._tell()

    def _tell(self) -> None:
        if self.at_end is not None:
            self.at_end()


async def _whole(
    writer: asyncio.StreamWriter,
    status: int,
    body: bytes,
    headers: tuple[tuple[str, str], ...] = (),
    media_type: str = "application/json",
) -> bool:
    more = "".join(f"{name}: {value}\r\n" for name, value in headers)
    head = f"HTTP/1.1 {status} X\r\nContent-Type: {media_type}\r\nContent-Length: {len(body)}\r\n{more}\r\n"
    writer.write(head.encode() + body)
    await writer.drain()
    return True


class _Speaking:
    """One answer as it goes out."""

    def __init__(self, totals: Totals, served: Served, answer: Answer, writer: asyncio.StreamWriter) -> None:
        self._totals, self._served, self._answer, self._writer = totals, served, answer, writer
        self._tokens = () if answer.tool_calls and answer.text == Answer.text else words(answer.text)
        limit = served.asked.limit
        self._cut = answer.keep_limit and limit is not None and len(self._tokens) > limit
        if self._cut:
            self._tokens = self._tokens[:limit]
        self._shape = _CHAT if served.asked.protocol == "chat" else _RESPONSES
        self._task = asyncio.current_task()

    def leave(self) -> None:
        """The client is gone."""
        self._served.ended = "left"
        if self._task is not None:
            self._task.cancel()

    def _count(self, tokens: int) -> None:
        self._served.tokens_out += tokens
        self._totals.tokens_out += tokens

    async def whole(self) -> bool:
        """The answer as one JSON document."""
        fails = self._answer.fails
        if fails == "stall":
            await asyncio.sleep(3600)
        if fails in ("dies", "half_frame"):
            self._served.ended = "failed"
            self._writer.write(b'HTTP/1.1 200 X\r\nContent-Type: application/json\r\nContent-Length: 500\r\n\r\n{"id":')
            await self._writer.drain()
            self._writer.transport.abort()
            return False
        if fails is not None:
            self._served.ended = "failed"
            return await _whole(self._writer, 200, b"<html>It works!</html>", media_type="text/html")
        self._count(len(self._tokens) + self._tokens_of_calls())
        document = self._shape.document(self._answer, self._tokens, self._cut, self._usage())
        self._served.ended, self._served.told = "done", self._answer.usage
        return await _whole(self._writer, 200, json.dumps(document).encode(), self._answer.headers)

    async def stream(self) -> bool:
        """The answer as server-sent events."""
        self._writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")
        for frame in self._shape.before(self._answer):
            await self._send(frame)
        for number, token in enumerate(self._spoken()):
            await self._send(self._shape.token(f"{time.time():.6f} " if self._answer.stamps else token))
            self._count(1)
            # One turn of the loop at least, so that tokens go out one by one.
            await asyncio.sleep(self._answer.gap)
            if self._answer.fails not in (None, "endless") and number + 1 >= self._answer.after:
                return await self._fail()
        if self._answer.fails not in (None, "endless"):
            return await self._fail()
        for frame in self._shape.calls(self._answer):
            await self._send(frame)
        self._count(self._tokens_of_calls())
        for frame in self._shape.after(self._answer, self._tokens, self._cut, self._usage(), self._served.asked):
            await self._send(frame)
        # Before the last bytes, so that whoever has them finds it counted.
        self._served.ended, self._served.told = "done", self._answer.usage
        self._writer.write(b"0\r\n\r\n")
        await self._writer.drain()
        return True

    def _spoken(self) -> Iterator[str]:
        if self._answer.fails == "endless":
            return itertools.cycle(self._tokens or ("again ",))
        return iter(self._tokens)

    def _tokens_of_calls(self) -> int:
        return sum(1 + len(words(arguments)) for _, arguments in self._answer.tool_calls)

    def _usage(self) -> tuple[int, int, int] | None:
        if not self._answer.usage:
            return None
        return self._served.tokens_in, self._served.tokens_cached, self._served.tokens_out

    async def _fail(self) -> bool:
        if self._answer.until is not None:
            await asyncio.to_thread(self._answer.until.wait, _PATIENCE)
        self._served.ended = "failed"
        match self._answer.fails:
            case "dies":
                self._writer.transport.abort()
                return False
            case "stall":
                await asyncio.sleep(3600)
            case "garbage":
                await self._send(b"data: <html>Bad gateway</html>\n\n")
            case "half_frame":
                await self._send(self._shape.token("lost")[:20])
            case "error":
                await self._send(self._shape.error)
        self._writer.write(b"0\r\n\r\n")
        await self._writer.drain()
        return True

    async def _send(self, frame: bytes) -> None:
        for part in [frame[at : at + 1] for at in range(len(frame))] if self._answer.split else [frame]:
            self._writer.write(b"%x\r\n%b\r\n" % (len(part), part))
            await self._writer.drain()
            if self._answer.split:
                await asyncio.sleep(0)


class _Chat:
    """The shapes of Chat Completions."""

    error = b'data: {"error": {"message": "Scripted.", "type": "server_error", "code": "scripted"}}\n\n'

    def before(self, answer: Answer) -> list[bytes]:
        return [self._chunk({"role": "assistant", "content": ""})]

    @staticmethod
    @lru_cache(4096)
    def token(text: str) -> bytes:
        return _Chat._chunk({"content": text})

    def calls(self, answer: Answer) -> Iterator[bytes]:
        for index, (name, arguments) in enumerate(answer.tool_calls):
            begun = {"index": index, "id": f"call_{index}", "type": "function"}
            yield self._chunk({"tool_calls": [{**begun, "function": {"name": name, "arguments": ""}}]})
            for part in words(arguments) or ("",):
                yield self._chunk({"tool_calls": [{"index": index, "function": {"arguments": part}}]})

    def after(
        self, answer: Answer, tokens: tuple[str, ...], cut: bool, usage: tuple[int, int, int] | None, asked: Asked
    ) -> Iterator[bytes]:
        yield self._chunk({}, self._reason(answer, cut))
        if usage is not None and (asked.body.get("stream_options") or {}).get("include_usage"):
            yield _data({**self._head("chat.completion.chunk"), "choices": [], "usage": self._usage(usage)})
        yield b"data: [DONE]\n\n"

    def document(
        self, answer: Answer, tokens: tuple[str, ...], cut: bool, usage: tuple[int, int, int] | None
    ) -> dict[str, Any]:
        message: dict[str, Any] = {"role": "assistant", "content": "".join(tokens) or None}
        if answer.tool_calls:
            message["tool_calls"] = [
                {"id": f"call_{index}", "type": "function", "function": {"name": name, "arguments": arguments}}
                for index, (name, arguments) in enumerate(answer.tool_calls)
            ]
        choice = {"index": 0, "message": message, "finish_reason": self._reason(answer, cut)}
        said = {} if usage is None else {"usage": self._usage(usage)}
        return {**self._head("chat.completion"), "choices": [choice], **said}

    @staticmethod
    def _reason(answer: Answer, cut: bool) -> str:
        return "tool_calls" if answer.tool_calls else "length" if cut else "stop"

    @staticmethod
    def _usage(usage: tuple[int, int, int]) -> dict[str, Any]:
        tokens_in, cached, tokens_out = usage
        return {
            "prompt_tokens": tokens_in,
            "completion_tokens": tokens_out,
            "total_tokens": tokens_in + tokens_out,
            "prompt_tokens_details": {"cached_tokens": cached},
        }

    @staticmethod
    def _head(kind: str) -> dict[str, Any]:
        return {"id": "chatcmpl-1", "object": kind, "created": 1, "model": MODEL}

    @staticmethod
    def _chunk(delta: dict[str, Any], reason: str | None = None) -> bytes:
        choice = {"index": 0, "delta": delta, "finish_reason": reason}
        return _data({**_Chat._head("chat.completion.chunk"), "choices": [choice]})


class _Responses:
    """The shapes of the Responses API."""

    error = b'event: error\ndata: {"type": "error", "code": "server_error", "message": "Scripted.", "param": null}\n\n'

    def before(self, answer: Answer) -> list[bytes]:
        begun = self._response("in_progress", [], None)
        item = {"id": "msg_1", "type": "message", "status": "in_progress", "role": "assistant", "content": []}
        part = {"type": "output_text", "text": "", "annotations": []}
        return [
            _event({"type": "response.created", "response": begun}),
            _event({"type": "response.in_progress", "response": begun}),
            _event({"type": "response.output_item.added", "output_index": 0, "item": item}),
            _event({"type": "response.content_part.added", **_PLACE, "part": part}),
        ]

    @staticmethod
    @lru_cache(4096)
    def token(text: str) -> bytes:
        return _event({"type": "response.output_text.delta", **_PLACE, "delta": text, "logprobs": []})

    def calls(self, answer: Answer) -> Iterator[bytes]:
        for index, (name, arguments) in enumerate(answer.tool_calls):
            place = {"output_index": index + 1, "item_id": f"fc_{index}"}
            item = self._call(index, name, "")
            yield _event({"type": "response.output_item.added", "output_index": index + 1, "item": item})
            for part in words(arguments) or ("",):
                yield _event({"type": "response.function_call_arguments.delta", **place, "delta": part})
            yield _event({"type": "response.function_call_arguments.done", **place, "arguments": arguments})
            item = self._call(index, name, arguments)
            yield _event({"type": "response.output_item.done", "output_index": index + 1, "item": item})

    def after(
        self, answer: Answer, tokens: tuple[str, ...], cut: bool, usage: tuple[int, int, int] | None, asked: Asked
    ) -> Iterator[bytes]:
        yield _event({"type": "response.output_text.done", **_PLACE, "text": "".join(tokens)})
        kind = "response.incomplete" if cut else "response.completed"
        yield _event({"type": kind, "response": self.document(answer, tokens, cut, usage)})

    def document(
        self, answer: Answer, tokens: tuple[str, ...], cut: bool, usage: tuple[int, int, int] | None
    ) -> dict[str, Any]:
        output: list[dict[str, Any]] = []
        if tokens:
            content = [{"type": "output_text", "text": "".join(tokens), "annotations": []}]
            output.append(
                {"id": "msg_1", "type": "message", "status": "completed", "role": "assistant", "content": content}
            )
        output += [self._call(index, name, arguments) for index, (name, arguments) in enumerate(answer.tool_calls)]
        response = self._response("incomplete" if cut else "completed", output, usage)
        return {**response, "incomplete_details": {"reason": "max_output_tokens"}} if cut else response

    @staticmethod
    def _call(index: int, name: str, arguments: str) -> dict[str, Any]:
        call = {"type": "function_call", "id": f"fc_{index}", "call_id": f"call_{index}", "status": "completed"}
        return {**call, "name": name, "arguments": arguments}

    @staticmethod
    def _response(status: str, output: list[dict[str, Any]], usage: tuple[int, int, int] | None) -> dict[str, Any]:
        said = None
        if usage is not None:
            tokens_in, cached, tokens_out = usage
            said = {
                "input_tokens": tokens_in,
                "input_tokens_details": {"cached_tokens": cached},
                "output_tokens": tokens_out,
                "output_tokens_details": {"reasoning_tokens": 0},
                "total_tokens": tokens_in + tokens_out,
            }
        head = {"id": "resp_1", "object": "response", "created_at": 1, "model": MODEL, "error": None}
        return {**head, "status": status, "output": output, "usage": said, "incomplete_details": None}


_PLACE = {"item_id": "msg_1", "output_index": 0, "content_index": 0}
_CHAT = _Chat()
_RESPONSES = _Responses()


def _data(document: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps(document).encode() + b"\n\n"


def _event(document: dict[str, Any]) -> bytes:
    return b"event: " + document["type"].encode() + b"\n" + _data(document)


def main() -> None:
    """Serve until killed, with answers of `--tokens` tokens, `--gap` seconds apart."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--tokens", type=int, default=100)
    parser.add_argument("--gap", type=float, default=0.0)
    parser.add_argument("--stamps", action="store_true", help="each token is the time at which it was sent")
    given = parser.parse_args()
    usual = Answer("token " * given.tokens, gap=given.gap, stamps=given.stamps, keep_limit=False)
    upstream = Upstream(usual, port=given.port, keep=False)
    loop: Callable[[], asyncio.AbstractEventLoop] | None = None
    with contextlib.suppress(ImportError):
        import uvloop

        loop = uvloop.new_event_loop
    with contextlib.suppress(KeyboardInterrupt), asyncio.Runner(loop_factory=loop) as runner:
        runner.run(upstream.serve(lambda: print(upstream.url, flush=True)))  # noqa: T201


if __name__ == "__main__":
    main()
