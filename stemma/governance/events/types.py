"""Event types: what the data of events look like, published as versions in the registry.

An event is checked by the newest stable version of its type, which it names by name alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from stemma.access.principal import Principal
from stemma.errors import InvalidInput, NotFound
from stemma.governance import nodes, yaml_text
from stemma.governance.events import schemas
from stemma.governance.policy import Prose
from stemma.governance.yaml_text import pointer
from stemma.ledger.change import Change
from stemma.registry import catalog, publishing
from stemma.registry.loading import kept
from stemma.registry.model import Draft, Kind, Published
from stemma.registry.references import Reference, parse_reference
from stemma.registry.semver import parse_version
from stemma.store.database import Connection

KIND: Final = Kind("event_type", "event_type_versions", "decide:publish")


class _Written(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    name: nodes.EventType
    version: str
    changelog: str
    description: Prose
    schema_: dict[str, Any] = Field(alias="schema")


@dataclass(frozen=True, slots=True)
class EventType:
    """A published event type, ready to check data."""

    name: str
    version: str
    schema: Mapping[str, Any]
    validator: schemas.Validator

    def check(self, data: Mapping[str, Any], *, field: str) -> None:
        """Raises InvalidInput for data that do not satisfy the schema; its field is the place, a JSON Pointer that
        begins with `field`.
        """
        if flaw := schemas.first_flaw(self.validator, data):
            place, why = flaw
            hint = f"`stemma events types show {self.name}` says what its data look like."
            raise InvalidInput("event_data_invalid", why, field=f"{field}{place}", hint=hint)


def publish(connection: Connection, principal: Principal, text: str) -> Change[Published]:
    """Publish what a YAML text says.

    Raises Forbidden; InvalidInput with the first thing that is wrong; Conflict as `stemma.registry.publishing` does.
    """
    principal.require(KIND.permission)
    return publishing.publish(connection, principal, KIND, read(text))


def read(text: str) -> Draft:
    """The event type that a YAML text says, to be published; raises InvalidInput."""
    source = yaml_text.read(text, field="event_type")
    try:
        written = _Written.model_validate(source.value)
    except ValidationError as invalid:
        first = invalid.errors(include_url=False, include_input=False, include_context=False)[0]
        place = source.place(tuple(first["loc"]))
        what = f"line {place.line}, column {place.column}: {pointer(tuple(first['loc']))}: {first['msg']}."
        raise InvalidInput("event_type_invalid", what, field="event_type") from invalid
    schemas.compiled(written.schema_)
    content = {"description": written.description, "schema": written.schema_}
    return Draft(written.name, parse_version(written.version), written.changelog, content)


def find(connection: Connection, reference: str) -> Published:
    """The version that `DiscountRequested`, `DiscountRequested@1` or `…@1.2.3` refers to now.

    Raises InvalidInput for what is no reference, NotFound.
    """
    return catalog.find(connection, KIND, parse_reference(reference))


def load(connection: Connection, name: str) -> EventType:
    """The newest stable version of an event type; raises InvalidInput for what is not published."""
    try:
        published = catalog.find(connection, KIND, Reference(name))
    except NotFound:
        hint = "`stemma events types list` shows those that are published."
        what = f"There is no event type {name[:100]!r}."
        raise InvalidInput("event_type_unknown", what, field="type", hint=hint) from None
    return _event_type(published)


@kept
def _event_type(published: Published) -> EventType:
    schema = published.content["schema"]
    return EventType(published.name, published.version, schema, schemas.compiled(schema))
