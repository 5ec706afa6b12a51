"""The command line run inside the test's process, and a small source of notes for it."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from cli.main import main

NOTES = {
    "lamp.md": "# Lamp\n\n## Bulb\n\nThe lamp takes a bulb with an E27 socket.\n\n## Switch\n\nPress the red switch.\n",
    "kettle.md": "# Kettle\n\n## Descaling\n\nBoil vinegar once a month to remove the limescale.\n",
    "boat.txt": "The boat is moored at the northern pier and leaves at high tide.\n",
}


@dataclass(frozen=True)
class Ended:
    """A command that ended: its exit code and what it wrote."""

    code: int
    out: str
    err: str

    @property
    def document(self) -> Any:
        """Standard output, which has to be one JSON document."""
        return json.loads(self.out)


Stemma = Callable[..., Ended]


@pytest.fixture
def stemma(capfd: pytest.CaptureFixture[str]) -> Stemma:
    """Run a command in this process."""

    def run(*arguments: str | Path) -> Ended:
        capfd.readouterr()
        with pytest.raises(SystemExit) as ended:
            main([str(argument) for argument in arguments])
        written = capfd.readouterr()
        return Ended(int(ended.value.code or 0), written.out, written.err)

    return run


@pytest.fixture
def done(stemma: Stemma) -> Callable[..., Any]:
    """Run a command that has to succeed; returns its JSON document."""

    def run(*arguments: str | Path) -> Any:
        ended = stemma(*arguments, "--json")
        assert ended.code == 0, ended
        return ended.document

    return run


@pytest.fixture(scope="session")
def write_notes() -> Callable[[Path], Path]:
    """Write three notes into a folder."""

    def write(folder: Path) -> Path:
        folder.mkdir(parents=True)
        for name, text in NOTES.items():
            (folder / name).write_text(text)
        return folder

    return write


@pytest.fixture
def notes(tmp_path: Path, write_notes: Callable[[Path], Path]) -> Path:
    """A folder of three notes."""
    return write_notes(tmp_path / "notes")
