"""What agents remember over HTTP, and the same on the command line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pytest

from cli.main import main
from stemma.access.permissions import Role
from stemma.store.database import Database
from stemma.store.settings import Settings

pytestmark = pytest.mark.usefixtures("loopback_only")

MEMORY = "/api/v1/agents/nova/memory"


@pytest.fixture
def viewer(client: httpx.Client, settings: Settings, database: Database, issue_key: Callable[..., Any]) -> httpx.Client:
    """The same client with the key of a viewer."""
    key = issue_key(settings, database.urls, role=Role.VIEWER).key
    return httpx.Client(base_url=client.base_url, headers={"Authorization": f"Bearer {key}"}, trust_env=False)


def test_a_memory_is_given_pinned_exported_and_forgotten(client: httpx.Client, viewer: httpx.Client) -> None:
    body = {"text": "Mail ada@example.org on Fridays.", "pinned": True, "days": 30}
    key = {"Idempotency-Key": str(uuid4())}
    given = client.post(MEMORY, json=body, headers=key)
    assert given.status_code == 201 and client.post(MEMORY, json=body, headers=key).json() == given.json()
    memory = given.json()
    assert memory["text"] == "Mail [email] on Fridays." and memory["pinned_at"] and memory["expires_at"]
    shared = client.post(MEMORY, json={"text": "The studio closes at six.", "tier": "vector", "shared": True}).json()
    assert shared["owner"] is None
    assert [one["id"] for one in client.get(MEMORY).json()["data"]] == [shared["id"], memory["id"]]
    assert [one["id"] for one in client.get(MEMORY, params={"pinned": True}).json()["data"]] == [memory["id"]]
    assert [one["id"] for one in viewer.get(MEMORY).json()["data"]] == [shared["id"]]
    assert client.delete(f"{MEMORY}/{memory['id']}/pin").json()["pinned_at"] is None
    assert client.put(f"{MEMORY}/{memory['id']}/pin").json()["pinned_by"] == memory["owner"]
    exported = client.get(f"{MEMORY}/export")
    assert exported.headers["content-type"] == "application/x-ndjson"
    assert [json.loads(line)["id"] for line in exported.text.splitlines()] == [memory["id"]]
    assert client.delete(f"{MEMORY}/{memory['id']}").json()["memories"] == 1
    assert client.delete(MEMORY, params={"shared": True}).json() == {
        "agent": "nova", "owner": None, "tier": None, "memories": 1,
    }  # fmt: skip
    assert client.get(MEMORY).json() == {"data": [], "next_cursor": None}


def test_pages_follow_each_other(client: httpx.Client) -> None:
    made = [client.post(MEMORY, json={"text": f"Fact {number}."}).json()["id"] for number in range(5)]
    found, cursor = [], None
    while True:
        page = client.get(MEMORY, params={"limit": 2, **({"cursor": cursor} if cursor else {})}).json()
        found += [one["id"] for one in page["data"]]
        if (cursor := page["next_cursor"]) is None:
            break
    assert found == made[::-1]


def test_nobody_gets_at_what_is_another_s(client: httpx.Client, viewer: httpx.Client) -> None:
    memory = client.post(MEMORY, json={"text": "It is mine."}).json()
    shared = client.post(MEMORY, json={"text": "It is ours.", "shared": True}).json()
    for answer, status, code in (
        (viewer.get(MEMORY, params={"owner": memory["owner"]}), 403, "role_forbidden"),
        (viewer.get(f"{MEMORY}/export", params={"owner": memory["owner"]}), 403, "role_forbidden"),
        (viewer.post(MEMORY, json={"text": "Obey."}), 403, "role_forbidden"),
        (viewer.delete(f"{MEMORY}/{memory['id']}"), 404, "memory_unknown"),
        (viewer.delete(f"{MEMORY}/{shared['id']}"), 403, "role_forbidden"),
        (viewer.delete(MEMORY, params={"owner": memory["owner"]}), 403, "role_forbidden"),
        (viewer.put(f"{MEMORY}/{shared['id']}/pin"), 403, "role_forbidden"),
        (client.get("/api/v1/agents/nobody/memory"), 404, "agent_unknown"),
        (client.put(f"{MEMORY}/{uuid4()}/pin"), 404, "memory_unknown"),
        (client.post(MEMORY, json={"text": "  "}), 422, "memory_empty"),
        (client.post(MEMORY, json={"text": "x", "tier": "episodic"}), 422, "request_invalid"),
        (client.get(MEMORY, params={"cursor": "x"}), 422, "cursor_invalid"),
    ):
        assert (answer.status_code, answer.json()["code"]) == (status, code)
    assert viewer.delete(MEMORY).json()["memories"] == 0
    assert len(client.get(MEMORY).json()["data"]) == 2


def test_the_command_line_says_the_same(
    settings: Settings, database: Database, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    def run(*arguments: str, code: int = 0) -> Any:
        with pytest.raises(SystemExit) as ended:
            main(["memory", *arguments, "--json"])
        assert ended.value.code == code
        return json.loads(capfd.readouterr().out)

    memory = run("add", "nova", "Lamps are switched off at ten.", "--pin")
    assert run("list", "nova", "--tier", "semantic")["data"] == [memory]
    assert run("unpin", "nova", memory["id"])["pinned_at"] is None
    assert run("pin", "nova", memory["id"])["pinned_by"] == memory["owner"]
    assert run("export", "nova", "-o", str(tmp_path / "memory.jsonl"))["memories"] == 1
    assert json.loads((tmp_path / "memory.jsonl").read_text())["text"] == memory["text"]
    for arguments, wrong in (
        (("list", "nobody"), ("agent_unknown", 3)),
        (("list", "nova", "--tier", "lost"), ("tier_unknown", 2)),
        (("forget", "nova"), ("usage_invalid", 2)),
        (("export", "nova", "-o", "/nowhere/x"), ("storage_not_writable", 5)),
    ):
        assert run(*arguments, code=wrong[1])["error"]["code"] == wrong[0]
    assert run("forget", "nova", "--all")["memories"] == 1
    assert run("list", "nova")["data"] == []
    with pytest.raises(SystemExit):
        main(["memory", "list", "nova"])
    assert "Nothing." in capfd.readouterr().out
