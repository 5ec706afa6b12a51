"""Slack's incoming webhooks: https://docs.slack.dev/messaging/sending-messages-using-incoming-webhooks."""

from __future__ import annotations

import json
from typing import Any

from stemma.notify.channels import SlackChannel
from stemma.notify.messages import Message
from stemma.notify.sending import post

_MAX_HEADER = 150
_MAX_SECTION = 3000
_ESCAPES = str.maketrans({"&": "&amp;", "<": "&lt;", ">": "&gt;"})


def send(channel: SlackChannel, message: Message, *, timeout: float) -> None:
    """Post the message; raises Undelivered. Slack keeps no ids: a message whose answer was lost appears twice."""
    body = json.dumps(payload(message)).encode()
    url = channel.url.get_secret_value()
    headers = {"Content-Type": "application/json"}
    post(url, body, headers, allow_private=channel.allow_private, timeout=timeout)


def payload(message: Message) -> dict[str, Any]:
    """The JSON that Slack takes. What Slack reads as a mention or a link is escaped."""
    sections: list[dict[str, Any]] = [
        {"type": "header", "text": {"type": "plain_text", "text": message.title[:_MAX_HEADER], "emoji": False}}
    ]
    if message.text:
        text = _cut(message.text)
        sections.append({"type": "section", "text": {"type": "mrkdwn", "text": text, "verbatim": True}})
    sections.append({"type": "context", "elements": [{"type": "mrkdwn", "text": f"`{_escaped(message.topic)}`"}]})
    return {"text": _escaped(message.title), "blocks": sections}


def _escaped(text: str) -> str:
    return text.translate(_ESCAPES)


def _cut(text: str) -> str:
    """The text, escaped, within the limit of a section; no escape is cut through."""
    kept = _escaped(text[:_MAX_SECTION])
    while len(kept) > _MAX_SECTION:
        text = text[: len(text) * _MAX_SECTION // (len(kept) + 1)]
        kept = _escaped(text)
    return kept
