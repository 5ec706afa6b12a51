"""Outgoing webhooks: `{type, timestamp, title, text, data}`, signed by Standard Webhooks."""

from __future__ import annotations

import json
import time

from stemma.ledger.entries import format_time
from stemma.notify.channels import WebhookChannel
from stemma.notify.messages import Message
from stemma.notify.sending import post
from stemma.notify.standard_webhooks import sign


def send(channel: WebhookChannel, message: Message, *, timeout: float) -> None:
    """Post the message, signed for this attempt with every secret of the channel; raises Undelivered."""
    body = payload(message)
    headers = sign(channel.keys, message.public_id, int(time.time()), body)
    headers["Content-Type"] = "application/json"
    url = channel.url.get_secret_value()
    post(url, body, headers, allow_private=channel.allow_private, timeout=timeout)


def payload(message: Message) -> bytes:
    """The bytes that are signed and sent, the same in every attempt; `timestamp` is that of the event."""
    document = {
        "type": message.topic,
        "timestamp": format_time(message.created_at),
        "title": message.title,
        "text": message.text,
        "data": message.data,
    }
    return json.dumps(document, ensure_ascii=False, sort_keys=True, separators=(",", ":")).encode()
