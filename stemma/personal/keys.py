"""The key files: the studio's root key, and one wrapped data key per subject.

`STEMMA_HOME/keys` (mode 700) holds `personal-root.key`, 32 random bytes in hexadecimal from which the key of pseudonyms
and the key-encryption key are derived, and `subjects/<two digits>/<pseudonym>.json` with the id and the wrapped data
key of each subject; all have mode 600. They are files because a file can be destroyed: a database keeps deleted rows
in dead tuples, in its log, in replicas and in dumps. Which key lives is for the table `subject_keys` to say.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self
from uuid import UUID, uuid4

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.keywrap import InvalidUnwrap, aes_key_unwrap, aes_key_wrap

from stemma.errors import Unavailable
from stemma.personal.subjects import Subject, subject_of
from stemma.store.database import Connection
from stemma.store.files import storage_error, sync_folder
from stemma.store.keyfiles import keys_folder, locked_keys, write_key
from stemma.store.settings import Settings

_ROOT = "personal-root.key"
_SUBJECTS = "subjects"
_KEY_BYTES = 32
_DAMAGED = (ValueError, TypeError, KeyError)


@dataclass(frozen=True, slots=True)
class SubjectKey:
    """The data key of one subject, for AES-256-GCM."""

    key_id: UUID
    secret: bytes = field(repr=False)


class Keyring:
    """The key files of one studio. Safe among threads and processes, also those of machines that share the folder."""

    def __init__(self, settings: Settings, root: bytes) -> None:
        self._settings = settings
        self._naming = _derived(root, b"stemma subject pseudonym")
        self._wrapping = _derived(root, b"stemma subject key encryption")

    @classmethod
    def open(cls, connection: Connection, settings: Settings) -> Self:
        """The keyring, whose root key is made when there never was one.

        Raises Unavailable with code `personal_root_lost` where the database names subjects' keys and the root key is
        gone or unreadable; `disk_full` and the like where it cannot be written.
        """
        path = keys_folder(settings) / _ROOT
        if not path.exists():
            _make_root(connection, settings)
        return cls(settings, _read_root(path))

    @classmethod
    def existing(cls, settings: Settings) -> Self | None:
        """The keyring as it is, without making anything; None where the root key is gone or unreadable."""
        try:
            return cls(settings, _read_root(keys_folder(settings) / _ROOT))
        except Unavailable:
            return None

    def subject(self, name: str) -> Subject:
        """The subject of this name; raises InvalidInput, which does not repeat the name."""
        return subject_of(name, self._naming)

    def held(self, subject: Subject) -> SubjectKey | None:
        """The key whose file is there; raises Unavailable with code `personal_key_unreadable` for a damaged one."""
        path = _key_file(keys_folder(self._settings), subject)
        try:
            content = path.read_bytes()
            if _is_overwritten(content):
                return None
            key_id, wrapped = _parse(content)
            return SubjectKey(key_id, aes_key_unwrap(self._wrapping, wrapped))
        except FileNotFoundError:
            return None
        except OSError as error:
            raise storage_error(error) from error
        except (*_DAMAGED, InvalidUnwrap) as error:
            raise Unavailable(
                "personal_key_unreadable",
                f"The key of {subject.reference} cannot be read.",
                hint="Put STEMMA_HOME/keys back from a backup.",
            ) from error

    def find(self, subject: Subject, key_id: UUID) -> SubjectKey | None:
        """This key of the subject, or None where its file is gone, damaged or holds another one."""
        with contextlib.suppress(Unavailable):
            key = self.held(subject)
            return key if key is not None and key.key_id == key_id else None
        return None

    def ensure(self, subject: Subject) -> SubjectKey:
        """The key whose file is there, else a new one; all who ask at once get the same.

        A key that sealed nothing in the end, because its entry was not appended, is the next one's.
        """
        with locked_keys(self._settings) as folder:
            key = self.held(subject)
            if key is None:
                key = SubjectKey(uuid4(), secrets.token_bytes(_KEY_BYTES))
                wrapped = aes_key_wrap(self._wrapping, key.secret)
                content = json.dumps({"key": str(key.key_id), "wrapped": wrapped.hex()})
                write_key(_key_file(folder, subject), content.encode(), 0o600)
            return key


def destroy(settings: Settings, subject: Subject, key_id: UUID) -> bool:
    """Overwrite and remove this key of the subject; says whether it was there.

    A file that holds another key of theirs stays. Raises Unavailable where the file system refuses.
    """
    try:
        with locked_keys(settings) as folder, _key_file(folder, subject).open("r+b") as file:
            content = file.read()
            if _names_another(content, key_id):
                return False
            file.seek(0)
            file.write(bytes(len(content)))
            file.flush()
            os.fsync(file.fileno())
            _key_file(folder, subject).unlink()
            sync_folder(_key_file(folder, subject).parent)
            return True
    except FileNotFoundError:
        return False
    except OSError as error:
        raise storage_error(error) from error


def _is_overwritten(content: bytes) -> bool:
    """Whether the file is about to be removed: its key is destroyed."""
    return len(content) > 0 and not any(content)


def _names_another(content: bytes, key_id: UUID) -> bool:
    """Whether the file is another key's; one that is damaged may still hold this one's bytes."""
    try:
        return _parse(content)[0] != key_id
    except _DAMAGED:
        return False


def file_in_home(subject: Subject) -> str:
    """The path of the subject's key file, relative to STEMMA_HOME."""
    return _key_file(Path("keys"), subject).as_posix()


def _key_file(keys: Path, subject: Subject) -> Path:
    return keys / _SUBJECTS / subject.pseudonym[:2] / f"{subject.pseudonym}.json"


def _parse(data: bytes) -> tuple[UUID, bytes]:
    document = json.loads(data)
    return UUID(document["key"]), bytes.fromhex(document["wrapped"])


def _read_root(path: Path) -> bytes:
    try:
        root = bytes.fromhex(path.read_text(encoding="ascii").strip())
    except FileNotFoundError as error:
        raise _root_lost("is gone") from error
    except (OSError, ValueError) as error:
        raise _root_lost("cannot be read") from error
    if len(root) != _KEY_BYTES:
        raise _root_lost("cannot be read")
    return root


def _root_lost(what: str) -> Unavailable:
    return Unavailable(
        "personal_root_lost",
        f"The root key of personal data {what}: nothing personal can be sealed, opened or erased.",
        field=f"STEMMA_HOME/keys/{_ROOT}",
        hint="Put STEMMA_HOME/keys back from a backup; docs/OPERATIONS.md says what to do without one.",
    )


def _derived(root: bytes, purpose: bytes) -> bytes:
    """A key of its own for each purpose (HKDF, RFC 5869)."""
    return HKDF(algorithm=SHA256(), length=_KEY_BYTES, salt=None, info=purpose).derive(root)


def _make_root(connection: Connection, settings: Settings) -> None:
    row = connection.execute("SELECT EXISTS (SELECT FROM subject_keys)").fetchone()
    if row == (True,):
        raise _root_lost("is gone")
    with locked_keys(settings) as folder:
        if not (folder / _ROOT).exists():
            write_key(folder / _ROOT, secrets.token_hex(_KEY_BYTES).encode(), 0o600)
