"""What a notebook tells of itself in events.jsonl, read while it grows. Nothing in it is trusted.

A line that is no event is a warning; one that would tell of a stage that only the runner knows is, too.
"""

from __future__ import annotations

import json
import math
import os
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

NAME: Final = "events.jsonl"

_LONGEST: Final = 65_536
_BLOCK: Final = 1 << 18
_MOST_WARNINGS: Final = 20
_MOST_TEXT: Final = 4_000
_MOST_NAME: Final = 200


@dataclass(frozen=True, slots=True)
class Told:
    """An event, or, with type `warning`, why a line is none. `payload` is text or an object, as its type has it."""

    type: str
    payload: Any


class Reader:
    """Reads a notebook's events; `close` it. Belongs to one thread."""

    def __init__(self, folder: Path) -> None:
        self._folder = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        self._position = 0
        self._rest = b""
        self._skipping = False
        self._line = 0
        self._warnings = 0

    def read(self) -> Iterator[Told]:
        """What came since the last time, at most some hundred kilobytes of it."""
        self._rest += self._block()
        *lines, self._rest = self._rest.split(b"\n")
        for line in lines:
            self._line += 1
            if self._skipping:
                self._skipping = False
            elif line.strip():
                yield from self._told(line)
        if len(self._rest) > _LONGEST:
            yield from self._warning(f"is longer than {_LONGEST:,} bytes")
            self._rest, self._skipping = b"", True

    def close(self) -> None:
        """Let go of the folder."""
        os.close(self._folder)

    def _block(self) -> bytes:
        try:
            # The notebook may put anything in its place: a link to a file of ours, a pipe that nobody writes to.
            file = os.open(NAME, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=self._folder)
        except OSError:
            return b""
        try:
            if not stat.S_ISREG(os.fstat(file).st_mode):
                return b""
            block = os.pread(file, _BLOCK, self._position)
            self._position += len(block)
            return block
        finally:
            os.close(file)

    def _told(self, line: bytes) -> Iterator[Told]:
        try:
            if len(line) > _LONGEST:
                raise ValueError(f"is longer than {_LONGEST:,} bytes")
            event = json.loads(line.decode())
            yield checked(event)
        except (ValueError, RecursionError) as error:
            known = isinstance(error, _NoEvent) or str(error).startswith("is longer")
            yield from self._warning(str(error) if known else "is no JSON")

    def _warning(self, what: str) -> Iterator[Told]:
        self._warnings += 1
        if self._warnings <= _MOST_WARNINGS:
            yield Told("warning", f"{NAME}, line {self._line + 1 if self._skipping else self._line}, {what}.")
        elif self._warnings == _MOST_WARNINGS + 1:
            yield Told("warning", f"{NAME} has more lines that are no events.")


class _NoEvent(ValueError):
    """A line that is JSON and no event; the words follow `line 3, `."""


def checked(event: Any) -> Told:
    """An event in the shape of its type; raises ValueError that says what is wrong with it."""
    if not isinstance(event, Mapping):
        raise _NoEvent("is no object")
    match event.get("type"):
        case "log_line" | "token" as kind:
            return Told(kind, _text(event, "text", _MOST_TEXT))
        case "progress":
            percent = _number(event, "percent")
            if not 0 <= percent <= 100:
                raise _NoEvent("has a percent that is not between 0 and 100")
            return Told("progress", {"percent": percent, "msg": _text(event, "msg", _MOST_NAME, "")})
        case "metric_update":
            facts = {"metric": _text(event, "metric", _MOST_NAME), "split": _text(event, "split", _MOST_NAME, "")}
            told_at = event.get("ts")
            stamp = {"ts": told_at} if isinstance(told_at, (str, int, float)) and len(str(told_at)) <= 40 else {}
            return Told("metric_update", {**facts, "value": _number(event, "value"), **stamp})
        case "sample_pred":
            return Told("sample_pred", {"text": _text(event, "text", _MOST_TEXT)})
        case "stage_update" if event.get("stage") == "seed_check":
            kept = {name: event[name] for name in ("seed", "random", "numpy", "torch") if _is_number(event.get(name))}
            return Told("stage_update", {"stage": "seed_check", **kept})
        case "stage_update":
            raise _NoEvent("tells of a stage that is not the notebook's to tell")
    raise _NoEvent("has no type of event")


def _text(event: Mapping[str, Any], name: str, most: int, default: str | None = None) -> str:
    value = event.get(name, default)
    if not isinstance(value, str):
        raise _NoEvent(f"has no text as {name}")
    # Halves of pairs can be written in JSON, and U+0000 too; neither can be stored.
    return value[:most].encode(errors="replace").decode().replace("\0", "\ufffd")


def _number(event: Mapping[str, Any], name: str) -> float:
    value = event.get(name)
    if not _is_number(value):
        raise _NoEvent(f"has no finite number as {name}")
    assert value is not None
    return float(value)


def _is_number(value: Any) -> bool:
    try:
        return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(float(value))
    except OverflowError:
        return False
