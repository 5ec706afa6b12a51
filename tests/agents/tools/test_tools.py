from __future__ import annotations

import dataclasses
import html
import io
import json
import logging
import re
import threading
from base64 import b64encode
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import ip_network
from typing import Any
from urllib.parse import quote
from uuid import UUID, uuid4

import pytest
import structlog
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st
from pydantic import SecretStr

from assets.jobs import _MADE
from stemma.access.permissions import PERMISSIONS, Role
from stemma.access.principal import Principal, local_principal
from stemma.agents import roster
from stemma.agents.model import Agent, ToolResult
from stemma.agents.tools.files import MAX_READ
from stemma.agents.tools.marking import MAX_CHARACTERS, fenced, marked
from stemma.agents.tools.registry import TOOLS
from stemma.agents.tools.toolbox import Tools
from stemma.agents.tools.waiting import KIND, MOST_WAITING
from stemma.agents.tools.work import MADE_BY
from stemma.agents.vault import secrets
from stemma.approvals import catalog, decisions
from stemma.approvals.model import State, Verdict
from stemma.ledger import receipts
from stemma.store.logs import configure_logging

NewAgent = Callable[..., Agent]
NewPrincipal = Callable[..., Principal]

EVERYTHING: dict[str, dict[str, list[str]]] = {
    "search_index": {},
    "look_up_decision": {},
    "verify_receipt": {},
    "read_metrics": {},
    "read_file": {"paths": ["inbox", "drafts"]},
    "write_file": {"paths": ["drafts/tess"]},
    "fetch_url": {"hosts": ["127.0.0.1"]},
    "materialize_asset": {"assets": ["knowledge/*"]},
    "decide": {"nodes": ["desk"]},
}


def found(result: ToolResult) -> Any:
    """What a result says, out of its fence."""
    assert result.code is None, result.text
    return json.loads(inside(result))


def inside(result: ToolResult) -> str:
    match = re.fullmatch(r"[^\n]+\n<data (\w{16})>\n(.*)\n</data \1>", result.text, re.DOTALL)
    assert match is not None
    return match[2]


@pytest.fixture
def tess(new_agent: NewAgent) -> Agent:
    """An agent that was granted every tool, and of each a little."""
    return new_agent(**EVERYTHING)


def test_every_agent_s_file_grants_tools_that_there_are() -> None:
    granted = {name for agent in roster.load() for name in agent.tools}
    assert granted - TOOLS.keys() == set()
    assert {permission for tool in TOOLS.values() for permission in tool.permissions} <= PERMISSIONS.keys()


def test_what_is_offered_is_what_agent_and_caller_both_may(
    workshop: Any, tess: Agent, new_agent: NewAgent, principal: NewPrincipal
) -> None:
    def offered(agent: Agent, by: Principal) -> set[str]:
        return {spec.name for spec in workshop.tools.specs(agent, by)}

    assert offered(tess, principal()) == TOOLS.keys()
    assert offered(new_agent(), principal()) == set()
    assert offered(tess, principal(Role.OWNER, "search:*")) == {"search_index"}
    assert offered(tess, principal(Role.VIEWER)) == {
        "search_index", "look_up_decision", "verify_receipt", "read_metrics",
    }  # fmt: skip
    writing = {name for name, tool in TOOLS.items() if tool.leaves_trace}
    assert offered(tess, principal(Role.GODMODE)) == TOOLS.keys() - writing == TOOLS.keys() - {
        "write_file", "materialize_asset", "decide",
    }  # fmt: skip


@pytest.mark.parametrize("name", sorted(TOOLS))
def test_what_was_not_offered_is_refused_all_the_same(
    workshop: Any, tess: Agent, new_agent: NewAgent, principal: NewPrincipal, name: str
) -> None:
    assert workshop.use(new_agent(), name, {}).code == "tool_not_granted"
    no_scope = principal(Role.OWNER, "agents:call")
    assert workshop.use(tess, name, {}, by=no_scope).code == "scope_missing"
    if TOOLS[name].leaves_trace:
        assert workshop.use(tess, name, {}, founder=True).code == "tool_leaves_trace"
    assert workshop.use(tess, f"{name}s", {}).code == "tool_unknown"


