"""Unexpected errors, told to a Sentry project where `STEMMA_SENTRY_DSN` names one.

An event is made anew of what is allowed in it: type, redacted message and frames of the exception, and tags of ours.
No request, no headers, no bodies, no local variables, no breadcrumbs, no name of the machine.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import version
from typing import Any, Final, Self

from stemma.errors import InvalidInput, Unavailable
from stemma.redaction import redact_value
from stemma.store.settings import Settings

_TIMEOUT = 2.0
_KEPT: Final = ("event_id", "timestamp", "platform", "level", "release", "tags", "exception", "sdk")
_FRAME: Final = ("module", "function", "filename", "lineno", "in_app")


class Reporter:
    """Tells of errors in the background. Thread-safe; `close()` sends what waits, for at most two seconds."""

    def __init__(self, dsn: str) -> None:
        """Raises Unavailable where the package is not installed, InvalidInput for what is no DSN."""
        try:
            import sentry_sdk
            from sentry_sdk.utils import BadDsn
        except ImportError as error:
            raise Unavailable(
                "sentry_not_installed",
                "Errors are to be reported, and the Sentry SDK is not installed.",
                field="STEMMA_SENTRY_DSN",
                hint="Run `pip install --constraint constraints.txt --editable '.[sentry]'`, or unset it.",
            ) from error
        try:
            self._client = sentry_sdk.Client(
                dsn,
                release=version("stemma-studio"),
                # Each would add what a caller sent, or listen to what it was not asked to.
                default_integrations=False,
                auto_enabling_integrations=False,
                auto_session_tracking=False,
                max_request_body_size="never",
                include_local_variables=False,
                include_source_context=False,
                max_breadcrumbs=0,
                send_client_reports=False,
                shutdown_timeout=_TIMEOUT,
                before_send=_allowed,
            )
        except BadDsn as error:
            raise InvalidInput(
                "sentry_dsn_invalid",
                "This is no DSN.",
                field="STEMMA_SENTRY_DSN",
                hint="Sentry shows it in the project's settings, under Client Keys.",
            ) from error

    def report(self, error: BaseException, tags: Mapping[str, str]) -> None:
        """Tell of an error; raises nothing and does not wait."""
        from sentry_sdk.utils import event_from_exception

        event, hint = event_from_exception(error, client_options=self._client.options)
        event["tags"] = dict(tags)
        self._client.capture_event(event, hint)

    def close(self) -> None:
        """Send what waits, and end the thread."""
        self._client.close(timeout=_TIMEOUT)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def open_reporter(settings: Settings) -> Reporter | None:
    """The reporter that the settings ask for, if any; raises what `Reporter` does."""
    return Reporter(settings.sentry_dsn.get_secret_value()) if settings.sentry_dsn else None


def _allowed(event: Any, _hint: object) -> Any:
    kept = {name: event[name] for name in _KEPT if name in event}
    kept["exception"] = {"values": [_exception(told) for told in event.get("exception", {}).get("values", ())]}
    return kept


def _exception(told: Mapping[str, Any]) -> dict[str, Any]:
    frames = (told.get("stacktrace") or {}).get("frames", ())
    return {
        "type": told.get("type"),
        "module": told.get("module"),
        "value": redact_value({"message": str(told.get("value"))})["message"],
        "mechanism": told.get("mechanism"),
        "stacktrace": {"frames": [{name: frame[name] for name in _FRAME if name in frame} for frame in frames]},
    }
