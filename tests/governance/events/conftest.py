"""One studio in which nothing is recorded, for what is refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from stemma.access.principal import local_principal
from stemma.governance.events import recording, types
from stemma.governance.samples import publish_samples
from stemma.ledger.service import Ledger
from stemma.store.database import Database
from stemma.store.settings import Settings

ASKED = """\
name: Asked
version: 1.0.0
changelog: First version.
description: Somebody asks.
schema:
  type: object
  required: [amount]
  additionalProperties: false
  properties:
    amount: {type: number}
    note: {type: string, maxLength: 100000}
    more: {}
"""


@pytest.fixture(scope="session")
def asked_type() -> str:
    """A small event type."""
    return ASKED


@pytest.fixture(scope="module")
def published(studio: tuple[Settings, Database], asked_type: str) -> Database:
    """The database of a studio that the tests of a module share, with the samples and the small type published."""
    settings, database = studio
    with Ledger(database.urls, settings) as ledger:
        publish_samples(database, ledger, local_principal())
        ledger.commit(database.read(lambda c: types.publish(c, local_principal(), asked_type))).result()
    return database


@pytest.fixture
def studio_record(published: Database) -> Callable[..., Any]:
    """Make the change that records events in that studio, without writing it."""
    return lambda *events: published.read(lambda c: recording.record(c, local_principal(), events))