def test_a_search_cites_what_it_found(workshop: Any, tess: Agent) -> None:
    result = workshop.use(tess, "search_index", {"query": "index for a vector column", "count": 2})
    passages = found(result)
    assert "hnsw.md" in passages[0]["where"] and "CREATE INDEX" in passages[0]["text"]
    assert result.citations[0].text == passages[0]["text"]
    assert result.facts == {"passages": 2}
    assert workshop.use(tess, "search_index", {"query": "x", "sources": ["nowhere"]}).code == "source_unknown"


def test_a_decision_is_looked_up(workshop: Any, tess: Agent, some_decision: UUID) -> None:
    decision = found(workshop.use(tess, "look_up_decision", {"decision_id": str(some_decision)}))
    assert (decision["id"], decision["node"], decision["reasons"]) == (str(some_decision), "desk", ["It is usual."])
    assert workshop.use(tess, "look_up_decision", {"decision_id": str(uuid4())}).code == "decision_unknown"


def test_a_receipt_is_verified_against_the_signed_ledger(
    workshop: Any, tess: Agent, new_materialization: Callable[..., Any], wait_until: Callable[..., None]
) -> None:
    made = new_materialization("knowledge/chunks", "run-1")
    receipts.sync(workshop.studio.database, workshop.studio.ledger, [made])
    answers: list[ToolResult] = []

    def covered() -> bool:
        answers.append(workshop.use(tess, "verify_receipt", {"asset": "knowledge/chunks"}))
        return answers[-1].code != "head_pending"

    wait_until(covered)
    receipt = found(answers[-1])
    assert receipt["verified"] is True and receipt["artifacts"][0]["sha256"] == made.artifacts[0].sha256
    assert workshop.use(tess, "verify_receipt", {"receipt_id": receipt["receipt"]}).code is None
    for missing in ({"asset": "knowledge/nothing"}, {"receipt_id": str(uuid4())}, {}):
        assert workshop.use(tess, "verify_receipt", missing).code == "receipt_not_found"


def test_metrics_are_read(workshop: Any, tess: Agent, principal: NewPrincipal) -> None:
    for of in ("jobs", "health", "assets", "costs"):
        assert workshop.use(tess, "read_metrics", {"of": of}).code is None
    assert workshop.use(tess, "read_metrics", {"of": "salaries"}).code == "arguments_invalid"
    narrow = principal(Role.OWNER, "telemetry:*")
    assert workshop.use(tess, "read_metrics", {"of": "costs"}, by=narrow).code == "scope_missing"


def test_files_are_read_and_written_where_it_is_allowed(workshop: Any, tess: Agent) -> None:
    assert "Knead" in found(workshop.use(tess, "read_file", {"path": "inbox/bread.md"}))["text"]
    assert "bread.md" in found(workshop.use(tess, "read_file", {"path": "inbox/"}))["names"]
    wanted = {"path": "drafts/tess/plan/one.md", "text": "A plan."}
    assert found(workshop.use(tess, "write_file", wanted))["bytes"] == 7
    assert (workshop.home / "drafts/tess/plan/one.md").read_text() == "A plan."
    again = workshop.use(tess, "write_file", wanted | {"text": "Another."})
    assert again.code == "file_exists" and (workshop.home / "drafts/tess/plan/one.md").read_text() == "A plan."
    assert [path.name for path in (workshop.home / "drafts/tess/plan").rglob("[!.]*")] == ["one.md"]


