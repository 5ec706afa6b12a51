"""The OpenAPI document tells the truth: good answers have their declared schema, and errors are declared."""

from __future__ import annotations

from typing import Any

import httpx
import jsonschema
import pytest

OTHER_TYPES = {
    "/api/v1/agents/{name}/calls/{job_id}/events": "text/event-stream",
    "/api/v1/agents/{name}/memory/export": "application/x-ndjson",
    "/api/v1/approvals/{id}/content": "*/*",
    "/api/v1/historian/stream": "text/event-stream",
    "/api/v1/jobs/{id}/events": "text/event-stream",
    "/api/v1/papers/{paper_id}/pages/{number}/image": "image/png",
    "/api/v1/runs/{id}/log": "text/event-stream",
    "/api/v1/runs/{run_id}/events": "text/event-stream",
    "/metrics": "text/plain",
    "/files/{path}": "*/*",
    "/api/v1/map/{layer}.pmtiles": "*/*",
    "/api/v1/map/{layer}/{z}/{x}/{y}.mvt": "application/vnd.mapbox-vector-tile",
}

# They answer as the request says: in one piece, or as events.
EITHER = {("post", "/api/v1/agents/{name}", "200"), ("post", "/api/v1/llm/run", "200")}


@pytest.fixture
def document(visitor: httpx.Client) -> dict[str, Any]:
    response = visitor.get("/openapi.json")
    assert response.status_code == 200
    return dict(response.json())


def check(document: dict[str, Any], operation: dict[str, Any], response: httpx.Response) -> None:
    declared = operation["responses"].get(str(response.status_code))
    assert declared is not None, f"{response.request.url}: {response.status_code} is not declared"
    media_type = response.headers["content-type"].partition(";")[0]
    schema = declared["content"][media_type]["schema"]
    jsonschema.validate(response.json(), {**schema, "components": document["components"]})


def operations(document: dict[str, Any]) -> list[tuple[str, str, dict[str, Any]]]:
    return [
        (path, method, operation)
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    ]


def test_every_operation_is_described_and_declares_problems(document: dict[str, Any]) -> None:
    for path, method, operation in operations(document):
        assert operation["summary"] and operation["description"], (method, path)
        assert {"413", "421", "422", "500"} <= set(operation["responses"])
        for status, declared in operation["responses"].items():
            if status == "304":
                continue
            media_types = set(declared["content"])
            wanted = "application/problem+json" if status >= "400" else OTHER_TYPES.get(path, "application/json")
            also = {"text/event-stream"} if (method, path, status) in EITHER else set()
            assert media_types == {wanted} | also, (method, path, status)
    assert "HTTPValidationError" not in document["components"]["schemas"]


def test_good_answers_match_their_schema(reader: httpx.Client) -> None:
    document = reader.get("/openapi.json").json()
    for address, path in [
        ("/healthz", "/healthz"),
        ("/readyz", "/readyz"),
        ("/api/v1/search?q=index", "/api/v1/search"),
        ("/api/v1/documents", "/api/v1/documents"),
        ("/api/v1/documents/1", "/api/v1/documents/{id}"),
        ("/api/v1/sources", "/api/v1/sources"),
        ("/api/v1/quarantine", "/api/v1/quarantine"),
        ("/api/v1/approvals", "/api/v1/approvals"),
        ("/api/v1/receipts", "/api/v1/receipts"),
        ("/api/v1/jobs", "/api/v1/jobs"),
        ("/api/v1/job-kinds", "/api/v1/job-kinds"),
    ]:
        response = reader.get(address)
        assert response.status_code == 200
        check(document, document["paths"][path]["get"], response)


def test_uploads_match_their_schema(client: httpx.Client, document: dict[str, Any]) -> None:
    operation = document["paths"]["/api/v1/documents"]["post"]
    for name, data, status in [
        ("a.md", b"# A", 201),
        ("a.md", b"# A", 200),
        ("a.md", b"# B", 409),
        ("a.exe", b"MZ", 415),
        ("a.md", b"", 422),
        ("b.md", b"x" * 60_000_000, 413),
    ]:
        response = client.post("/api/v1/documents", files={"file": (name, data)})
        assert response.status_code == status
        check(document, operation, response)
