"""A small source of notes, and the graph run on it as the command line runs it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from cli import execution
from stemma.knowledge.embedding import Embedder
from stemma.knowledge.models import Source
from stemma.store.database import Database
from stemma.store.settings import Settings

NOTES = {
    "lamp.md": "# Lamp\n\n## Bulb\n\nThe lamp takes a bulb with an E27 socket.\n\n## Switch\n\nPress the red switch.\n",
    "kettle.md": "# Kettle\n\n## Descaling\n\nBoil vinegar once a month to remove the limescale.\n",
    "boat.txt": "The boat is moored at the northern pier and leaves at high tide.\n",
}


@pytest.fixture
def notes(tmp_path: Path, add_source: Callable[[Source], Source]) -> Path:
    """A folder of three documents, registered as the source `notes`."""
    folder = tmp_path / "notes"
    folder.mkdir()
    for name, text in NOTES.items():
        (folder / name).write_text(text)
    add_source(Source("notes", "folder", (str(folder),)))
    return folder


@pytest.fixture
def build(
    settings: Settings, database: Database, equip: Callable[[Settings], Embedder]
) -> Callable[..., dict[str, execution.Built]]:
    """Materialize a selection; returns what was built by asset key."""
    equip(settings)

    def run(selection: str = "*") -> dict[str, execution.Built]:
        outcome = execution.materialize(settings, database, selection)
        assert all(check.passed for check in outcome.checks)
        return {built.asset: built for built in outcome.built}

    return run
