"""The samples of governance: their event types, policies and nodes, published."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Final

from stemma.access.principal import Principal
from stemma.errors import NotFound
from stemma.governance import nodes, policies
from stemma.governance.events import types
from stemma.governance.yaml_text import read
from stemma.ledger.change import Change
from stemma.ledger.service import Ledger
from stemma.registry import catalog
from stemma.registry.model import Kind, Published
from stemma.registry.references import Reference
from stemma.registry.semver import parse_version
from stemma.store.database import Connection, Database
from stemma.store.settings import REPOSITORY

FOLDER: Final = REPOSITORY / "samples"
_TESTS: Final = ".tests.yaml"


def publish_samples(database: Database, ledger: Ledger, principal: Principal) -> tuple[Published, ...]:
    """Publish what of the samples is not published yet, event types before policies before nodes; returns what was
    new. Raises what publishing raises.
    """
    new = []
    # Each rests on those before: a node names a policy that has to be there.
    for kind, path in _samples():
        change = database.read(partial(_unpublished, principal=principal, kind=kind, path=path))
        if change is not None:
            new.append(ledger.commit(change).result())
    return tuple(new)


def _samples() -> Iterator[tuple[Kind, Path]]:
    for kind, folder in ((types.KIND, "event_types"), (policies.KIND, "policies"), (nodes.KIND, "nodes")):
        for path in sorted((FOLDER / folder).rglob("*.yaml")):
            if not path.name.endswith(_TESTS):
                yield kind, path


def _unpublished(connection: Connection, principal: Principal, kind: Kind, path: Path) -> Change[Published] | None:
    text = path.read_text()
    if _is_published(connection, kind, text):
        return None
    if kind == types.KIND:
        return types.publish(connection, principal, text)
    if kind == nodes.KIND:
        return nodes.publish(connection, principal, text)
    return policies.publish(connection, principal, text, path.with_suffix(_TESTS).read_text())


def _is_published(connection: Connection, kind: Kind, text: str) -> bool:
    said = read(text, field=kind.name).value
    try:
        catalog.find(connection, kind, Reference(said["name"], parse_version(said["version"])))
    except NotFound:
        return False
    return True
