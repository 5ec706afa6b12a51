"""The one way to a model: which provider is asked, again or instead of another, and that every call is metered.

How a provider is spoken to is `providers`' business, what a call may cost `metering`'s. A stream that a caller gives up
ends at the provider, too.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Self

import structlog

from stemma.errors import InvalidInput, StemmaError, TooLarge, Unavailable
from stemma.llm import tokens
from stemma.llm.circuit import Circuit
from stemma.llm.failures import FeatureMissing, ProviderAway, ProviderFailed, unknown_provider
from stemma.llm.metering import Meter, Outcome, Reservation, Status
from stemma.llm.model import Caller, Completion, Delta, Finished, Part, Prompt, Restarted
from stemma.llm.providers import local, offline, openai
from stemma.llm.providers.base import Ended, Provider, Standing
from stemma.llm.providers.patience import Patience
from stemma.llm.shaping import Form, form_of
from stemma.llm.switches import SwitchBoard
from stemma.store.settings import Settings

if TYPE_CHECKING:
    from stemma.knowledge.search import Searcher


class Router:
    """Answers prompts by the providers there are. Belongs to the event loop that opens it by `async with`."""

    def __init__(self, settings: Settings, searcher: Searcher, meter: Meter, switches: SwitchBoard) -> None: ...

    async def __aenter__(self) -> Self: ...

    async def __aexit__(self, *_: object) -> None: ...

    def stream(self, prompt: Prompt, caller: Caller) -> AsyncGenerator[Part, None]:
        """The answer as it comes, `Finished` last; close it (`aclosing`) to end the call at the provider.

        Text that arrived together is one Delta. After `Restarted` the text so far is void. Raises, before or in the
        middle: InvalidInput and TooLarge for a prompt that cannot be asked, BudgetExhausted, ProviderFailed and its
        kin (`stemma.llm.failures`), Unavailable where database or index are away.
        """
        ...

    async def complete(self, prompt: Prompt, caller: Caller) -> Completion:
        """The answer as a whole; raises what `stream` raises."""
        ...

    def standings(self) -> dict[str, Standing]:
        """How each provider stands, as far as is known."""
        ...

    async def look(self) -> dict[str, Standing]:
        """The same after looking at each."""
        ...