@pytest.mark.parametrize(
    ("path", "code"),
    [
        ("inbox/../keys/api.pepper", "key_invalid"),
        ("../etc/passwd", "key_invalid"),
        ("/etc/passwd", "key_invalid"),
        ("keys/api.pepper", "path_refused"),
        ("settings.env", "path_refused"),
        (".founder_secrets", "path_refused"),
        ("inbox/.hidden", "path_refused"),
        ("inboxes/a.md", "path_refused"),
        ("inbox/link", "path_refused"),
        ("inbox/linked/secret.md", "path_refused"),
        ("inbox\\..\\keys", "key_invalid"),
        ("inbox/a\nb", "key_invalid"),
        ("inbox/nothing.md", "file_not_found"),
        ("inbox/broken.pdf/x", "file_not_found"),
        ("inbox/picture.png", "file_not_text"),
        ("inbox/large.txt", "file_too_large"),
    ],
)
def test_no_path_leads_out_of_what_was_granted(workshop: Any, tess: Agent, path: str, code: str) -> None:
    keys, inbox = workshop.home / "keys", workshop.home / "inbox"
    (keys / "secret.md").write_text("canary")
    (inbox / "picture.png").write_bytes(b"\x89PNG\xff")
    (inbox / "large.txt").write_bytes(b"a" * (MAX_READ + 1))
    for link, target in ((inbox / "link", keys / "secret.md"), (inbox / "linked", keys)):
        if not link.is_symlink():
            link.symlink_to(target)
    result = workshop.use(tess, "read_file", {"path": path})
    assert (result.code, "canary" in result.text) == (code, False)
    assert workshop.use(tess, "write_file", {"path": path, "text": "x"}).code in {"path_refused", "key_invalid"}


@examples(max_examples=50)
@given(
    path=st.one_of(
        st.text(max_size=60),
        st.lists(st.sampled_from(["inbox", "drafts", "tess", "..", ".", "keys", "", "link", "linked", "x"])).map(
            "/".join
        ),
    )
)
def test_whatever_path_is_asked_for_only_granted_folders_change(workshop: Any, new_agent: NewAgent, path: str) -> None:
    agent = new_agent(
        write_file={"paths": ["drafts/tess"]}, read_file={"paths": ["inbox", "..", "/", "keys", "inbox/.."]}
    )
    read = workshop.use(agent, "read_file", {"path": path})
    assert read.code is not None or path.strip("/").startswith("inbox")
    written = workshop.use(agent, "write_file", {"path": path, "text": "x"})
    if written.code is None:
        assert (workshop.home / path.rstrip("/")).resolve().is_relative_to(workshop.home / "drafts/tess")


class _Pages(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        port = self.server.server_port  # type: ignore[attr-defined]
        pages = {
            "/page": ("text/html", b"<h1>Lamps</h1><p>Write to ada@example.org.</p>"),
            "/data": ("application/json", b'{"lamps": 3}'),
            "/picture": ("image/png", b"\x89PNG"),
        }
        if self.path == "/away":
            self.send_response(302)
            self.send_header("Location", f"http://localhost:{port}/page")
            self.end_headers()
            return
        kind, body = pages[self.path]
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def pages(handler: type[BaseHTTPRequestHandler] = _Pages) -> Iterator[tuple[str, Any]]:
    """A site's address, and its server, which keeps what came."""
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        server.came = []  # type: ignore[attr-defined]
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}", server
        server.shutdown()
        thread.join()


def test_pages_are_fetched_from_allowed_hosts_alone(workshop: Any, tess: Agent) -> None:
    near = dataclasses.replace(workshop.studio, reachable=(ip_network("127.0.0.0/8"), ip_network("::1")))
    loopback = dataclasses.replace(workshop, tools=Tools(near))
    with pages() as (base, _):
        page = found(loopback.use(tess, "fetch_url", {"url": f"{base}/page"}))
        assert "Lamps" in page["text"] and "[email]" in page["text"]
        assert found(loopback.use(tess, "fetch_url", {"url": f"{base}/data"}))["text"] == '{"lamps": 3}'
        refused = {
            f"{base}/picture": "unsupported_type",
            f"{base}/away": "fetch_host_refused",
            f"{base}/page".replace("127.0.0.1", "localhost"): "fetch_host_refused",
            f"{base}/page".replace("//", "//127.0.0.1@localhost:1/"): "url_invalid",
            "file:///etc/passwd": "url_invalid",
            "http://169.254.169.254/latest/meta-data": "fetch_host_refused",
        }
        for url, code in refused.items():
            assert loopback.use(tess, "fetch_url", {"url": url}).code == code, url
        assert workshop.use(tess, "fetch_url", {"url": f"{base}/page"}).code == "fetch_refused_address"


