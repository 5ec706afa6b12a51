"""What was written in the fields of forms: times, choices, and what a kind of job takes, made from its input model.

Whether that can be worked on says the kind itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, Final, TypeVar
from zoneinfo import ZoneInfo, available_timezones

from stemma.errors import InvalidInput
from stemma.jobs.kinds import Kind

PREFIX: Final = "input."

E = TypeVar("E", bound=StrEnum)

_WIDGETS: Final = {"boolean": "checkbox", "integer": "number", "number": "number"}


@dataclass(frozen=True, slots=True)
class InputField:
    """A field of a form: its name there, what it is called, how it is written, and the attributes of its `<input>`."""

    name: str
    label: str
    help: str
    widget: str
    default: str
    attributes: Mapping[str, Any]


def fields(kind: Kind) -> tuple[InputField, ...]:
    """The fields of a kind, in the order of its model."""
    schema = kind.input.model_json_schema()
    needed = schema.get("required", ())
    return tuple(_field(name, said, name in needed) for name, said in schema.get("properties", {}).items())


def _field(name: str, said: Mapping[str, Any], needed: bool) -> InputField:
    attributes: dict[str, Any] = {
        "required": needed or None,
        "minlength": said.get("minLength"),
        "maxlength": said.get("maxLength"),
        "min": said.get("minimum"),
        "max": said.get("maximum"),
        "step": "any" if said.get("type") == "number" else None,
        "autocomplete": "off",
    }
    return InputField(
        name=PREFIX + name,
        label=name.replace("_", " ").capitalize(),
        help=f"{said.get('description', '')}.",
        widget=_WIDGETS.get(said.get("type", ""), "text"),
        default=str(said.get("default", "")),
        attributes={key: value for key, value in attributes.items() if value is not None},
    )


def given(kind: Kind, form: Mapping[str, Any]) -> dict[str, Any]:
    """What a form says, as the kind takes it; what was left empty keeps its default. Raises InvalidInput."""
    properties = kind.input.model_json_schema().get("properties", {})
    found = {}
    for name, said in properties.items():
        written = form.get(PREFIX + name)
        if said.get("type") == "boolean":
            found[name] = written is not None
        elif isinstance(written, str) and written.strip():
            found[name] = _value(name, written.strip(), said.get("type"))
    return found


def _value(name: str, written: str, kind: str | None) -> Any:
    try:
        return int(written) if kind == "integer" else float(written) if kind == "number" else written
    except ValueError as error:
        raise InvalidInput("number_invalid", "This is no number.", field=PREFIX + name) from error


def chosen(options: type[E], written: str, field: str) -> E | None:
    """The option of a filter, whose form sends an empty one for any; raises InvalidInput."""
    if not written:
        return None
    try:
        return options(written)
    except ValueError as error:
        hint = f"There are {', '.join(options)}."
        raise InvalidInput(f"{field}_unknown", f"There is no such {field}.", field=field, hint=hint) from error


def moment(written: str, zone: str) -> datetime | None:
    """A local time of a form, such as 2027-01-31T06:00, in its time zone; None for an empty one.

    The first of two where clocks are set back. Raises InvalidInput for what is no time, a zone that nobody knows, and a
    time that is left out where clocks are set forward.
    """
    if not written:
        return None
    try:
        local = datetime.fromisoformat(written)
    except ValueError as error:
        hint = "Write it as 2027-01-31T06:00, or leave it empty."
        raise InvalidInput("time_invalid", "This is no time.", field="scheduled_at", hint=hint) from error
    if zone not in available_timezones():
        hint = "Write it as Europe/Berlin, or UTC."
        raise InvalidInput("zone_unknown", f"There is no time zone {zone!r}.", field="zone", hint=hint)
    at = local.replace(tzinfo=ZoneInfo(zone))
    if datetime.fromtimestamp(at.timestamp(), ZoneInfo(zone)).replace(tzinfo=None) != at.replace(tzinfo=None):
        what = f"{written} does not exist in {zone}: clocks are set forward then."
        raise InvalidInput("time_skipped", what, field="scheduled_at")
    return at


def utc_moment(written: str, field: str) -> datetime | None:
    """A time of a filter, in UTC where it does not say; None for an empty one. Raises InvalidInput."""
    if not written:
        return None
    try:
        at = datetime.fromisoformat(written)
        return at.astimezone(UTC) if at.tzinfo else at.replace(tzinfo=UTC)
    except (ValueError, OverflowError) as error:
        hint = "Write it as 2027-12-31T18:30, in UTC, or leave it empty."
        raise InvalidInput("time_invalid", "This is no time.", field=field, hint=hint) from error
