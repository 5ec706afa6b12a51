"""The one way to a model: which provider is asked, again or instead of another, and that every call is metered.

How a provider is spoken to is `providers`' business, what a call may cost `metering`'s, what a switch forbids
`switches`'. A stream that its caller gives up ends at the provider, too.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, aclosing
from dataclasses import replace
from typing import TYPE_CHECKING, Final, Self

from stemma.errors import InvalidInput, StemmaError, TooLarge
from stemma.llm.circuit import Circuit
from stemma.llm.failures import FeatureMissing, unknown_provider
from stemma.llm.metering import Meter
from stemma.llm.model import Caller, Completion, Delta, Part, Prompt, Restarted
from stemma.llm.providers.base import Ended, Provider, Standing
from stemma.llm.providers.local import Local
from stemma.llm.providers.offline import NAME as OFFLINE
from stemma.llm.providers.offline import Offline
from stemma.llm.providers.openai import OpenAI
from stemma.llm.shaping import Unusable, require_schema
from stemma.llm.switches import SwitchBoard
from stemma.llm.trial import Candidate, Trial
from stemma.store.settings import Settings

if TYPE_CHECKING:
    from stemma.knowledge.search import Searcher

MOST_TOKENS: Final = 200_000
LONGEST_CALL: Final = 3600.0


class Router:
    """Answers prompts by the providers there are. Belongs to the event loop that opens it by `async with`."""

    def __init__(self, settings: Settings, searcher: Searcher, meter: Meter, switches: SwitchBoard) -> None:
        self._settings = settings
        self._meter = meter
        self._switches = switches
        self._local = Local(settings)
        self._openai = OpenAI(settings)
        self._offline = Offline(searcher)
        self._providers: dict[str, Provider] = {
            provider.name: provider for provider in (self._openai, self._local, self._offline)
        }
        self._circuits = {name: Circuit() for name in self._providers}
        self._usual = tuple(dict.fromkeys(settings.llm_providers.split(",")))

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as opening:
            for provider in (self._local, self._openai, self._offline):
                await opening.enter_async_context(provider)
            self._opened = opening.pop_all()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._opened.aclose()

    async def stream(self, prompt: Prompt, caller: Caller) -> AsyncGenerator[Part, None]:
        """The answer as it comes, `Finished` last; close it (`aclosing`) to end the call at the provider.

        Text that arrived together is one Delta. After `Restarted` the text so far is void. By the time of `Finished`
        the row of the call is on disk. Raises, before it begins or in the middle: InvalidInput and TooLarge for a
        prompt that cannot be asked, BudgetExhausted, ProviderFailed and its kin (`stemma.llm.failures`), Unavailable
        where the database or the index is away.
        """
        self._check(prompt)
        trial = Trial(prompt, caller, await self._candidates(prompt, caller), self._meter, self._settings)
        void: Restarted | None = None
        while (call := await trial.next()) is not None:
            try:
                if void is not None:
                    yield void
                    void = None
                async with aclosing(call.ask()) as pieces:
                    async for piece in pieces:
                        if isinstance(piece, Ended):
                            call.ended = piece
                        elif text := call.take(piece):
                            yield Delta(text)
                if text := call.rest():
                    yield Delta(text)
            except (StemmaError, FeatureMissing, Unusable) as error:
                reason = trial.failed(call, error)
                if call.spoken:
                    void = Restarted(call.candidate.provider.name, reason)
            except BaseException:
                trial.left(call)
                raise
            else:
                yield await trial.finished(call)
                return
        raise trial.error()

    async def complete(self, prompt: Prompt, caller: Caller) -> Completion:
        """The answer as a whole; raises what `stream` raises."""
        texts: list[str] = []
        async with aclosing(self.stream(prompt, caller)) as parts:
            async for part in parts:
                if isinstance(part, Delta):
                    texts.append(part.text)
                elif isinstance(part, Restarted):
                    texts.clear()
                else:
                    return Completion("".join(texts), part)
        raise AssertionError("a stream ends with Finished or an error")

    def standings(self) -> dict[str, Standing]:
        """How each provider stands, in the order in which they are asked, as far as is known."""
        names = dict.fromkeys((*self._usual, *self._providers))
        return {name: self._standing(name) for name in names}

    async def look(self) -> dict[str, Standing]:
        """The same after looking at each that the switches let be called."""
        may = self._switches.now().allowed(self._providers, founder=False)
        await asyncio.gather(*(self._providers[name].look() for name in may))
        return self.standings()

    def _standing(self, name: str) -> Standing:
        standing, rests = self._providers[name].standing, self._circuits[name].resting
        if name not in self._switches.now().allowed((name,), founder=False):
            return replace(standing, state="disabled", detail="It is switched off.")
        if rests and standing.state == "ready":
            return replace(standing, state="resting", detail=f"It failed and is asked again in {rests:.0f} seconds.")
        return standing

    def _check(self, prompt: Prompt) -> None:
        if not any(message.text.strip() or message.tool_calls for message in prompt.messages):
            raise InvalidInput("prompt_empty", "Nothing is asked.", field="messages", hint="Say something.")
        if not 1 <= prompt.max_tokens <= MOST_TOKENS:
            raise InvalidInput("max_tokens_out_of_range", f"Use 1 to {MOST_TOKENS:,}.", field="max_tokens")
        if not 0 < prompt.timeout <= LONGEST_CALL:
            raise InvalidInput("timeout_out_of_range", f"Use up to {LONGEST_CALL:g} seconds.", field="timeout")
        for name in prompt.providers:
            if name not in self._providers:
                raise unknown_provider(name, tuple(self._providers))
        size, most = _size(prompt), self._settings.llm_max_prompt_bytes
        if size > most:
            what = f"The prompt has {size:,} bytes."
            raise TooLarge("prompt_too_large", what, field="messages", hint=f"Send at most {most:,}.")
        for tool in prompt.tools:
            require_schema(tool.parameters, "tools")
        if prompt.schema is not None:
            require_schema(prompt.schema, "schema")

    async def _candidates(self, prompt: Prompt, caller: Caller) -> list[Candidate]:
        """Who may be asked, in order. Where the switches forbid all others, `offline` answers."""
        named = prompt.providers or self._usual
        wanted = tuple(dict.fromkeys(map(self._mocked, named)))
        allowed = self._switches.now().allowed(wanted, founder=caller.founder) or (OFFLINE,)
        if self._local.name in allowed:
            await self._local.known()
        candidates = [self._candidate(name, prompt.model if name == named[0] else None) for name in allowed]
        usable = [one for one in candidates if one.provider.standing.state != "disabled"]
        if not usable:
            what = " ".join(one.provider.standing.detail for one in candidates)
            raise InvalidInput("provider_not_configured", what, field="providers", hint="Ask another provider.")
        if prompt.schema is not None:
            usable = [one for one in usable if one.provider.name != OFFLINE]
        if not usable:
            what = "No model may be asked now, and the offline provider only quotes: it fills no schema."
            raise InvalidInput("schema_needs_model", what, field="schema", hint="Ask without a schema.")
        return usable

    def _candidate(self, name: str, model: str | None) -> Candidate:
        provider = self._providers[name]
        chosen = provider.model if name == OFFLINE else model or provider.model
        return Candidate(provider, self._circuits[name], chosen)

    def _mocked(self, name: str) -> str:
        """`offline` for a provider without credentials, where USE_MOCKS says so."""
        without = self._settings.use_mocks and self._providers[name].standing.state == "disabled"
        return OFFLINE if without else name


def _size(prompt: Prompt) -> int:
    """Bytes of all that is said in a prompt."""
    said = [message.text for message in prompt.messages]
    said += [call.arguments for message in prompt.messages for call in message.tool_calls]
    return sum(len(text.encode(errors="replace")) for text in said)
