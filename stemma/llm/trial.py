"""One prompt's way through the providers: the calls that are made for it, one after the other, until one answers.

Each call has a reservation, which is settled or released however the call ends.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from stemma.errors import StemmaError, Unavailable
from stemma.llm import tokens
from stemma.llm.circuit import Circuit
from stemma.llm.failures import FeatureMissing, ProviderAway, ProviderFailed, ProviderSilent, silent
from stemma.llm.metering import Meter, Outcome, Reservation, Settlement, Status
from stemma.llm.model import Caller, Finished, Message, Prompt, ToolCall, Usage
from stemma.llm.providers.base import Answering, Ended, Provider, Request
from stemma.llm.providers.patience import Patience
from stemma.llm.shaping import REPAIRS, Form, Unusable, form_of
from stemma.store.logs import EventLog
from stemma.store.settings import Settings

_BACKOFF: Final = 0.25
_LONGEST_PAUSE: Final = 10.0
_log = EventLog("llm")


@dataclass(frozen=True, slots=True)
class Candidate:
    """A provider that may be asked, and for which model."""

    provider: Provider
    circuit: Circuit
    model: str


class Call:
    """One call to one provider, from its reservation on."""

    def __init__(
        self, candidate: Candidate, form: Form, prompt: Prompt, reservation: Reservation, patience: Patience
    ) -> None:
        self.candidate = candidate
        self.form = form
        self.reservation = reservation
        self.ended: Ended | None = None
        self.tool_calls: tuple[ToolCall, ...] = ()
        self.spoken = False
        self.asked = False
        self._prompt = prompt
        self._patience = patience
        self._texts: list[str] = []
        self._held = ""
        self._began = time.perf_counter()
        self._ttft_ms: float | None = None

    @property
    def said(self) -> str:
        """All that the provider said so far."""
        return "".join(self._texts)

    def ask(self) -> Answering:
        """Begin; the pieces of the answer are to be handed to `take`."""
        self.asked = True
        request = Request(
            self.form.messages,
            self.candidate.model,
            self.form.tools,
            self.form.schema,
            self._prompt.max_tokens,
            self._prompt.temperature,
        )
        return self.candidate.provider.ask(request, self._patience)

    def take(self, text: str) -> str:
        """What of the answer can be passed on now that this came; the rest is held."""
        if not self._texts:
            self._ttft_ms = (time.perf_counter() - self._began) * 1000
        self._texts.append(text)
        if not self.form.plain:
            self._held += text
            ready = self.form.passed_on(self._held)
            text, self._held = self._held[:ready], self._held[ready:]
        self.spoken = self.spoken or bool(text)
        return text

    def rest(self) -> str:
        """What was held, now that the answer is whole; raises Unusable where it is not of the form asked for."""
        assert self.ended is not None
        text, self.tool_calls = self.form.read(self._held, self.ended)
        self._held = ""
        return text

    def outcome(self, status: Status, code: str | None = None, *, used: bool = True) -> Outcome:
        """How the call ended, with the provider's count or an estimate; `used` is False where it did not answer."""
        self._patience.end()
        counted = self.ended.usage if self.ended is not None else None
        usage: Usage | None = None
        if used:
            usage = counted or tokens.estimated(replace(self._prompt, messages=self.form.messages), self.said)
        latency = (time.perf_counter() - self._began) * 1000
        return Outcome(status, latency, usage, self._ttft_ms, code)

    def finished(self, outcome: Outcome, settlement: Settlement) -> Finished:
        """The last part of the answer."""
        assert self.ended is not None and outcome.usage is not None
        return Finished(
            provider=self.candidate.provider.name,
            model=self.candidate.model,
            reason="tool_calls" if self.tool_calls else self.ended.reason,
            usage=outcome.usage,
            cost=settlement.cost,
            latency_ms=outcome.latency_ms,
            ttft_ms=outcome.ttft_ms,
            tool_calls=self.tool_calls,
            citations=self.ended.citations,
        )


