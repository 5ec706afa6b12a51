"""The house stands as docs/ARCHITECTURE.md says: names resolve here, one migration head, a light import."""

from __future__ import annotations

import importlib.util
import itertools
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from alembic.script import ScriptDirectory

from stemma.store import migrations
from stemma.store.database import Database
from stemma.store.settings import REPOSITORY

PACKAGES = ["stemma", "assets", "sensors", "schedules", "resources", "api", "cli", "definitions"]


@pytest.mark.parametrize("name", PACKAGES)
def test_top_level_names_resolve_inside_the_repository(name: str) -> None:
    found = importlib.util.find_spec(name)
    assert found is not None and found.origin is not None
    assert REPOSITORY in Path(found.origin).resolve().parents


def test_there_is_one_migration_head_and_it_is_applied(database: Database) -> None:
    script = ScriptDirectory(str(REPOSITORY / "migrations"))
    assert len(script.get_heads()) == 1
    assert migrations.current(database.urls.owner) == migrations.head()


def test_every_dependency_is_pinned() -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    wanted = {
        requirement.split("[")[0].split("==")[0].lower().replace("_", "-")
        for requirement in [*project["dependencies"], *itertools.chain.from_iterable(extras.values())]
    }
    pinned = {
        line.split("==")[0].lower().replace("_", "-")
        for line in (REPOSITORY / "constraints.txt").read_text().splitlines()
        if "==" in line
    }
    assert wanted - pinned == set()


def test_loading_the_definitions_imports_nothing_heavy() -> None:
    heavy = {"torch", "transformers", "sentence_transformers", "onnxruntime", "tantivy", "pypdfium2", "mammoth"}
    program = "import sys, definitions; print(*sorted(set(sys.modules)))"
    loaded = subprocess.run(
        [sys.executable, "-c", program], cwd=REPOSITORY, capture_output=True, text=True, check=True
    ).stdout.split()
    assert heavy.intersection(loaded) == set()
