"""Where settings come from, and what a new studio begins with."""

from __future__ import annotations

from pathlib import Path

import pytest

from stemma.errors import InvalidInput
from stemma.store.settings import Settings, begin, load_settings


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("STEMMA_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def test_a_new_home_begins_with_every_pipeline_and_nothing_that_costs(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begin(load_settings())
    flags = load_settings().model_dump()
    on = {name for name, value in flags.items() if name.startswith("ff_") and value}
    assert on == {name for name in Settings.model_fields if name.startswith("ff_")} - {"ff_paid_providers"}
    monkeypatch.setenv("FF_EVALS", "false")
    assert not load_settings().ff_evals


def test_what_is_there_already_is_left_alone(home: Path) -> None:
    home.mkdir()
    (home / "inbox").mkdir()
    begin(load_settings())
    assert not load_settings().ff_jobs_worker and [path.name for path in home.iterdir()] == ["inbox"]


def test_a_mistake_in_the_file_is_named(home: Path) -> None:
    begin(load_settings())
    (home / "settings.env").write_text("FF_JOBS_WORKER=perhaps\n")
    with pytest.raises(InvalidInput) as refused:
        load_settings()
    assert refused.value.field == "FF_JOBS_WORKER"