class Trial:
    """The calls for one prompt. Belongs to the event loop."""

    def __init__(
        self, prompt: Prompt, caller: Caller, candidates: Sequence[Candidate], meter: Meter, settings: Settings
    ) -> None:
        self._prompt = prompt
        self._caller = caller
        self._left = deque(candidates)
        self._meter = meter
        self._settings = settings
        self._deadline = asyncio.get_running_loop().time() + prompt.timeout
        self._failures: list[StemmaError] = []
        self._tries = 0
        self._repairs = 0
        self._pause = 0.0
        self._mending: tuple[Message, ...] = ()

    async def next(self) -> Call | None:
        """The next call, reserved and not begun; None where nobody is left to be asked.

        Raises BudgetExhausted, and Unavailable where the database stays away.
        """
        while self._left:
            candidate = self._left[0]
            obstacle = await self._wait_for(candidate) or self._obstacle(candidate)
            if obstacle is None:
                return await self._reserved(candidate)
            self._failures.append(obstacle)
            self._give_up(candidate)
        return None

    def failed(self, call: Call, error: StemmaError | FeatureMissing | Unusable) -> str:
        """Account for a call that failed, and choose who is asked next; gives the code of the failure."""
        if isinstance(error, FeatureMissing):
            return self._lacking(call, error)
        if isinstance(error, Unusable):
            return self._unusable(call, error)
        used = bool(call.said) or isinstance(error, ProviderSilent)
        self._meter.settle(call.reservation, call.outcome("error", error.code, used=used))
        self._failures.append(error)
        again, pause = self._judged(call.candidate.circuit, error)
        if again and not call.spoken and self._tries < self._settings.llm_retries:
            self._tries += 1
            self._pause = pause
        elif isinstance(error, ProviderFailed) and error.final:
            self._left.clear()
            self._failures = [error]
        else:
            self._give_up(call.candidate)
        if not self._caller.founder:
            _log.warning(
                "a provider failed",
                provider=call.candidate.provider.name,
                code=error.code,
                request_id=self._caller.request_id,
            )
        return error.code

    async def finished(self, call: Call) -> Finished:
        """The end of the answer, after its row is on disk."""
        call.candidate.circuit.succeeded()
        outcome = call.outcome("ok")
        settlement = self._meter.settle(call.reservation, outcome)
        # A caller that goes away must not take the row with it.
        await asyncio.shield(asyncio.wrap_future(settlement.written))
        return call.finished(outcome, settlement)

    def left(self, call: Call) -> None:
        """The caller gave up."""
        call.candidate.circuit.left()
        if call.asked:
            self._meter.settle(call.reservation, call.outcome("cancelled"))
        else:
            self._meter.release(call.reservation)

    def error(self) -> StemmaError:
        """Why nobody answered."""
        causes: dict[str, StemmaError] = {}
        for error in self._failures:
            name = error.provider if isinstance(error, ProviderFailed) else ""
            # That it is left alone since is no news to whom it failed.
            if name not in causes or error.code != "provider_resting":
                causes[name] = error
        first, *others = causes.values()
        if not others:
            return first
        what = " ".join(error.message for error in causes.values())
        if isinstance(first, ProviderFailed):
            return type(first)(first.code, first.provider, what, hint=first.hint)
        return Unavailable(first.code, what, hint=first.hint)

    async def _wait_for(self, candidate: Candidate) -> ProviderSilent | None:
        """Pause before a provider is asked again; gives the failure where there is no time left for that."""
        if asyncio.get_running_loop().time() + self._pause >= self._deadline:
            self._left = deque([candidate])
            return silent(candidate.provider.name, "had no time left to be asked again")
        if self._pause:
            await asyncio.sleep(self._pause)
        return None

    def _obstacle(self, candidate: Candidate) -> ProviderAway | None:
        provider, standing = candidate.provider, candidate.provider.standing
        if standing.state == "unavailable":
            return ProviderAway("provider_unavailable", provider.name, standing.detail)
        if not candidate.model:
            return ProviderAway("provider_unavailable", provider.name, f"The provider {provider.name} has no model.")
        if not candidate.circuit.admit():
            what = f"The provider {provider.name} failed several times and is left alone for a while."
            return ProviderAway("provider_resting", provider.name, what, hint="Ask again later.")
        return None

    async def _reserved(self, candidate: Candidate) -> Call:
        provider, prompt = candidate.provider, self._prompt
        mode = prompt.tools_mode
        own_tools = mode == "native" or (mode == "auto" and provider.has("tools", candidate.model))
        form = form_of(prompt, own_tools=own_tools, own_schema=provider.has("schema", candidate.model))
        if self._mending:
            form = replace(form, messages=self._mending)
        try:
            asked = replace(prompt, messages=form.messages)
            reservation = await self._meter.reserve(asked, self._caller, provider.name, candidate.model)
        except BaseException:
            candidate.circuit.left()
            raise
        patience = Patience(
            provider.name,
            first=self._settings.llm_first_token_timeout,
            between=self._settings.llm_token_timeout,
            deadline=self._deadline,
        )
        return Call(candidate, form, prompt, reservation, patience)

    def _judged(self, circuit: Circuit, error: StemmaError) -> tuple[bool, float]:
        """What a failure says of the provider, and whether and after which pause it may be asked again."""
        if not isinstance(error, ProviderFailed) or not error.blamed:
            circuit.left()
            return False, 0.0
        wanted = error.retry_after or 0.0
        patient = wanted <= _LONGEST_PAUSE
        # A short pause is waited out by each call; a long one keeps all away.
        circuit.failed(None if patient else wanted)
        # The spread keeps those that failed together from coming back together.
        return error.again and patient, wanted + random.uniform(0, _BACKOFF * 2**self._tries)  # noqa: S311

    def _lacking(self, call: Call, error: FeatureMissing) -> str:
        call.candidate.circuit.left()
        self._meter.release(call.reservation)
        if error.feature == "tools" and self._prompt.tools_mode == "native":
            name = call.candidate.provider.name
            what = f"The model {call.candidate.model} of {name} has no tools of its own."
            failure = ProviderFailed("provider_refused", name, what, hint="Use tools_mode auto.", blamed=False)
            self._failures.append(failure)
            self._give_up(call.candidate)
        return "provider_refused"

    def _unusable(self, call: Call, error: Unusable) -> str:
        name = call.candidate.provider.name
        call.candidate.circuit.succeeded()
        self._meter.settle(call.reservation, call.outcome("error", "answer_invalid"))
        if self._repairs < REPAIRS:
            self._repairs += 1
            self._pause = 0.0
            self._mending = call.form.again(call.said, error.why)
        else:
            what = f"The provider {name} gave no answer of the form that was asked for, {REPAIRS + 1} times over."
            self._failures.append(ProviderFailed("answer_invalid", name, what, blamed=False))
            self._give_up(call.candidate)
        return "answer_invalid"

    def _give_up(self, candidate: Candidate) -> None:
        """Go on to the next provider."""
        if self._left and self._left[0] is candidate:
            self._left.popleft()
        self._tries = self._repairs = 0
        self._pause = 0.0
        self._mending = ()
