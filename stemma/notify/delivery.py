"""Delivering what the outbox holds: which message is attempted when, and what becomes of it.

Each channel has a thread of its own and one attempt at a time, so that a receiver that hangs holds up nobody else's
messages, and its own only once: after an attempt that is to be repeated, a channel rests until the next call.
"""

from __future__ import annotations

import contextlib
import logging
import random
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final

from stemma.errors import Conflict
from stemma.ledger.service import Ledger
from stemma.notify import mail, outbox, signed, slack
from stemma.notify.channels import Channel, MailChannel, Routing, SlackChannel, load_routing
from stemma.notify.messages import Message
from stemma.notify.outbox import Claimed
from stemma.notify.sending import Undelivered
from stemma.redaction import redact
from stemma.store.database import Database
from stemma.store.settings import Settings

logger = logging.getLogger(__name__)

_FIRST_PAUSE: Final = 5.0
_LONGEST_PAUSE: Final = 3600.0
_MOST_CHANNELS: Final = 16
_GRACE: Final = 30.0
_MAX_ERROR: Final = 500


@dataclass(frozen=True, slots=True)
class Report:
    """What one call did: how many messages it routed, and how many attempts ended how."""

    routed: int
    delivered: int
    postponed: int
    failed: int


def deliver(database: Database, ledger: Ledger, settings: Settings, *, seconds: float, at_most: int) -> Report:
    """Route what waits and attempt what is due: no attempt begins after `seconds`, nor beyond `at_most` per channel.

    Any number of processes may do this at once. Raises InvalidInput where the channels cannot be read; messages wait.
    """
    routing = load_routing(settings)
    with database.transaction() as connection:
        routed = outbox.route(connection, routing.channels_for, patience=patience(settings))
        outbox.forget_old(connection)
    with database.transaction() as connection:
        channels = outbox.due_channels(connection)
    counts: Counter[str] = Counter()
    run = _Run(database, ledger, settings, routing, time.monotonic() + seconds, at_most)
    with ThreadPoolExecutor(max_workers=_MOST_CHANNELS, thread_name_prefix="notify") as threads:
        for ended in threads.map(run.empty, channels):
            counts.update(ended)
    return Report(routed, counts["delivered"], counts["postponed"], counts["failed"])


def patience(settings: Settings) -> float:
    """For how many seconds a delivery is attempted."""
    return settings.notify_deadline_hours * 3600.0


def send(channel: Channel, message: Message, settings: Settings) -> None:
    """One attempt; raises Undelivered, whose words hold no secret of the channel."""
    try:
        if isinstance(channel, SlackChannel):
            slack.send(channel, message, timeout=settings.notify_timeout)
        elif isinstance(channel, MailChannel):
            mail.send(channel, message, timeout=settings.notify_timeout)
        else:
            signed.send(channel, message, timeout=settings.notify_timeout)
    except Undelivered as error:
        told = _scrubbed(error.message, channel)
        raise Undelivered(error.code, told, permanent=error.permanent, retry_after=error.retry_after) from None
    except Exception as error:
        # Its words may hold anything, and no message may be attempted for ever.
        what = f"The attempt ended with {type(error).__name__}, which nobody foresaw."
        raise Undelivered("unexpected_error", what) from None


def pause(attempts: int) -> float:
    """Seconds to wait after so many attempts: doubled each time, up to an hour, with a random part."""
    longest = min(_FIRST_PAUSE * 2.0 ** min(attempts - 1, 20), _LONGEST_PAUSE)
    return longest * random.uniform(0.5, 1.0)  # noqa: S311 - spreads load, guards nothing


@dataclass(frozen=True, slots=True)
class _Run:
    database: Database
    ledger: Ledger
    settings: Settings
    routing: Routing
    ends_at: float
    at_most: int

    def empty(self, channel: str) -> Counter[str]:
        """Attempt a channel's deliveries one after the other; says how they ended."""
        counts: Counter[str] = Counter()
        while counts.total() < self.at_most and not counts["postponed"] and time.monotonic() < self.ends_at:
            with self.database.transaction() as connection:
                claimed = outbox.claim(connection, channel, lease=self.settings.notify_timeout + _GRACE)
            if claimed is None:
                break
            counts[self.attempt(claimed)] += 1
        return counts

    def attempt(self, claimed: Claimed) -> str:
        channel = self.routing.channels.get(claimed.channel)
        try:
            if channel is None:
                what = "The channel is not in notify.yaml any more."
                raise Undelivered("channel_unknown", what, permanent=True)
            send(channel, claimed.message, self.settings)
        except Undelivered as error:
            return self._undelivered(claimed, error)
        with self.database.transaction() as connection:
            outbox.delivered(connection, claimed)
        return "delivered"

    def _undelivered(self, claimed: Claimed, error: Undelivered) -> str:
        seconds = max(pause(claimed.attempts), error.retry_after)
        given_up = error.permanent or seconds > claimed.remaining
        outcome = "given up" if given_up else "postponed"
        logger.warning("%s to %s is %s: %s", claimed.id, claimed.channel, outcome, error.code)
        if given_up:
            with contextlib.suppress(Conflict):
                self.ledger.commit(outbox.failed(claimed, error.code, error.message)).result()
            return "failed"
        with self.database.transaction() as connection:
            outbox.postponed(connection, claimed, error.code, error.message, seconds=seconds)
            if error.retry_after:
                outbox.held_back(connection, claimed.channel, seconds=error.retry_after)
        return "postponed"


def _scrubbed(text: str, channel: Channel) -> str:
    """What a server said, without what it may have repeated."""
    for secret in channel.secrets():
        text = text.replace(secret, "[secret]")
    return redact(text).text[:_MAX_ERROR]
