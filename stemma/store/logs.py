"""How every process of the studio logs: one JSON object per line on stderr, with what the context has bound.

What to log is decided where it happens; within `unlogged` nothing is. Nothing here or there logs tokens, query strings
or request bodies; what slips into a message, a value or a traceback all the same is redacted here, after the line's
text is complete.
"""

from __future__ import annotations

import contextlib
import logging
import sys
from collections.abc import Iterator
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TextIO

from stemma.redaction import redact_value

if TYPE_CHECKING:
    from structlog.typing import EventDict, Processor, WrappedLogger

# Set by this module, from values of its own.
_OURS = frozenset({"timestamp", "level", "logger"})
_UNREDACTABLE = "[unredactable]"
_unlogged: ContextVar[bool] = ContextVar("unlogged", default=False)


@dataclass(frozen=True, slots=True)
class EventLog:
    """A logger of structlog's, which is imported when there is something to log: it takes longer than most calls."""

    name: str

    def warning(self, event: str, **facts: Any) -> None:
        """Log an event with facts."""
        import structlog

        structlog.get_logger(self.name).warning(event, **facts)


@contextlib.contextmanager
def unlogged() -> Iterator[None]:
    """Log nothing within the block, nor in threads and tasks that are begun in it with its context."""
    before = _unlogged.set(True)
    try:
        yield
    finally:
        _unlogged.reset(before)


def is_unlogged() -> bool:
    """Whether what happens now is to leave no line."""
    return _unlogged.get()


def redact_event(logger: WrappedLogger, method: str, event: EventDict) -> EventDict:
    """The structlog processor that redacts every value of an event, whichever kind of logger it came from.

    It stands behind the one that formats exceptions, and never raises: what cannot be redacted is not logged.
    """
    return {name: event[name] if name in _OURS else _redacted(name, event[name]) for name in event}


def _redacted(name: str, value: Any) -> Any:
    try:
        return redact_value({name: value})[name]
    except Exception:
        return _UNREDACTABLE


def configure_logging(level: str, *, stream: TextIO | None = None) -> None:
    """Send structlog and the standard library's loggers to one JSON-lines handler, in place of other
    handlers.

    `level` is DEBUG, INFO, WARNING or ERROR; `stream` defaults to stderr.
    """
    import structlog

    shared: tuple[Processor, ...] = (
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    )
    formatter = structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=shared,
        processors=[
            structlog.stdlib.ProcessorFormatter.remove_processors_meta,
            structlog.processors.format_exc_info,
            redact_event,
            structlog.processors.JSONRenderer(default=str, ensure_ascii=False),
        ],
    )
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(formatter)
    handler.addFilter(lambda _: not is_unlogged())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
    # These name every URL that they request, with what stands in its query.
    for chatty in ("httpx", "httpcore"):
        logging.getLogger(chatty).setLevel(max(logging.WARNING, root.level))
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        wrapper_class=structlog.make_filtering_bound_logger(root.level),
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=False,
    )
