"""Dagster's instance: its folder, its configuration and the environment that every Dagster process of ours gets."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

import dagster as dg

from stemma.store.database import DatabaseUrls
from stemma.store.settings import REPOSITORY, Settings


def prepare(settings: Settings, urls: DatabaseUrls) -> dict[str, str]:
    """Put `deploy/dagster.yaml` into the instance folder; returns the variables that Dagster's processes need."""
    settings.dagster_home.mkdir(parents=True, exist_ok=True)
    _replace(REPOSITORY / "deploy" / "dagster.yaml", settings.dagster_home / "dagster.yaml")
    return {
        "DAGSTER_HOME": str(settings.dagster_home),
        "STEMMA_DAGSTER_POSTGRES_URL": urls.dagster_sqlalchemy,
        "STEMMA_HOME": str(settings.home),
    }


def _replace(source: Path, target: Path) -> None:
    with tempfile.NamedTemporaryFile(dir=target.parent, delete=False) as handle:
        temporary = Path(handle.name)
    shutil.copyfile(source, temporary)
    temporary.replace(target)


def open_instance(settings: Settings, urls: DatabaseUrls) -> dg.DagsterInstance:
    """The instance of this studio for use in this process; its tables are created on first use."""
    os.environ.update(prepare(settings, urls))
    return dg.DagsterInstance.from_config(str(settings.dagster_home))
