"""notify.yaml: what it may say, and that no mistake in it shows what it holds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from stemma.errors import InvalidInput
from stemma.notify.channels import load_routing
from stemma.store.settings import Settings

SECRET = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD"
SLACK = {"kind": "slack", "url": "https://hooks.slack.com/services/T0/B0/hunter2"}
HOOK = {"kind": "webhook", "url": "https://n8n.example.org/hook/hunter2", "secrets": [SECRET]}
MAIL = {
    "kind": "smtp",
    "host": "mail.example.org",
    "username": "stemma",
    "password": "hunter2",
    "sender": "stemma@example.org",
    "recipients": ["ops@example.org"],
}


@pytest.fixture
def home(tmp_path: Path) -> Settings:
    return Settings(home=tmp_path)


def write(settings: Settings, document: Any, *, mode: int = 0o600) -> None:
    path = settings.home / "notify.yaml"
    path.write_text(document if isinstance(document, str) else yaml.safe_dump(document))
    path.chmod(mode)


def test_topics_go_to_the_channels_whose_globs_they_match(home: Settings) -> None:
    assert load_routing(home).channels == {}
    subscriptions = [
        {"topics": ["run.failed", "approval.*"], "channels": ["team", "mail"]},
        {"topics": ["*"], "channels": ["n8n"]},
    ]
    write(home, {"channels": {"team": SLACK, "mail": MAIL, "n8n": HOOK}, "subscriptions": subscriptions})
    routing = load_routing(home)
    assert set(routing.channels_for("approval.requested")) == {"team", "mail", "n8n"}
    assert routing.channels_for("run.failed.again") == ("n8n",)
    assert "hunter2" not in repr(routing) and SECRET not in repr(routing)


@pytest.mark.parametrize(
    ("document", "said"),
    [
        ("channels: [", "not YAML in line"),
        ("hunter2: hunter2: hunter2", "not YAML in line"),
        ("- hunter2", "`channels`"),
        ({"channels": {"Team!": SLACK}}, "name of a channel"),
        ({"channels": {"team": {**SLACK, "kind": "pager"}}}, "channels.team"),
        ({"channels": {"team": {**SLACK, "ulr": "hunter2"}}}, "channels.team.slack.ulr"),
        ({"channels": {"team": {**SLACK, "url": "http://hooks.slack.com/hunter2"}}}, "https://"),
        ({"channels": {"team": {**SLACK, "url": "https://ada:hunter2@hooks.slack.com"}}}, "without user name"),
        ({"channels": {"team": {**SLACK, "url": "https://[hunter2"}}}, "https://host/path"),
        ({"channels": {"team": {**SLACK, "url": "file:///hunter2"}}}, "https://host/path"),
        ({"channels": {"team": {**SLACK, "url": "https://hunter2.example/\x7f"}}}, "https://host/path"),
        ({"channels": {"n8n": {**HOOK, "secrets": []}}}, "secrets"),
        ({"channels": {"n8n": {**HOOK, "secrets": ["hunter2"]}}}, "no webhook secret"),
        ({"channels": {"mail": {**MAIL, "recipients": ["Ada <hunter2@example.org>"]}}}, "ops@example.org"),
        ({"channels": {"mail": {**MAIL, "sender": "hunter2@example.org\nBcc: x@example.org"}}}, "ops@example.org"),
        ({"channels": {"mail": {**MAIL, "username": None}}}, "go together"),
        ({"channels": {"mail": {**MAIL, "port": "hunter2"}}}, "port"),
        ({"channels": {"team": SLACK}, "subscriptions": [{"topics": ["*"], "channels": ["other"]}]}, "subscription"),
    ],
)
def test_a_mistake_names_its_place_and_repeats_nothing(home: Settings, document: Any, said: str) -> None:
    write(home, document)
    with pytest.raises(InvalidInput) as refused:
        load_routing(home)
    assert refused.value.code == "notify_invalid" and said in str(refused.value)
    assert refused.value.__cause__ is None and (refused.value.__context__ is None or refused.value.__suppress_context__)
    if "hunter2:" not in str(document):
        assert "hunter2" not in str(refused.value) and SECRET not in str(refused.value)


@pytest.mark.parametrize(("mode", "usable"), [(0o600, True), (0o640, True), (0o644, False), (0o602, False)])
def test_a_file_that_everybody_may_open_is_not_read(home: Settings, mode: int, usable: bool) -> None:
    write(home, {"channels": {"team": SLACK}}, mode=mode)
    if usable:
        assert list(load_routing(home).channels) == ["team"]
        return
    with pytest.raises(InvalidInput) as refused:
        load_routing(home)
    assert refused.value.code == "notify_file_exposed" and "chmod 600" in str(refused.value)


def test_a_file_that_is_not_text_is_named(home: Settings) -> None:
    path = home.home / "notify.yaml"
    path.write_bytes(b"\xff\xfe")
    path.chmod(0o600)
    with pytest.raises(InvalidInput, match="UTF-8"):
        load_routing(home)
