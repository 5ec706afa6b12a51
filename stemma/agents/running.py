"""A call while it runs: its work, how it is stopped, and what it comes to."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from typing import Any
from uuid import UUID

from stemma.agents import records
from stemma.agents.calling import Conversation
from stemma.agents.model import Answer, Call
from stemma.agents.stream import Stream
from stemma.errors import Conflict, StemmaError
from stemma.registry.model import Published

logger = logging.getLogger(__name__)


class Cancelled(Conflict):
    """Somebody cancelled the call."""


class Running:
    """A call that runs, or has ended, in this process. `recorded` says whether its job is in the database."""

    def __init__(self, call: Call, prompt: Published, stream: Stream) -> None:
        self.call = call
        self.prompt = prompt
        self.stream = stream
        self.conversation: Conversation | None = None
        loop = asyncio.get_running_loop()
        self.recorded: asyncio.Future[bool] = loop.create_future()
        self._ended: asyncio.Future[Answer] = loop.create_future()
        self._work: asyncio.Task[Answer] | None = None
        self._stopped: StemmaError | None = None

    @property
    def job_id(self) -> UUID | None:
        """The call's job; a founder's call has none."""
        return self.stream.job_id

    def identity(self) -> dict[str, Any]:
        """Who answers whom: what the answer's first event says."""
        agent = self.call.agent
        return {
            "agent": {"name": agent.name, "title": agent.title},
            "job_id": self.job_id,
            "request_id": self.call.request_id,
            "role": self.call.principal.role.value,
            "prompt": self.prompt.reference,
        }

    async def answer(self) -> Answer:
        """Wait for the answer; raises what the call failed with, Conflict where it was cancelled."""
        return await asyncio.shield(self._ended)

    def stop(self, reason: StemmaError | None = None) -> None:
        """Have the provider's call ended; without a reason, somebody cancelled it."""
        if self._work is not None and not self._work.done():
            self._stopped = reason or Cancelled("call_cancelled", "The call was cancelled.")
            self._work.cancel()

    def begin(self, work: Coroutine[Any, Any, Answer]) -> None:
        """Begin to work on the answer."""
        self._work = asyncio.create_task(work)

    async def outcome(self) -> Answer | StemmaError:
        """What the work came to."""
        assert self._work is not None
        try:
            return await self._work
        except StemmaError as error:
            return error
        except asyncio.CancelledError:
            if self._stopped is None:
                raise
            return self._stopped
        except Exception:
            logger.exception("a call to %s failed unexpectedly", self.call.agent.name)
            return unexpected()

    def end(self, outcome: Answer | StemmaError) -> None:
        """Tell the stream, and whoever waits for the answer, how it ended; nothing follows."""
        self.stream.tell(*last_event(outcome))
        if isinstance(outcome, Answer):
            self._ended.set_result(outcome)
        else:
            self._ended.set_exception(outcome)
            # That nobody waits for it is no mistake.
            self._ended.exception()


def unexpected() -> StemmaError:
    """What is told of a fault of the studio's own."""
    return StemmaError("internal_error", "Something unexpected went wrong.")


def last_event(outcome: Answer | StemmaError) -> tuple[str, dict[str, Any]]:
    """The event that ends a call's stream."""
    if isinstance(outcome, Answer):
        return "done", said_of(outcome)
    if isinstance(outcome, Cancelled):
        return "cancelled", {}
    return "error", {"code": outcome.code, "message": outcome.message, "hint": outcome.hint}


def said_of(answer: Answer) -> dict[str, Any]:
    """What is told of an answer beside its text; the cost is in US dollars."""
    usage = answer.usage
    return {
        "prompt": answer.prompt,
        "provider": answer.provider,
        "model": answer.model,
        "rounds": answer.rounds,
        "usage": {
            "tokens_in": usage.tokens_in,
            "tokens_out": usage.tokens_out,
            "tokens_cached": usage.tokens_cached,
            "counted": usage.counted,
        },
        "cost": None if answer.cost is None else f"{answer.cost:f}",
        "latency_ms": round(answer.latency_ms, 1),
        "ttft_ms": None if answer.ttft_ms is None else round(answer.ttft_ms, 1),
        "citations": [records.cited(hit) for hit in answer.citations],
    }
