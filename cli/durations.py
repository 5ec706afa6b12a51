"""Durations as they are written on the command line."""

from __future__ import annotations

import re
from datetime import timedelta

from stemma.errors import InvalidInput

_FORM = re.compile(r"([1-9][0-9]{0,5})([mhdw])")
_UNITS = {"m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


def duration(text: str, option: str) -> timedelta:
    """What 30m, 12h, 90d or 52w means; raises InvalidInput that names the option for anything else."""
    found = _FORM.fullmatch(text)
    if found is None:
        what, hint = f"{text!r} is no duration that can be used.", "Write 30m, 12h, 90d or 52w."
        raise InvalidInput("duration_invalid", what, field=option, hint=hint)
    return timedelta(**{_UNITS[found[2]]: int(found[1])})
