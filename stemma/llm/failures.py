"""How a call to a model can fail, as errors with the code that its caller, its job and its usage row are told.

No message here holds what was asked or answered, nor what a provider said: that may repeat either.
"""

from __future__ import annotations

from stemma.errors import InvalidInput, Unavailable


class ProviderFailed(Unavailable):
    """A provider gave no answer, or none that can be used. Codes: `provider_garbage`, `provider_refused`,
    `answer_too_long`, `answer_invalid`.

    `again` says that the same provider may be asked once more, after `retry_after` seconds where it said so; `final`
    that no other provider is asked either; `blamed` that it counts against the provider.
    """

    status = 502
    title = "Model provider failed"

    def __init__(
        self,
        code: str,
        provider: str,
        message: str,
        *,
        hint: str | None = None,
        again: bool = False,
        retry_after: float | None = None,
        final: bool = False,
        blamed: bool = True,
    ) -> None:
        super().__init__(code, message, hint=hint)
        self.provider = provider
        self.again = again
        self.retry_after = retry_after
        self.final = final
        self.blamed = blamed


class ProviderAway(ProviderFailed):
    """It cannot be reached, is overloaded, or broke off. Codes: `provider_unavailable`, `provider_rate_limited`,
    `provider_not_configured`, `provider_resting`.
    """

    status = 503
    title = "Model provider unavailable"


class ProviderSilent(ProviderFailed):
    """It took longer than it may. Code: `provider_timeout`."""

    status = 504
    title = "Model provider timed out"


class FeatureMissing(Exception):
    """The model has no way of its own for `feature`: it is asked again in words, and this is seen by nobody."""

    def __init__(self, feature: str) -> None:
        super().__init__(feature)
        self.feature = feature


def away(provider: str, what: str) -> ProviderAway:
    """The provider did not answer or broke off; it may be tried again."""
    hint = "It is tried again by itself; `stemma llm providers` shows how the providers stand."
    return ProviderAway("provider_unavailable", provider, f"The provider {provider} {what}.", hint=hint, again=True)


def garbage(provider: str, what: str) -> ProviderFailed:
    """What the provider sent cannot be read."""
    return ProviderFailed("provider_garbage", provider, f"The provider {provider} sent {what}.", again=True)


def silent(provider: str, what: str) -> ProviderSilent:
    """The provider let a deadline pass."""
    return ProviderSilent("provider_timeout", provider, f"The provider {provider} {what}.")


def too_long(provider: str, what: str) -> ProviderFailed:
    """The provider goes on beyond what was asked for; another one is not asked for the same again."""
    message = f"The provider {provider} went on beyond {what}, so its answer was cut off."
    return ProviderFailed("answer_too_long", provider, message, final=True, blamed=False)


def refused(provider: str, status: int, said: str | None) -> ProviderFailed:
    """The provider answered with this HTTP status; `said` is its own code for it, an identifier."""
    why = f"HTTP {status}" + (f", {said}" if said else "")
    message = f"The provider {provider} refused the request ({why})."
    if status in (401, 403):
        return ProviderFailed("provider_refused", provider, message, hint="Its key is missing, wrong, or may not.")
    return ProviderFailed("provider_refused", provider, message, hint="Ask for another model.", blamed=False)


def unknown_provider(name: str, known: tuple[str, ...]) -> InvalidInput:
    """There is no provider of this name."""
    hint = f"Known: {', '.join(known)}."
    return InvalidInput("provider_unknown", f"There is no provider {name[:60]!r}.", field="providers", hint=hint)
