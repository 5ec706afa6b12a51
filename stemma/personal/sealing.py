"""Sealing what an entry says of a person, and opening it again.

A sealed entry commits only while its subject's key lives: `Sealer.change` adds the statements that see to it. After an
erasure, what is sealed for the same person begins a new key, and what was sealed before stays closed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar
from uuid import UUID

from stemma.errors import InvalidInput, Unavailable
from stemma.ledger.change import Change
from stemma.ledger.entries import Entry, NewEntry
from stemma.ledger.writer import Statement
from stemma.personal import marking
from stemma.personal.fields import SealedField, replaced, sealed
from stemma.personal.keys import Keyring, SubjectKey, destroy
from stemma.personal.subjects import Subject
from stemma.store.database import Connection
from stemma.store.settings import Settings

T = TypeVar("T")

ERASED = {"personal": "erased"}
"""What `reveal` shows for a field whose subject was erased."""

UNREADABLE = {"personal": "unreadable"}
"""What `reveal` shows for a field whose key is lost, or that was altered or moved."""

# Whoever appended first made the row; a key that was erased keeps its row and is not made alive again.
_BEGIN = "INSERT INTO subject_keys (key_id, pseudonym) VALUES (%(key)s, %(subject)s) ON CONFLICT DO NOTHING"
_ALIVE = "SELECT FROM subject_keys WHERE key_id = %(key)s AND pseudonym = %(subject)s AND erased_at IS NULL FOR SHARE"


class Sealer:
    """Seals the fields of one change. Make it where the change is made; it reads and does not write the database."""

    def __init__(self, connection: Connection, settings: Settings) -> None:
        """Raises Unavailable with code `personal_root_lost`."""
        self._connection = connection
        self._settings = settings
        self._keyring = Keyring.open(connection, settings)
        self._keys: dict[Subject, SubjectKey] = {}

    def subject(self, name: str) -> Subject:
        """The subject of this name; raises InvalidInput, which does not repeat the name."""
        return self._keyring.subject(name)

    def seal(self, subject: Subject, value: Any, *, path: str) -> dict[str, Any]:
        """The sealed field to put at `path`, a JSON Pointer within the entry's `data`: it opens only there.

        Raises InvalidInput for what is no JSON value, Unavailable with code `personal_key_missing` where the subject's
        key is lost or its erasure is under way.
        """
        if not path.startswith("/"):
            raise InvalidInput("path_invalid", "A sealed field needs its place.", field="path", hint="Write /email.")
        return sealed(value, subject, self._key(subject), path).to_json()

    def seal_marked(
        self, schema: Mapping[str, Any], value: Any, subject: Subject | None = None, *, path: str = ""
    ) -> Any:
        """The value, to be put at `path`, with every field sealed that its JSON Schema marks `"x-personal": true`.

        Without `subject` it is the one whose name stands in the field that the schema's `x-subject` names. Raises
        what `seal` says, and InvalidInput for a schema whose marks cannot be followed.
        """
        who = subject or self.subject(marking.subject_name(schema, value))
        return marking.seal_marked(schema, value, lambda item, place: self.seal(who, item, path=place), path)

    def change(
        self,
        entries: Sequence[NewEntry],
        result: Callable[[tuple[Entry, ...]], T],
        companions: Sequence[Statement] = (),
    ) -> Change[T]:
        """The change that appends these entries, and conflicts where a subject of theirs was erased meanwhile."""
        return Change(tuple(entries), (*sealed_companions(entries), *companions), result)

    def _key(self, subject: Subject) -> SubjectKey:
        if subject not in self._keys:
            self._keys[subject] = self._living_key(subject)
        return self._keys[subject]

    def _living_key(self, subject: Subject) -> SubjectKey:
        query = "SELECT key_id, erased_at IS NULL FROM subject_keys WHERE pseudonym = %s"
        known: dict[UUID, bool] = dict(self._connection.execute(query, (subject.pseudonym,)).fetchall())
        living = next((key_id for key_id, alive in known.items() if alive), None)
        held = self._keyring.held(subject)
        if living is not None:
            if held is None or held.key_id != living:
                raise _key_missing(subject)
            return held
        if held is not None and held.key_id in known:
            destroy(self._settings, subject, held.key_id)
        return self._keyring.ensure(subject)


def _key_missing(subject: Subject) -> Unavailable:
    return Unavailable(
        "personal_key_missing",
        f"The key of {subject.reference} is not there: it is lost, or their erasure is under way.",
        hint="Finish `stemma erase`, or put STEMMA_HOME/keys back from a backup.",
    )


def sealed_companions(entries: Sequence[NewEntry]) -> tuple[Statement, ...]:
    """Statements that let these entries commit only while the keys of their sealed fields live."""
    used: dict[tuple[str, UUID], None] = {}

    def note(found: SealedField, path: str) -> None:
        used[found.subject.pseudonym, found.key_id] = None

    try:
        for entry in entries:
            replaced(dict(entry.data), note)
    except RecursionError as error:
        raise InvalidInput("data_too_deep", "The data are nested too deeply.", field="data") from error
    statements = []
    for pseudonym, key_id in used:
        values = {"key": key_id, "subject": pseudonym}
        statements += [Statement(_BEGIN, values), Statement(_ALIVE, values, rows=1)]
    return tuple(statements)


def reveal(connection: Connection, settings: Settings, data: Mapping[str, Any]) -> dict[str, Any]:
    """An entry's data with every sealed field opened that can be; `ERASED` and `UNREADABLE` stand for the others."""
    keyring = Keyring.existing(settings)
    fields: list[SealedField] = []
    replaced(dict(data), lambda found, path: fields.append(found))
    query = "SELECT key_id FROM subject_keys WHERE key_id = ANY(%s) AND erased_at IS NOT NULL"
    erased = {key_id for (key_id,) in connection.execute(query, ([found.key_id for found in fields],))}

    def opened(found: SealedField, path: str) -> Any:
        if found.key_id in erased:
            return dict(ERASED)
        key = keyring.find(found.subject, found.key_id) if keyring else None
        try:
            return found.opened(key, path) if key else dict(UNREADABLE)
        except ValueError:
            return dict(UNREADABLE)

    shown: dict[str, Any] = replaced(dict(data), opened)
    return shown
