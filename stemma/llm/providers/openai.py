"""`openai`: OpenAI's Responses API, by its own SDK; asked only where spending is allowed and there is a key.

The SDK sends the request and knows the account; the stream's bytes are read here, without a model object per token.
"""

from __future__ import annotations

import asyncio
import importlib
from collections.abc import AsyncGenerator
from datetime import UTC, datetime
from types import TracebackType
from typing import TYPE_CHECKING, Final, Self

from stemma.llm.failures import ProviderAway, away, garbage
from stemma.llm.providers.base import Ended, Feature, Request, Standing
from stemma.llm.providers.patience import Patience
from stemma.llm.providers.refusals import refusal
from stemma.llm.providers.responses import Reading, body
from stemma.llm.providers.streaming import Intake
from stemma.store.settings import Settings

if TYPE_CHECKING:
    from openai import AsyncOpenAI

NAME: Final = "openai"

_LOOK_SECONDS: Final = 5.0


class OpenAI:
    """The provider; `async with` opens it."""

    name = NAME

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._client: AsyncOpenAI | None = None
        self._standing = _beginning(settings)

    async def __aenter__(self) -> Self:
        if self._standing.state != "disabled":
            # Importing the SDK takes a second, which no stream should have to wait for.
            await asyncio.to_thread(importlib.import_module, "openai")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._client is not None:
            await self._client.close()

    @property
    def model(self) -> str:
        """The configured one."""
        return self._settings.openai_model

    @property
    def standing(self) -> Standing:
        """Ready where it is allowed and has a key; whether it answers is known after a look."""
        return self._standing

    def has(self, feature: Feature, model: str) -> bool:
        """All its models have tools and schemas."""
        return True

    async def look(self) -> Standing:
        """Look now, by a request that costs nothing."""
        if self._standing.state == "disabled":
            return self._standing
        import openai

        now = datetime.now(UTC)
        try:
            await self._opened().with_options(timeout=_LOOK_SECONDS).models.retrieve(self.model)
            self._standing = Standing("ready", "It answers.", (self.model,), now)
        except openai.OpenAIError:
            # It is asked all the same: a look that failed must not switch it off for good.
            self._standing = Standing("ready", "It did not answer the last look, or not to this key.", (), now)
        return self._standing

    async def ask(self, request: Request, patience: Patience) -> AsyncGenerator[str | Ended, None]:
        """Answer; raises ProviderFailed."""
        import httpx
        import openai

        what = "cannot be reached"
        try:
            sending = self._opened().responses.with_streaming_response.create(**body(request))
            response = await patience.wait(sending.__aenter__())
            try:
                if not response.headers.get("content-type", "").startswith("text/event-stream"):
                    raise garbage(NAME, "no stream of events")
                what = "cut the connection"
                received = response.iter_bytes()
                intake = Intake(NAME, request, Reading(NAME), patience, self._settings.llm_max_answer_bytes)
                while not intake.over:
                    if text := intake.feed(await patience.wait(anext(received, b""))):
                        yield text
                yield intake.ended()
            finally:
                await response.close()
        except openai.APIStatusError as error:
            said = error.response
            raise refusal(NAME, said.status_code, said.headers, said.content) from None
        except (openai.OpenAIError, httpx.HTTPError, OSError) as error:
            raise away(NAME, what) from error

    def _opened(self) -> AsyncOpenAI:
        """The SDK's client, made at first use."""
        import httpx
        import openai

        key = self._settings.openai_api_key
        if self._standing.state == "disabled" or key is None:
            raise ProviderAway("provider_not_configured", NAME, self._standing.detail, blamed=False)
        if self._client is None:
            connect = self._settings.llm_connect_timeout
            # How long to wait for what is the business of `Patience`.
            timeout = httpx.Timeout(None, connect=connect)
            base_url = self._settings.openai_base_url
            self._client = openai.AsyncOpenAI(
                api_key=key.get_secret_value(), base_url=base_url, timeout=timeout, max_retries=0
            )
        return self._client


def _beginning(settings: Settings) -> Standing:
    if not settings.ff_paid_providers:
        return Standing("disabled", "FF_PAID_PROVIDERS is off: nothing that costs money is called.")
    if settings.openai_api_key is None or not settings.openai_api_key.get_secret_value().strip():
        return Standing("disabled", "OPENAI_API_KEY is not set.")
    return Standing("ready", "It has a key.", (settings.openai_model,))
