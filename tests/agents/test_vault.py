"""The vault: values go in sealed and come out for tools alone; keys rotate; nothing is told of a value."""

from __future__ import annotations

import base64
import secrets as randomness
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from stemma.access.permissions import Role
from stemma.access.principal import Principal, local_principal
from stemma.agents.vault import confidences, master_keys, secrets
from stemma.errors import Conflict, Forbidden, InvalidInput, NotFound, StemmaError, Unavailable
from stemma.ledger.change import Change
from stemma.llm.switches import Switches
from stemma.store.database import Database
from stemma.store.keyfiles import keys_folder
from stemma.store.settings import Settings

Commit = Callable[[Change[Any]], Any]
_VALUE = SecretStr("canary-0123456789")


def _set(database: Database, settings: Settings, name: str, value: SecretStr = _VALUE) -> Change[secrets.Secret]:
    return database.read(lambda c: secrets.set_secret(c, local_principal(), settings, "riven", name, value))


def _open(database: Database, settings: Settings, name: str) -> str:
    return database.read(lambda c: secrets.open_secret(c, settings, "riven", name)).get_secret_value()


def _rotation(database: Database, settings: Settings) -> Change[secrets.Rotation]:
    return database.read(lambda c: secrets.rotate(c, local_principal(), settings))


def test_a_secret_is_set_opened_replaced_and_removed(database: Database, settings: Settings, commit: Commit) -> None:
    first = commit(_set(database, settings, "TOKEN"))
    assert _open(database, settings, "TOKEN") == _VALUE.get_secret_value()
    again = commit(_set(database, settings, "TOKEN", SecretStr("another-value")))
    assert (again.created_at, _open(database, settings, "TOKEN")) == (first.created_at, "another-value")
    assert database.read(secrets.list_secrets) == (again,)
    commit(database.read(lambda c: secrets.remove_secret(c, local_principal(), "riven", "TOKEN")))
    with pytest.raises(NotFound):
        _open(database, settings, "TOKEN")
    with pytest.raises(NotFound):
        database.read(lambda c: secrets.remove_secret(c, local_principal(), "riven", "TOKEN"))


def test_a_sealed_value_opens_only_where_it_was_put(database: Database, settings: Settings, commit: Commit) -> None:
    commit(_set(database, settings, "TOKEN"))
    with database.owner() as connection:
        connection.execute("UPDATE agent_secrets SET agent = 'nova'")
    with pytest.raises(Unavailable, match="altered or moved") as refused:
        database.read(lambda c: secrets.open_secret(c, settings, "nova", "TOKEN"))
    assert refused.value.code == "vault_damaged"


def test_a_rotation_seals_everything_anew_and_the_old_key_goes(
    database: Database, settings: Settings, commit: Commit
) -> None:
    commit(_set(database, settings, "TOKEN"))
    (before,) = keys_folder(settings).glob("vault-*.key")
    assert before.stat().st_mode & 0o777 == 0o600
    late = _set(database, settings, "LATE")
    done = commit(_rotation(database, settings))
    master_keys.drop_other_keys(settings, done.key_id)
    assert done.sealed == 1
    assert [path.name for path in keys_folder(settings).glob("vault-*.key")] == [f"vault-{done.key_id}.key"]
    assert _open(database, settings, "TOKEN") == _VALUE.get_secret_value()
    with pytest.raises(Conflict):
        commit(late)
    overtaken = _rotation(database, settings)
    commit(_set(database, settings, "LATE"))
    with pytest.raises(Conflict):
        commit(overtaken)


def test_keys_of_the_environment_take_over_one_after_the_other(
    database: Database, settings: Settings, commit: Commit
) -> None:
    old, new = (base64.urlsafe_b64encode(randomness.token_bytes(32)).decode() for _ in range(2))
    commit(_set(database, settings, "TOKEN"))
    with_old = settings.model_copy(update={"vault_key": SecretStr(old)})
    commit(_rotation(database, with_old))
    with pytest.raises(InvalidInput) as nothing_new:
        _rotation(database, with_old)
    assert nothing_new.value.code == "vault_key_in_use"
    with_both = settings.model_copy(update={"vault_key": SecretStr(f"{new},{old}")})
    done = commit(_rotation(database, with_both))
    master_keys.drop_other_keys(settings, done.key_id)
    assert _open(database, settings.model_copy(update={"vault_key": SecretStr(new)}), "TOKEN")
    with pytest.raises(Unavailable) as lost:
        _open(database, with_old, "TOKEN")
    assert lost.value.code == "vault_key_lost"


