"""The relay: calls that run in this process, outlive the connections that follow them, and end in the database.

A call is a job that this process holds by a lease. Its tokens go to its stream at once and to the database soon; its
end is durable before it is told. A founder's call has no job, is written nowhere, and ends with its connection.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, Self
from uuid import UUID, uuid4

import psycopg

from stemma.access.permissions import Role
from stemma.access.principal import Principal
from stemma.agents import prompts, records
from stemma.agents.asking import check
from stemma.agents.calling import Conversation
from stemma.agents.logs import AgentLogs
from stemma.agents.model import Agent, Answer, Call, Confidant, Exchange, Memory, Models, Recollection, ToolBox
from stemma.agents.running import Cancelled, Running, last_event, unexpected
from stemma.agents.scribe import Scribe
from stemma.agents.stream import Stream
from stemma.errors import Conflict, Forbidden, NotFound, StemmaError, Unavailable
from stemma.jobs import lifecycle
from stemma.jobs.lifecycle import Failure
from stemma.jobs.model import Job
from stemma.ledger.change import Change
from stemma.ledger.service import Ledger
from stemma.ledger.writer import Statement
from stemma.llm.switches import SwitchBoard
from stemma.registry.model import Published
from stemma.store.database import Connection, Database

logger = logging.getLogger(__name__)

MOST_CALLS: Final = 1024
"""Calls that run in one process at once."""

_LOOK_SECONDS: Final = 1.0
_BEATS: Final = 10
_REAPS: Final = 30
_ATTEMPTS: Final = 5

_STUDIO: Final = Principal("studio", Role.SUPER_ADMIN, frozenset({"agents:*"}))

Commit = Callable[[Change[Job]], Awaitable[Any]]
Observe = Callable[[str, str, float | None], None]


@dataclass(frozen=True, slots=True)
class Outside:
    """What agents are given beside models: tools, a memory, what founders confide, and the switches that say which
    agents are not called; None where there is none.
    """

    tools: ToolBox | None = None
    memory: Memory | None = None
    confidant: Confidant | None = None
    switches: SwitchBoard | None = None


class Relay:
    """The calls of this process. Belongs to the event loop's thread; use it as a context manager."""

    def __init__(
        self,
        database: Database,
        ledger: Ledger,
        models: Models,
        outside: Outside,
        logs: AgentLogs,
        *,
        observe: Observe = lambda agent, state, ttft: None,
    ) -> None:
        """`observe` is told of each call that ended, but for founders': its agent, state and seconds to a token."""
        self._database = database
        self._ledger = ledger
        self._models = models
        self._outside = outside
        self._logs = logs
        self._observe = observe
        self._holder = f"api-{uuid4().hex}"
        self._running: set[Running] = set()
        self._by_job: dict[UUID, Running] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._stopping = False

    async def __aenter__(self) -> Self:
        self._scribe = await Scribe(self._database).__aenter__()
        self._keeper = asyncio.create_task(self._keep())
        return self

    async def __aexit__(self, *error: Any) -> None:
        await self.stop()
        self._keeper.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._keeper
        await self._scribe.__aexit__(*error)

    async def stop(self) -> None:
        """End every call as an error, and begin none any more."""
        self._stopping = True
        for running in list(self._running):
            running.stop(Unavailable("studio_stopped", "The studio was stopped.", hint="Ask again."))
        if self._tasks:
            await asyncio.wait(self._tasks)

    def find(self, job_id: UUID) -> Running | None:
        """The call with this job, while it runs in this process."""
        return self._by_job.get(job_id)

    def cancel(self, job_id: UUID) -> None:
        """Stop a call that is to be cancelled, where it runs here; elsewhere it is found out within seconds."""
        if (running := self._by_job.get(job_id)) is not None:
            running.stop()

    async def begin(self, call: Call, commit: Commit | None = None) -> Running:
        """Begin a call; it goes on whether or not anybody follows it.

        `commit` writes the change that makes its job, where something has to commit with it. Raises Forbidden unless
        the agent takes the caller's role, TooLarge, InvalidInput, Unavailable, and what committing raises.
        """
        check(call)
        self._require_included(call.agent)
        if self._stopping or len(self._running) >= MOST_CALLS:
            raise Unavailable("agents_busy", "No more calls are taken now.", hint="Try again in some seconds.")
        if call.founder:
            prompt = await self._prepared(lambda connection: prompts.find(connection, call.agent), call.agent)
            return self._start(Running(call, prompt, Stream(None)))

        def prepare(connection: Connection) -> tuple[Published, Change[Job]]:
            told = prompts.find(connection, call.agent)
            return told, records.begin(connection, call, told, self._holder)

        prompt, change = await self._prepared(prepare, call.agent)
        # The model is asked while the job is committed; nobody sees an answer before.
        running = self._start(Running(call, prompt, Stream(change.result(()).id)))
        try:
            await (commit or self._ledger.commit_async)(change)
        except BaseException:
            running.recorded.set_result(False)
            running.stop()
            raise
        self._scribe.begin(running.stream)
        running.recorded.set_result(True)
        self._log(running, "call_started", actor=call.principal.actor)
        return running

    def _require_included(self, agent: Agent) -> None:
        switches = self._outside.switches
        if switches is not None and switches.now().excludes_agent(agent.name):
            what = f"{agent.title} is excluded: it answers nobody."
            raise Forbidden("agent_excluded", what, field="agent", hint="GodMode lifts that.")

    def _start(self, running: Running) -> Running:
        self._running.add(running)
        if running.job_id is not None:
            self._by_job[running.job_id] = running
        running.stream.tell("start", running.identity())
        running.begin(self._converse(running))
        task = asyncio.create_task(self._carry(running))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return running

    async def _carry(self, running: Running) -> None:
        """Wait for what a call comes to, have it written down, and tell it."""
        outcome = await running.outcome()
        if running.job_id is not None:
            try:
                outcome = await self._settle(running, running.job_id, outcome)
            except Exception:
                # Whoever follows is told; the lease runs out, and the job ends as lost.
                logger.exception("how a call to %s ended was not written down", running.call.agent.name)
                outcome = unexpected()
            self._by_job.pop(running.job_id, None)
        self._running.discard(running)
        running.end(outcome)
        if not running.call.founder:
            self._account(running, outcome)

    def _account(self, running: Running, outcome: Answer | StemmaError) -> None:
        kind, _ = last_event(outcome)
        if isinstance(outcome, Answer):
            ttft = None if outcome.ttft_ms is None else outcome.ttft_ms / 1000
            facts = {"provider": outcome.provider, "model": outcome.model, "latency_ms": round(outcome.latency_ms, 1)}
        else:
            ttft, facts = None, {"code": outcome.code}
        self._observe(running.call.agent.name, kind, ttft)
        self._log(running, f"call_{kind}", **facts)

    async def _converse(self, running: Running) -> Answer:
        call = running.call
        remembered = await self._recall(call)
        conversation = running.conversation = Conversation(
            call=call,
            told=prompts.text_of(running.prompt),
            prompt=running.prompt.reference,
            models=self._models,
            tools=self._outside.tools,
            confidant=self._outside.confidant,
            stream=running.stream,
            tell=lambda kind, data: self._tell(running, kind, data),
        )
        return await conversation.hold(remembered)

    async def _recall(self, call: Call) -> Sequence[Recollection]:
        memory = self._outside.memory
        if memory is None or not call.memory:
            return ()
        budget = call.agent.memory.budget
        return await asyncio.to_thread(memory.recall, call.agent, call.principal, call.asked, budget)

    async def _remember(self, running: Running, job_id: UUID, answer: Answer) -> None:
        memory, call = self._outside.memory, running.call
        if memory is None or not call.memory:
            return
        exchange = Exchange(job_id, call.request_id, call.asked, answer.text, answer.citations)
        try:
            await asyncio.to_thread(memory.remember, call.agent, call.principal, exchange)
        except (StemmaError, psycopg.Error) as error:
            logger.warning("a call was answered and is not remembered: %s", " ".join(str(error).split()))

    def _tell(self, running: Running, kind: str, data: Mapping[str, Any]) -> None:
        if running.job_id is not None:
            self._scribe.tell(running.job_id, kind, data)
            if kind == "tool_called":
                self._log(running, kind, tool=data["tool"])

    async def _settle(self, running: Running, job_id: UUID, outcome: Answer | StemmaError) -> Answer | StemmaError:
        """Write down how a call ended; what could not be written ends as an error."""
        kept = await running.recorded
        left = await self._scribe.end(running.stream, last_event(outcome))
        if not kept:
            return outcome
        if isinstance(outcome, Answer):
            await self._remember(running, job_id, outcome)
        text = running.conversation.written.so_far() if running.conversation else ""

        def prepare(connection: Connection) -> Change[Job]:
            if isinstance(outcome, Answer):
                return records.finish(connection, job_id, self._holder, outcome)
            if isinstance(outcome, Cancelled):
                return records.stop(connection, job_id, self._holder, text)
            failure = Failure(outcome.code, outcome.message, passing=False)
            return records.fail(connection, job_id, self._holder, failure, text)

        try:
            await self._write(prepare, left)
        except StemmaError as unwritten:
            # The lease runs out, and the job ends as lost.
            return unwritten
        return outcome

    async def _write(self, prepare: Callable[[Connection], Change[Job]], left: Sequence[Statement]) -> None:
        """Commit how a call ended, after what is left of its events; again where who cancels it was between."""
        for attempt in range(1, _ATTEMPTS + 1):
            change = await self._glance(prepare)
            try:
                await self._ledger.commit_async(replace(change, companions=(*left, *change.companions)))
                return
            except Conflict as error:
                if error.code != "job_changed" or attempt == _ATTEMPTS:
                    raise

    async def _prepared(self, query: Callable[[Connection], Any], agent: Agent) -> Any:
        """What a query gives that reads the agent's prompt, which is published where it never was."""
        try:
            return await self._glance(query)
        except NotFound:
            change = await self._glance(lambda connection: prompts.unpublished(connection, _STUDIO, agent))
            if change is not None:
                # Another process may be first.
                with contextlib.suppress(Conflict):
                    await self._ledger.commit_async(change)
            return await self._glance(query)

    async def _glance(self, query: Callable[[Connection], Any]) -> Any:
        return await asyncio.to_thread(self._database.glance, query)

    async def _keep(self) -> None:
        """Look for calls to be cancelled, prolong the leases, and take back what other processes lost."""
        turn = 0
        while True:
            await asyncio.sleep(_LOOK_SECONDS)
            turn += 1
            try:
                if self._by_job:
                    await self._look(turn % _BEATS == 0)
                if turn % _REAPS == 0:
                    await self._reap()
            except Exception as error:
                # Whatever it is, the calls that run here are not to be lost for it.
                logger.warning("the leases of calls were not prolonged: %s", " ".join(str(error).split()))

    async def _look(self, beat: bool) -> None:
        ids = [job_id for job_id, running in self._by_job.items() if running.recorded.done()]

        def look(connection: Connection) -> tuple[list[UUID], frozenset[UUID]]:
            wanted = "SELECT id FROM jobs WHERE id = ANY(%s) AND cancel_requested_at IS NOT NULL AND state = 'running'"
            asked = [job_id for (job_id,) in connection.execute(wanted, (ids,))]
            return asked, lifecycle.beat_all(connection, ids, self._holder) if beat else frozenset(ids)

        asked, held = await self._glance(look)
        for job_id in asked:
            self.cancel(job_id)
        for job_id in set(ids) - held:
            if (running := self._by_job.get(job_id)) is not None:
                running.stop(Conflict("job_lost", "The call's job was taken back while it ran."))

    async def _reap(self) -> None:
        for change in await asyncio.to_thread(self._database.read, lifecycle.reap):
            with contextlib.suppress(Conflict):
                await self._ledger.commit_async(change)

    def _log(self, running: Running, event: str, **facts: Any) -> None:
        call = running.call
        named = {"job_id": running.job_id, "request_id": call.request_id, "role": call.principal.role.value}
        self._logs.write(call.agent.name, event, **named, **facts)