CANARY = "canary_5e~1/9b+7f=3a&x"


class _Echo(BaseHTTPRequestHandler):
    """Repeats the headers that it was sent, in each form in which a server might, and leads away from here."""

    def do_GET(self) -> None:
        port = self.server.server_port  # type: ignore[attr-defined]
        self.server.came.append((self.path, dict(self.headers)))  # type: ignore[attr-defined]
        said = self.headers.get("X-Token") or self.headers.get("Authorization", "nothing").removeprefix("Bearer ")
        away = {
            "/elsewhere": f"http://localhost:{port}/raw",
            "/path": f"/raw?token={quote(said, safe='')}",
            "/host": f"http://{quote(said, safe='')}.example.org/",
            "/port": f"http://127.0.0.1:{said}/",
        }
        if self.path in away:
            self.send_response(302)
            self.send_header("Location", away[self.path])
            self.end_headers()
            return
        texts = {"/html": html.escape(said), "/base64": b64encode(said.encode()).decode(), "/json": json.dumps([said])}
        text = f"You sent <{texts.get(self.path, said)}>, or {said.upper()}.".encode()
        self.send_response(200)
        self.send_header("Content-Type", "text/html" if self.path == "/html" else "text/plain")
        self.send_header("X-Echo", said)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *_: object) -> None:
        pass


def put_secret(workshop: Any, name: str, value: str) -> None:
    studio = workshop.studio
    with studio.database.snapshot() as connection:
        changed = secrets.set_secret(connection, local_principal(), studio.settings, "nova", name, SecretStr(value))
    studio.ledger.commit(changed).result(20)


@pytest.fixture
def logged() -> Iterator[io.StringIO]:
    """All that is logged at any level, as a process of the studio does."""
    root = logging.getLogger()
    handlers, level, stream = list(root.handlers), root.level, io.StringIO()
    configure_logging("DEBUG", stream=stream)
    yield stream
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.reset_defaults()


def test_a_secret_is_sent_to_its_host_alone_and_never_seen(
    workshop: Any, new_agent: NewAgent, principal: NewPrincipal, logged: io.StringIO
) -> None:
    near = dataclasses.replace(workshop.studio, reachable=(ip_network("127.0.0.0/8"), ip_network("::1")))
    loopback = dataclasses.replace(workshop, tools=Tools(near))
    put_secret(workshop, "TOKEN", CANARY)
    put_secret(workshop, "BROKEN", f"{CANARY}\r\nX-Also: {CANARY}")
    seen = []
    with pages(_Echo) as (base, server):
        host = base.removeprefix("http://")
        uses = {"TOKEN": {"host": host}, "BROKEN": {"host": host}, "MISSING": {"host": host}}
        hosts = ["127.0.0.1", "localhost"]
        agent = new_agent("nova", fetch_url={"hosts": hosts, "secrets": uses})
        bare = {"TOKEN": {"host": host, "header": "X-Token", "scheme": ""}}
        named = new_agent("nova", fetch_url={"hosts": hosts, "secrets": bare})
        (spec,) = loopback.tools.specs(agent, principal())
        assert f"TOKEN for {host}" in spec.description and CANARY not in repr(spec)

        def ask(path: str, secret: str | None = "TOKEN", by: Agent = agent, at: str = base) -> ToolResult:
            result: ToolResult = loopback.use(by, "fetch_url", {"url": f"{at}{path}", "secret": secret})
            seen.append(f"{result.text} {result.facts}")
            return result

        for path in ("/raw", "/html", "/base64", "/json", "/path"):
            told = found(ask(path))
            assert told["text"].count("[secret]") == 2, told
            assert server.came[-1][1]["Authorization"] == f"Bearer {CANARY}"
        assert found(ask("/raw", by=named))["text"].count("[secret]") == 2
        assert server.came[-1][1]["X-Token"] == CANARY and "Authorization" not in server.came[-1][1]
        assert found(ask("/elsewhere"))["text"] == "You sent <nothing>, or NOTHING."
        assert "Authorization" not in server.came[-1][1]
        assert found(ask("/raw", None))["text"] == "You sent <nothing>, or NOTHING."
        refused = [
            (ask("/host"), "fetch_host_refused"),
            (ask("/port"), "fetch_failed"),
            (ask("/raw", "OTHER"), "secret_refused"),
            (ask("/raw", by=new_agent(fetch_url={"hosts": ["127.0.0.1"]})), "secret_refused"),
            (ask("/raw", "MISSING"), "secret_not_found"),
            (ask("/raw", "BROKEN"), "secret_not_sendable"),
            (ask("/raw", at=base.replace("127.0.0.1", "localhost")), "fetch_credential_refused"),
            (ask("/raw", at=f"http://127.0.0.1:{server.server_port + 1}"), "fetch_credential_refused"),
        ]
        assert [result.code for result, _ in refused] == [code for _, code in refused]
    told = " ".join((*seen, logged.getvalue())).lower()
    forms = (CANARY, quote(CANARY, safe=""), html.escape(CANARY), b64encode(CANARY.encode()).decode())
    assert [form for form in forms if form.lower() in told] == []


