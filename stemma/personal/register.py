"""The register of erasures in the ledger's second store: what a restored backup must not bring back.

One file per erased key, `erasures/<key id>.json`, written before the key is destroyed. Backups leave the second store
out and restores leave it alone; no file of the register is ever taken away.
"""

from __future__ import annotations

import json
import re
from uuid import UUID

from stemma.errors import CheckFailed
from stemma.ledger.heads import second_store
from stemma.personal.subjects import Subject
from stemma.store.files import storage_error
from stemma.store.settings import Settings

_FOLDER = "erasures"
_FILE = re.compile(r"erasures/([0-9a-f-]{36})\.json")


def add(settings: Settings, subject: Subject, key_id: UUID) -> None:
    """Note that this key is erased; raises Unavailable where the second store has no room or does not answer."""
    document = {"key": str(key_id), "subject": subject.pseudonym}
    try:
        second_store(settings).write(f"{_FOLDER}/{key_id}.json", json.dumps(document).encode())
    except OSError as error:
        raise storage_error(error) from error


def read(settings: Settings) -> dict[UUID, Subject]:
    """Every erased key with its subject.

    Raises Unavailable where the second store does not answer, CheckFailed with code `erasure_unreadable` for a file of
    the register that cannot be read.
    """
    files = second_store(settings)
    found: dict[UUID, Subject] = {}
    try:
        for key in [file.key for file in files.list(_FOLDER) if _FILE.fullmatch(file.key)]:
            document = json.loads(files.read(key))
            found[UUID(document["key"])] = Subject(str(document["subject"]))
    except OSError as error:
        raise storage_error(error) from error
    except (ValueError, TypeError, KeyError) as error:
        raise CheckFailed(
            "erasure_unreadable",
            f"The file {key} in the store of heads says what was erased and cannot be read.",
            hint="Put it back from a copy of that store.",
        ) from error
    return found
