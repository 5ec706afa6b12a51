"""`local`: a model on this machine or network, behind any server that speaks Chat Completions.

It is looked for when it is opened and looked at again while it is used: such a server comes and goes.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncGenerator
from datetime import UTC, datetime
from types import TracebackType
from typing import TYPE_CHECKING, Final, Self
from urllib.parse import urlsplit

from stemma.llm.failures import FeatureMissing, away, garbage
from stemma.llm.providers.base import Ended, Feature, Request, Standing
from stemma.llm.providers.chat import Reading, body
from stemma.llm.providers.frames import clean
from stemma.llm.providers.patience import Patience
from stemma.llm.providers.refusals import missing, refusal
from stemma.llm.providers.streaming import Intake
from stemma.store.settings import Settings

if TYPE_CHECKING:
    import aiohttp

NAME: Final = "local"

_LOOK_SECONDS: Final = 2.0
_LOOK_AGAIN: Final = 15.0
_MOST_MODELS: Final = 200
_LARGEST_LISTING: Final = 1 << 20
_LARGEST_REFUSAL: Final = 1 << 16


class Local:
    """The provider; `async with` opens it."""

    name = NAME

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._url = (settings.local_model_url or "").rstrip("/")
        self._standing = Standing("disabled", "STEMMA_LOCAL_MODEL_URL is not set.")
        self._looked_at = 0.0
        self._looking: asyncio.Task[Standing] | None = None
        self._lacks: set[tuple[Feature, str]] = set()
        self._opened: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._looking is not None:
            self._looking.cancel()
        if self._opened is not None:
            await self._opened.close()

    @property
    def _session(self) -> aiohttp.ClientSession:
        """Opened when something is asked of the server for the first time: many a process never does."""
        if self._opened is None:
            import aiohttp

            key = self._settings.local_model_key
            headers = {"Content-Type": "application/json"}
            if key is not None:
                headers["Authorization"] = f"Bearer {key.get_secret_value()}"
            self._opened = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=0),
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=self._settings.llm_connect_timeout),
                cookie_jar=aiohttp.DummyCookieJar(),
                headers=headers,
            )
        return self._opened

    @property
    def model(self) -> str:
        """The configured one, else the first that the server lists."""
        return self._settings.local_model or next(iter(self._standing.models), "")

    @property
    def standing(self) -> Standing:
        """How it stood at the last look."""
        return self._standing

    def has(self, feature: Feature, model: str) -> bool:
        """Whether the server has not refused this for the model."""
        return (feature, model) not in self._lacks

    async def known(self) -> Standing:
        """How it stands: the first time by looking, later as of the last look, which is renewed meanwhile."""
        if not self._url:
            return self._standing
        if self._looking is None and time.monotonic() - self._looked_at > _LOOK_AGAIN:
            self._looking = asyncio.create_task(self._look())
        if self._standing.checked_at is None and self._looking is not None:
            # Shared by whoever waits: a caller that goes away must not end it for the others.
            await asyncio.shield(self._looking)
        return self._standing

    async def look(self) -> Standing:
        """Look now."""
        return await self._look() if self._url else self._standing

    async def _look(self) -> Standing:
        try:
            async with asyncio.timeout(_LOOK_SECONDS):
                await self._require_listener()
                models = await self._models()
            self._standing = Standing("ready", "It answers.", models, datetime.now(UTC))
        except (OSError, ValueError, TypeError, KeyError, RecursionError):
            what = "Nothing that lists models answers at STEMMA_LOCAL_MODEL_URL."
            self._standing = Standing("unavailable", what, (), datetime.now(UTC))
        finally:
            self._looked_at = time.monotonic()
            self._looking = None
        return self._standing

    async def _require_listener(self) -> None:
        """Raises OSError where nobody listens, for which no client has to be imported."""
        if self._opened is None:
            parts = urlsplit(self._url)
            port = parts.port or (443 if parts.scheme == "https" else 80)
            _, writer = await asyncio.open_connection(parts.hostname, port)
            writer.close()

    async def _models(self) -> tuple[str, ...]:
        try:
            async with self._session.get(f"{self._url}/models", allow_redirects=False) as response:
                if response.status != 200:
                    raise ValueError(f"HTTP {response.status}")
                listing = json.loads(await _beginning(response, _LARGEST_LISTING))
        except self._client_error() as error:
            raise OSError(str(error)) from error
        return tuple(clean(str(model["id"])[:200]) for model in listing["data"][:_MOST_MODELS])

    @staticmethod
    def _client_error() -> type[Exception]:
        import aiohttp

        return aiohttp.ClientError

    async def ask(self, request: Request, patience: Patience) -> AsyncGenerator[str | Ended, None]:
        """Answer; raises ProviderFailed, and FeatureMissing where the server refuses tools or a schema."""
        what = "cannot be reached"
        try:
            response = await patience.wait(self._send(request))
            async with response:
                if response.status != 200:
                    raise await self._refusal(request, response, patience)
                if response.content_type != "text/event-stream":
                    raise garbage(NAME, "no stream of events")
                what = "cut the connection"
                intake = Intake(NAME, request, Reading(NAME), patience, self._settings.llm_max_answer_bytes)
                while not intake.over:
                    if text := intake.feed(await patience.wait(response.content.readany())):
                        yield text
                yield intake.ended()
        except (OSError, self._client_error()) as error:
            raise away(NAME, what) from error

    async def _send(self, request: Request) -> aiohttp.ClientResponse:
        sent = json.dumps(body(request)).encode()
        return await self._session.post(f"{self._url}/chat/completions", data=sent, allow_redirects=False)

    async def _refusal(self, request: Request, response: aiohttp.ClientResponse, patience: Patience) -> Exception:
        said = await patience.wait(_beginning(response, _LARGEST_REFUSAL))
        if response.status in (400, 422, 501) and (feature := missing(request, said)) is not None:
            self._lacks.add((feature, request.model))
            return FeatureMissing(feature)
        return refusal(NAME, response.status, response.headers, said)


async def _beginning(response: aiohttp.ClientResponse, most: int) -> bytes:
    """The body, or as much of it as is looked at."""
    received = b""
    async for part in response.content.iter_any():
        received += part
        if len(received) >= most:
            break
    return received[:most]