def test_an_asset_is_materialized_once_after_a_person_approved_exactly_that(
    workshop: Any, tess: Agent, principal: NewPrincipal
) -> None:
    wanted = {"asset": "knowledge/chunks", "partition": "inbox"}
    jobs = workshop.count("jobs")
    first = workshop.use(tess, "materialize_asset", wanted)
    told = found(first)
    assert (told["done"], told["state"], first.facts["waiting"]) == (False, "pending", True)
    assert found(workshop.use(tess, "materialize_asset", wanted))["approval"] == told["approval"]
    settle(workshop, told["approval"], Verdict.APPROVE)
    another = principal(name="key:bob")
    assert found(workshop.use(tess, "materialize_asset", wanted, by=another))["done"] is False
    assert found(workshop.use(tess, "materialize_asset", wanted | {"partition": "installed-docs"}))["done"] is False
    assert workshop.count("jobs") == jobs
    done = found(workshop.use(tess, "materialize_asset", wanted))
    assert (done["done"], done["kind"], workshop.count("jobs")) == (True, "embed", jobs + 1)
    again = found(workshop.use(tess, "materialize_asset", wanted))
    assert again["done"] is False and again["approval"] != told["approval"] and workshop.count("jobs") == jobs + 1
    settle(workshop, again["approval"], Verdict.DENY)
    assert workshop.use(tess, "materialize_asset", wanted).code == "tool_use_denied"


def test_nobody_is_flooded_with_requests(workshop: Any, new_agent: NewAgent, principal: NewPrincipal) -> None:
    agent, eve = new_agent(materialize_asset={"assets": ["governance/*"]}), principal(name="key:eve")
    asked = [
        workshop.use(agent, "materialize_asset", {"asset": "governance/drift", "partition": f"2020-01-0{day}"}, by=eve)
        for day in range(1, MOST_WAITING + 3)
    ]
    assert [result.code for result in asked] == [None] * MOST_WAITING + ["too_many_waiting"] * 2


def test_what_a_job_s_kind_takes_is_asked_of_the_caller_too(
    workshop: Any, tess: Agent, principal: NewPrincipal
) -> None:
    approvals = workshop.count("approvals")
    narrow = principal(Role.OWNER, "jobs:*", "approvals:*")
    wanted = {"asset": "knowledge/chunks", "partition": "inbox"}
    assert workshop.use(tess, "materialize_asset", wanted, by=narrow).code == "scope_missing"
    for arguments, code in (
        ({"asset": "maps/tiles", "partition": "x"}, "asset_refused"),
        ({"asset": "knowledge/nothing"}, "asset_not_made_by_jobs"),
        ({"asset": "knowledge/search_index", "partition": "x"}, "partition_not_taken"),
        ({"asset": "knowledge/chunks", "partition": "nowhere"}, "source_unknown"),
        ({"asset": "knowledge/chunks"}, "job_input_invalid"),
    ):
        assert workshop.use(tess, "materialize_asset", arguments).code == code
    assert workshop.count("approvals") == approvals


