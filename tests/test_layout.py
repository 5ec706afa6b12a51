"""The house stands as docs/ARCHITECTURE.md says: names resolve here, one migration head, a light import."""

from __future__ import annotations

import ast
import importlib.util
import itertools
import subprocess
import sys
import tomllib
from collections.abc import Iterator
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
    assert script.get_heads() == [migrations.head()]
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


# A step or a tick needs these; who only wants to know which assets there are does not.
LATE = {
    "cryptography",
    "fsspec",
    "numpy",
    "onnxruntime",
    "openai",
    "prometheus_client",
    "psycopg",
    "pyarrow",
    "pydantic_settings",
    "pypdfium2",
    "rich",
    "structlog",
    "tantivy",
    "torch",
    "stemma.ledger",
    "stemma.redaction",
    "stemma.store.database",
    "stemma.store.settings",
}


def test_loading_the_definitions_imports_only_what_says_what_there_is() -> None:
    loaded = _printed("import sys, dagster; own = {*sys.modules}; import definitions; print(*{*sys.modules} - own)")
    assert LATE & loaded == set()
    assert "assets.knowledge" in loaded


def test_a_run_of_the_template_finds_imported_what_its_steps_import() -> None:
    names = {name for path in (REPOSITORY / "assets").glob("*.py") for name in _imported_in_functions(path)}
    template = "resources.launcher.template"
    loaded = _printed(f"import sys, definitions, {template} as template; template.import_late(); print(*sys.modules)")
    # What imports pyarrow starts threads, and with threads nothing can be forked.
    starting_threads = {f"stemma.maps.{name}" for name in ("checks", "cleaning", "part_memory", "tiling")}
    assert names - loaded == starting_threads
    assert "pyarrow" not in loaded


def _printed(program: str) -> set[str]:
    """The words that a program prints in an interpreter of its own."""
    command = [sys.executable, "-c", program]
    return set(subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True).stdout.split())


def _imported_in_functions(path: Path) -> Iterator[str]:
    """The modules of ours that functions of a file import."""
    for function in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(function, ast.FunctionDef):
            for node in ast.walk(function):
                if isinstance(node, ast.ImportFrom) and node.module and node.module.partition(".")[0] == "stemma":
                    package = (REPOSITORY / Path(*node.module.split("."))).is_dir()
                    yield from (f"{node.module}.{name.name}" if package else node.module for name in node.names)
