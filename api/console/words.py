"""What pages about policies and decisions put into words, so that all of them use the same ones."""

from __future__ import annotations

import json
from typing import Any, Final

from stemma.access.permissions import PERMISSIONS, Role
from stemma.governance.policy import Level, Ruling

LEVELS: Final = {
    Level.AL3: "It acts alone.",
    Level.AL2: "It acts, and a person is told, who can take it back.",
    Level.AL1: "It proposes, and a person confirms.",
    Level.AL0: "A person decides.",
}
RULINGS: Final = {Ruling.APPROVE: "approve", Ruling.DENY: "deny", Ruling.ESCALATE: "ask a person"}

STATES: Final = {
    "final": "It took effect at once.",
    "waiting": "It waits for a person.",
    "resolved": "A person settled it.",
    "lapsed": "Nobody settled it in time.",
}
EFFECTS: Final = {Ruling.APPROVE: "approved", Ruling.DENY: "denied"}

_LONGEST: Final = 300


def who_may(permission: str) -> str:
    """The roles that have a permission, such as `Owner, Admin and Reviewer`."""
    *roles, last = (role.value for role in Role if role in PERMISSIONS[permission])
    return f"{', '.join(roles)} and {last}" if roles else last


def part(path: str) -> str:
    """A part of a document as people read it, of its JSON Pointer: `bundles › margin › usual`."""
    steps = [step.replace("~1", "/").replace("~0", "~") for step in path.split("/")[1:]]
    return " › ".join(steps) or "all of it"


def value(given: Any) -> str:
    """A JSON value as a line of text: texts as they are, the rest as JSON, the long cut."""
    if isinstance(given, float) and given.is_integer():
        given = int(given)
    text = given if isinstance(given, str) else json.dumps(given, ensure_ascii=False)
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…"
