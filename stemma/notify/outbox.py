"""The outbox: messages that commit with what they tell of, and one delivery of each for every channel.

Nothing is sent here. A message is put in with a change, `route` makes its deliveries, `claim` lends one to whoever
sends it until its lease ends, and it is settled as delivered or failed, or postponed. What a process took and did not
settle, because it was killed, is lent again: a receiver may get a message twice, with the same id, and misses none.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Final
from uuid import UUID, uuid4

from psycopg.rows import class_row

from stemma.access.principal import Principal
from stemma.errors import Conflict, NotFound
from stemma.ledger.change import Change
from stemma.ledger.journal import audited, transition
from stemma.ledger.writer import Statement, row
from stemma.notify.messages import Message, presentable
from stemma.store.cursors import Page, cut_page, decode_cursor, encode_cursor
from stemma.store.database import Connection

KEPT_DAYS: Final = 30
AT_ONCE: Final = 500

_NEWEST = 2**63 - 1
_STUDIO = "studio"


class State(StrEnum):
    """Where a delivery stands."""

    PENDING = "pending"
    DELIVERED = "delivered"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Claimed:
    """A delivery that this process may attempt now; `remaining` is in seconds, to its deadline."""

    id: UUID
    channel: str
    attempts: int
    remaining: float
    message: Message


@dataclass(frozen=True, slots=True)
class Notification:
    """A delivery as listed. `error` is that of the last attempt."""

    id: UUID
    message_id: UUID
    topic: str
    title: str
    text: str
    channel: str
    state: State
    attempts: int
    created_at: datetime
    next_attempt_at: datetime | None
    settled_at: datetime | None
    error_code: str | None
    error: str | None


_TOLD: Final = ("id", "topic", "title", "text", "data", "created_at")
_ENQUEUE: Final = """
    INSERT INTO notifications (id, topic, title, text, data, created_at)
    SELECT * FROM json_to_recordset(%(rows)s::json) AS (
        id uuid, topic text, title text, text text, data jsonb, created_at timestamptz)
    ON CONFLICT DO NOTHING
"""
_SELECT: Final = """
    SELECT d.id, n.id AS message_id, n.topic, n.title, n.text, d.channel, d.state, d.attempts, n.created_at,
        CASE WHEN d.state = 'pending' THEN d.next_attempt_at END AS next_attempt_at,
        d.settled_at, d.error_code, d.error, d.position
    FROM notification_deliveries AS d JOIN notifications AS n ON n.id = d.notification_id
