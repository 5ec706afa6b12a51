"""The flows that ship for n8n: each is an export that n8n reads, and asks only for what is there."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, Final

import jsonschema_rs
import pytest

from api.access import rules
from api.app import create_app
from stemma.jobs import kinds, named
from stemma.store.settings import REPOSITORY, Settings

FLOWS: Final = sorted((REPOSITORY / "flows").glob("*.json"))
ORIGIN: Final = "http://127.0.0.1:8400"
_NAME: Final = {"type": "string", "minLength": 1}
# `IWorkflowBase` and `INode` of n8n-workflow, as far as an export has them.
EXPORT: Final = {
    "type": "object",
    "required": ["name", "nodes", "connections"],
    "properties": {
        "name": _NAME,
        "active": {"const": False},
        "nodes": {
            "type": "array",
            "minItems": 1,
            "items": {
                "type": "object",
                "required": ["id", "name", "type", "typeVersion", "position", "parameters"],
                "properties": {
                    "id": {"type": "string", "format": "uuid"},
                    "name": _NAME,
                    "type": {"pattern": r"^n8n-nodes-base\.[a-zA-Z]+$"},
                    "typeVersion": {"type": "number"},
                    "position": {"type": "array", "items": {"type": "integer"}, "minItems": 2, "maxItems": 2},
                    "parameters": {"type": "object"},
                    "credentials": {
                        "additionalProperties": {
                            "required": ["id", "name"],
                            "properties": {"id": _NAME, "name": _NAME},
                            "additionalProperties": False,
                        }
                    },
                },
            },
        },
        "connections": {
            "additionalProperties": {
                "properties": {
                    "main": {
                        "type": "array",
                        "items": {"type": "array", "items": {"required": ["node", "type", "index"]}},
                    }
                },
                "additionalProperties": False,
            }
        },
        "settings": {"properties": {"executionOrder": {"const": "v1"}, "timezone": {"const": "UTC"}}},
    },
}


@pytest.fixture(params=FLOWS, ids=lambda path: path.name)
def flow(request: pytest.FixtureRequest) -> dict[str, Any]:
    path: Path = request.param
    read: dict[str, Any] = json.loads(path.read_text("utf-8"))
    return read


def test_a_flow_is_an_export_of_n8n(flow: dict[str, Any]) -> None:
    jsonschema_rs.Draft202012Validator(EXPORT, validate_formats=True).validate(flow)
    names = [node["name"] for node in flow["nodes"]]
    assert len(set(names)) == len(names) == len({node["id"] for node in flow["nodes"]})
    followers = {
        target["node"] for outputs in flow["connections"].values() for output in outputs["main"] for target in output
    }
    assert followers | flow["connections"].keys() == set(names)
    assert not re.search(r"stm_[A-Za-z0-9]", json.dumps(flow))


def test_a_flow_asks_for_what_is_there_and_is_asked_by_nobody_unknown(flow: dict[str, Any]) -> None:
    posted = [
        re.compile(re.sub(r"\{[^}]*\}", "[^/]+", path))
        for path, methods, _ in rules(create_app(Settings()))
        if "POST" in methods
    ]
    for node in flow["nodes"]:
        given = node["parameters"]
        if node["type"].endswith(".httpRequest"):
            path = re.sub(r"\{\{.*?\}\}", "x", given["url"].removeprefix("=")).removeprefix(ORIGIN)
            assert given["method"] == "POST" and any(pattern.fullmatch(path) for pattern in posted), path
            assert [header["name"] for header in given["headerParameters"]["parameters"]] == ["Idempotency-Key"]
            assert node["credentials"] and node["retryOnFail"]
        if node["type"].endswith(".webhook"):
            assert given["authentication"] == "headerAuth" and node["credentials"]
        if node["type"].endswith(".code"):
            jobs = re.findall(r"'([^']+)'", given["jsCode"])
            assert jobs and set(jobs) <= named.SCHEDULES.keys() | kinds.KINDS.keys()