def settle(workshop: Any, approval_id: str, verdict: Verdict) -> None:
    person = Principal("local:person", Role.OWNER, frozenset({"approvals:*"}))

    def prepare(connection: Any) -> Any:
        approval = catalog.get_approval(connection, UUID(approval_id))
        seen = frozenset({approval.etag})
        return decisions.decide(connection, person, approval.id, verdict, reason="Seen.", seen=seen)

    workshop.studio.ledger.commit(workshop.studio.database.read(prepare)).result(20)


def test_the_table_of_assets_is_that_of_the_jobs() -> None:
    kinds = set(MADE_BY.values())
    made = {"/".join(asset.key.path): kind for kind, assets in _MADE.items() if kind in kinds for asset in assets}
    assert made == MADE_BY


def test_a_node_decides_by_its_policy(workshop: Any, tess: Agent) -> None:
    asked = {"node": "desk", "event_type": "Asked", "data": {"amount": 10, "discount": 0.05}}
    decided = found(workshop.use(tess, "decide", asked))
    assert (decided["verdict"], decided["state"], decided["effect"]) == ("approve", "final", "approve")
    before = workshop.count("decisions")
    assert workshop.use(tess, "decide", asked | {"node": "finance"}).code == "node_refused"
    assert workshop.use(tess, "decide", asked | {"event_type": "Told"}).code == "event_type_unknown"
    assert workshop.use(tess, "decide", asked | {"data": {"amount": "much"}}).code == "event_data_invalid"
    assert workshop.count("decisions") == before


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "null",
        "{",
        '{"query": 3}',
        '{"query": "x", "also": 1}',
        '{"query": "a\\u0000b"}',
        "[" * 100_000,
        "\ud800",
    ],
)
def test_arguments_that_are_none_are_refused(workshop: Any, tess: Agent, text: str) -> None:
    result = workshop.use(tess, "search_index", text)
    assert result.code == "arguments_invalid" and result.facts == {"error": "arguments_invalid"}
    assert workshop.use(tess, "search_index", json.dumps({"query": "x" * (1 << 20)})).code == "arguments_too_large"


@examples(max_examples=25)
@given(text=st.text(max_size=200))
def test_no_argument_raises(workshop: Any, new_agent: NewAgent, text: str) -> None:
    agent = new_agent(**{name: {} for name in TOOLS})
    for name in TOOLS:
        assert workshop.use(agent, name, text).code is not None


@given(st.text(max_size=500))
def test_nothing_ends_a_fence(text: str) -> None:
    first, second = fenced("what was found", text), fenced("what was found", text)
    assert inside(ToolResult(first)) == text
    assert first.split("\n")[1] != second.split("\n")[1]


def test_what_was_found_is_redacted_and_bounded() -> None:
    said = marked("search_index", {"text": "Mail ada@example.org; " + "x" * (2 * MAX_CHARACTERS)})
    assert "[email]" in said and "ada@example.org" not in said
    assert len(said) < MAX_CHARACTERS + 200 and "there is more" in said


def test_approvals_of_tools_name_agent_caller_and_arguments(workshop: Any, tess: Agent) -> None:
    result = workshop.use(tess, "materialize_asset", {"asset": "knowledge/search_index"})
    approval_id = UUID(found(result)["approval"])
    with workshop.studio.database.snapshot() as connection:
        approval = catalog.get_approval(connection, approval_id)
        content = catalog.get_content(connection, approval_id)
    assert (approval.kind, approval.state, approval.subject) == (
        KIND, State.PENDING, "tess: materialize_asset knowledge/search_index",
    )  # fmt: skip
    assert json.loads(content.data) == {
        "agent": "tess",
        "caller": "key:ada",
        "tool": "materialize_asset",
        "arguments": {"asset": "knowledge/search_index", "partition": None},
    }