"""


@dataclass(frozen=True, slots=True)
class _Row(Notification):
    position: int

    @property
    def shown(self) -> Notification:
        values = {name: getattr(self, name) for name in Notification.__slots__}
        return Notification(**values | {"state": State(self.state)})


def enqueue(message: Message) -> Statement:
    """The statement that puts a message into the outbox, for any change to take along; an id that is there stays.

    What is put in is redacted. Who gets it is decided when it is routed, so that no file is read here.
    """
    told = presentable(message)
    return Statement(_ENQUEUE, row({name: getattr(told, name) for name in _TOLD}), as_rows=True)


def has_work(connection: Connection) -> bool:
    """Whether a message waits to be routed or a delivery is due."""
    found = connection.execute(
        "SELECT EXISTS (SELECT FROM notifications WHERE routed_at IS NULL)"
        " OR EXISTS (SELECT FROM notification_deliveries WHERE state = 'pending' AND next_attempt_at <= now())"
    ).fetchone()
    return found == (True,)


def route(connection: Connection, channels_for: Callable[[str], Sequence[str]], *, patience: float) -> int:
    """Make the deliveries of up to `AT_ONCE` messages, the oldest first; returns of how many messages.

    `patience` is how many seconds a delivery is attempted before it fails.
    """
    waiting = connection.execute(
        "SELECT id, topic FROM notifications WHERE routed_at IS NULL ORDER BY created_at LIMIT %s"
        " FOR UPDATE SKIP LOCKED",
        (AT_ONCE,),
    ).fetchall()
    deliveries = [
        (uuid4(), message_id, channel, patience) for message_id, topic in waiting for channel in channels_for(topic)
    ]
    connection.cursor().executemany(
        "INSERT INTO notification_deliveries (id, notification_id, channel, next_attempt_at, deadline)"
        " VALUES (%s, %s, %s, now(), now() + make_interval(secs => %s)) ON CONFLICT DO NOTHING",
        deliveries,
    )
    connection.execute(
        "UPDATE notifications SET routed_at = now() WHERE id = ANY(%s)", ([message_id for message_id, _ in waiting],)
    )
    return len(waiting)


def due_channels(connection: Connection) -> tuple[str, ...]:
    """The channels that have something to send now."""
    rows = connection.execute(
        "SELECT DISTINCT channel FROM notification_deliveries WHERE state = 'pending' AND next_attempt_at <= now()"
        " ORDER BY channel"
    ).fetchall()
    return tuple(channel for (channel,) in rows)


def claim(connection: Connection, channel: str, *, lease: float) -> Claimed | None:
    """Take the channel's delivery that is due longest, for `lease` seconds; None where nothing is due."""
    row = connection.execute(
        """
        UPDATE notification_deliveries AS d
        SET attempts = attempts + 1, next_attempt_at = now() + make_interval(secs => %(lease)s)
        FROM notifications AS n
        WHERE n.id = d.notification_id AND d.id = (
            SELECT id FROM notification_deliveries
            WHERE channel = %(channel)s AND state = 'pending' AND next_attempt_at <= now()
            ORDER BY next_attempt_at, position LIMIT 1 FOR UPDATE SKIP LOCKED
        )
        RETURNING d.id, d.attempts, extract(epoch FROM d.deadline - now())::float8,
            n.topic, n.title, n.text, n.data, n.id, n.created_at
        """,
        {"channel": channel, "lease": lease},
    ).fetchone()
    if row is None:
        return None
    delivery_id, attempts, remaining, *message = row
    return Claimed(delivery_id, channel, attempts, remaining, Message(*message))


def delivered(connection: Connection, claimed: Claimed) -> None:
    """Settle an attempt that succeeded, unless its lease ended and another process took it."""
    connection.execute(
        "UPDATE notification_deliveries SET state = 'delivered', settled_at = now(), error_code = NULL, error = NULL"
        " WHERE id = %s AND attempts = %s AND state = 'pending'",
        (claimed.id, claimed.attempts),
    )


def postponed(connection: Connection, claimed: Claimed, code: str, error: str, *, seconds: float) -> None:
    """Have a delivery attempted again after `seconds`, unless another process took it."""
    connection.execute(
        "UPDATE notification_deliveries"
        " SET next_attempt_at = now() + make_interval(secs => %s), error_code = %s, error = %s"
        " WHERE id = %s AND attempts = %s AND state = 'pending'",
        (seconds, code, error, claimed.id, claimed.attempts),
    )


def held_back(connection: Connection, channel: str, *, seconds: float) -> None:
    """Attempt nothing of a channel before `seconds` have passed: its receiver asked for that."""
    connection.execute(
        "UPDATE notification_deliveries"
        " SET next_attempt_at = greatest(next_attempt_at, now() + make_interval(secs => %s))"
        " WHERE channel = %s AND state = 'pending'",
        (seconds, channel),
    )


def failed(claimed: Claimed, code: str, error: str) -> Change[None]:
    """Give a delivery up, which the Historian is told; raises Conflict where another process took it."""
    data = {"channel": claimed.channel, "topic": claimed.message.topic, "attempts": claimed.attempts, "code": code}
    entry = transition("notification.failed", subject=f"notification/{claimed.id}", actor=_STUDIO, data=data)
    settle = Statement(
        "UPDATE notification_deliveries SET state = 'failed', settled_at = now(), error_code = %s, error = %s"
        " WHERE id = %s AND attempts = %s AND state = 'pending'",
        (code, error, claimed.id, claimed.attempts),
        rows=1,
    )
    return Change((entry,), (settle,), lambda _: None)