def test_after_the_loss_of_the_key_one_begins_anew(database: Database, settings: Settings, commit: Commit) -> None:
    commit(_set(database, settings, "TOKEN"))
    for path in keys_folder(settings).glob("vault-*.key"):
        path.unlink()
    with pytest.raises(Unavailable, match="is not there"):
        _set(database, settings, "OTHER")
    commit(database.read(lambda c: secrets.remove_secret(c, local_principal(), "riven", "TOKEN")))
    commit(_set(database, settings, "OTHER"))
    assert _open(database, settings, "OTHER") == _VALUE.get_secret_value()


@pytest.mark.parametrize("key", [",", "short", "é" * 44, base64.b64encode(bytes(31)).decode()])
def test_what_is_no_key_is_refused(settings: Settings, key: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        master_keys.MasterKeys.open(settings.model_copy(update={"vault_key": SecretStr(key)}))
    assert refused.value.code == "vault_key_invalid"


@pytest.mark.parametrize(
    ("agent", "name", "value", "field"),
    [
        ("Riven", "TOKEN", "canary-0123", "agent"),
        ("riven", "token", "canary-0123", "name"),
        ("riven", "TOKEN", "canary", "value"),
        ("riven", "TOKEN", "canary-0123\0", "value"),
        ("riven", "TOKEN", "canary-\udc80" * 4, "value"),
        ("riven", "TOKEN", "canary" * 3000, "value"),
    ],
)
def test_what_is_no_secret_is_refused_without_being_repeated(
    database: Database, settings: Settings, agent: str, name: str, value: str, field: str
) -> None:
    with pytest.raises((InvalidInput, NotFound)) as refused:
        database.read(lambda c: secrets.set_secret(c, local_principal(), settings, agent, name, SecretStr(value)))
    assert refused.value.field == field
    assert "canary" not in str(refused.value)


def test_who_may_not_is_refused(database: Database, settings: Settings) -> None:
    admin = Principal("key:x", Role.ADMIN, frozenset({"admin:*"}))
    with pytest.raises(Forbidden):
        database.read(lambda c: secrets.set_secret(c, admin, settings, "riven", "TOKEN", _VALUE))
    with pytest.raises(Forbidden):
        database.read(lambda c: secrets.rotate(c, admin, settings))


def test_only_providers_at_home_are_told_the_confidences() -> None:
    told = confidences.trusted
    assert told((), Switches()) == ("local", "offline")
    assert told(("openai", "local"), Switches()) == ("local",)
    assert told(("openai",), Switches()) is None
    assert told(("openai", "local"), Switches(secrets_online=True)) == ("openai", "local")


@pytest.mark.parametrize(
    ("content", "mode", "code"),
    [
        (b"The code word is heron.", 0o644, "founder_secrets_exposed"),
        (b"\xff\xfe", 0o600, "founder_secrets_invalid"),
        (b"x" * (confidences.MAX_BYTES + 1), 0o600, "founder_secrets_invalid"),
    ],
)
def test_a_file_that_cannot_be_confided_is_refused(settings: Settings, content: bytes, mode: int, code: str) -> None:
    _write(settings.home / confidences.FILE, content, mode)
    with pytest.raises(StemmaError) as refused:
        confidences.read(settings)
    assert refused.value.code == code
    assert "heron" not in str(refused.value)


def test_confidences_are_read_from_a_private_file(settings: Settings) -> None:
    assert confidences.read(settings) is None
    _write(settings.home / confidences.FILE, b"  \n", 0o600)
    assert confidences.read(settings) is None
    _write(settings.home / confidences.FILE, "Der Schlüssel liegt unter der Matte.\n".encode(), 0o600)
    assert confidences.read(settings) == "Der Schlüssel liegt unter der Matte."


def _write(path: Path, content: bytes, mode: int) -> None:
    path.touch()
    path.chmod(mode)
    path.write_bytes(content)
