"""The docs tell what is there: every setting, every command and every file they name exists, and none is missing."""

from __future__ import annotations

import itertools
import re
import shlex
import subprocess
import sys

import pytest
import typer.main

from stemma.access.permissions import PERMISSIONS, Role
from stemma.store.settings import REPOSITORY, Settings

DOCS = sorted([REPOSITORY / "README.md", *REPOSITORY.glob("docs/**/*.md")])


def variables() -> set[str]:
    return {str(field.validation_alias or f"STEMMA_{name.upper()}") for name, field in Settings.model_fields.items()}


def test_every_setting_is_documented_and_every_documented_setting_exists() -> None:
    page = (REPOSITORY / "docs" / "SETTINGS.md").read_text()
    documented = set(re.findall(r"^\| `([A-Z0-9_]+)` \|", page, flags=re.MULTILINE))
    assert documented == variables()


def test_settings_page_repeats_each_description() -> None:
    page = (REPOSITORY / "docs" / "SETTINGS.md").read_text()
    missing = [name for name, field in Settings.model_fields.items() if str(field.description) not in page]
    assert missing == []


@pytest.mark.parametrize("page", DOCS, ids=lambda path: path.name)
def test_links_between_files_resolve(page) -> None:
    targets = re.findall(r"\]\((?!https?://|#|mailto:)([^)#]+)[^)]*\)", page.read_text())
    assert [target for target in targets if not (page.parent / target).exists()] == []


@pytest.mark.parametrize("page", DOCS, ids=lambda path: path.name)
def test_commands_in_the_docs_exist(page) -> None:
    from cli.main import build

    root = typer.main.get_command(build())
    for line in re.findall(r"^\s*(?:\.venv/bin/)?stemma ([^\n]+)$", page.read_text(), flags=re.MULTILINE):
        words = shlex.split(line, comments=True)
        command = root
        while words and hasattr(command, "commands"):
            assert words[0] in command.commands, f"{page.name}: stemma {line}"
            command = command.commands[words.pop(0)]
        options = {flag for parameter in command.params for flag in (*parameter.opts, *parameter.secondary_opts)}
        used = {word.split("=")[0] for word in words if word.startswith("-")}
        assert used <= options | {"--help"}, f"{page.name}: stemma {line}"


def test_the_table_of_roles_is_the_one_that_counts() -> None:
    page = (REPOSITORY / "docs" / "SECURITY.md").read_text()
    lines = page[page.index("| permission |") :].splitlines()
    roles = [cell.strip() for cell in lines[0].strip("|").split("|")][1:]
    told = {}
    for line in itertools.takewhile(lambda line: line.startswith("| `"), lines[2:]):
        permission, *cells = (cell.strip() for cell in line.strip("|").split("|"))
        told[permission.strip("`")] = {role for role, cell in zip(roles, cells, strict=True) if cell == "yes"}
    assert told == {permission: set(map(str, roles)) for permission, roles in PERMISSIONS.items()}
    assert roles == list(Role)


def test_make_targets_in_the_docs_exist() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (REPOSITORY / "Makefile").read_text(), flags=re.MULTILINE))
    for page in DOCS:
        named = set(re.findall(r"(?:^|`)make ([a-z-]+)", page.read_text(), flags=re.MULTILINE))
        assert named <= targets, page.name


def test_an_unusable_setting_is_named_in_one_line() -> None:
    result = subprocess.run(
        [sys.executable, "-m", "cli", "doctor"],
        env={"PATH": "/usr/bin:/bin", "STEMMA_API_PORT": "many"},
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 2
    assert "STEMMA_API_PORT" in result.stderr
    assert "Traceback" not in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1