def retry(connection: Connection, principal: Principal, delivery_id: UUID, *, patience: float) -> Change[Notification]:
    """Have a delivery that failed attempted again, now and for `patience` seconds.

    Raises NotFound, Conflict with code `notification_not_failed`.
    """
    found = get_notification(connection, delivery_id)
    if found.state is not State.FAILED:
        what = f"This notification is {found.state}; only one that failed is sent again."
        raise Conflict("notification_not_failed", what, field="id")
    entries = audited(
        principal,
        "notification.retried",
        resource=f"notification/{delivery_id}",
        meta={"channel": found.channel, "topic": found.topic},
        critical=True,
    )
    update = Statement(
        "UPDATE notification_deliveries SET state = 'pending', attempts = 0, settled_at = NULL,"
        " next_attempt_at = now(), deadline = now() + make_interval(secs => %s) WHERE id = %s AND state = 'failed'",
        (patience, delivery_id),
        rows=1,
    )
    pending = Notification(
        **{name: getattr(found, name) for name in Notification.__slots__}
        | {"state": State.PENDING, "attempts": 0, "settled_at": None}
    )
    return Change(entries, (update,), lambda _: pending)


def get_notification(connection: Connection, delivery_id: UUID) -> Notification:
    """One delivery; raises NotFound."""
    with connection.cursor(row_factory=class_row(_Row)) as cursor:
        found = cursor.execute(f"{_SELECT} WHERE d.id = %s", (delivery_id,)).fetchone()
    if found is None:
        hint = "`stemma notify outbox` lists them."
        raise NotFound("notification_unknown", f"There is no notification {delivery_id}.", field="id", hint=hint)
    return found.shown


def list_notifications(
    connection: Connection,
    *,
    state: State | None = None,
    channel: str | None = None,
    cursor: str | None = None,
    limit: int = 50,
) -> Page[Notification]:
    """Deliveries, the newest first, all or those that match; raises InvalidInput(field="cursor")."""
    (before,) = decode_cursor("notifications", cursor, int) if cursor else (_NEWEST,)
    with connection.cursor(row_factory=class_row(_Row)) as rows:
        found = rows.execute(
            f"""
            {_SELECT} WHERE d.position < %(before)s
                AND (%(state)s::text IS NULL OR d.state = %(state)s)
                AND (%(channel)s::text IS NULL OR d.channel = %(channel)s)
            ORDER BY d.position DESC LIMIT %(limit)s
            """,
            {"before": before, "state": state, "channel": channel, "limit": limit + 1},
        ).fetchall()
    page = cut_page(found, limit, lambda last: encode_cursor("notifications", last.position))
    return Page(tuple(row.shown for row in page.data), page.next_cursor)


def failed_ids(connection: Connection) -> tuple[UUID, ...]:
    """Every delivery that failed, the oldest first."""
    rows = connection.execute(
        "SELECT id FROM notification_deliveries WHERE state = 'failed' ORDER BY position"
    ).fetchall()
    return tuple(delivery_id for (delivery_id,) in rows)


def forget_old(connection: Connection) -> None:
    """Delete up to `AT_ONCE` messages older than `KEPT_DAYS` of which nothing is pending any more."""
    connection.execute(
        """
        DELETE FROM notifications WHERE id IN (
            SELECT id FROM notifications AS n
            WHERE created_at < now() - make_interval(days => %s) AND routed_at IS NOT NULL AND NOT EXISTS (
                SELECT FROM notification_deliveries WHERE notification_id = n.id AND state = 'pending'
            )
            ORDER BY created_at LIMIT %s FOR UPDATE SKIP LOCKED
        )
        """,
        (KEPT_DAYS, AT_ONCE),
    )
