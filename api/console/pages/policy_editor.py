"""Writing a policy: its text is checked as it is typed, compared and simulated before it is published."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Final

from fastapi import APIRouter, Form, Query, Request, Response
from starlette.concurrency import run_in_threadpool

from api.access import allow
from api.console import words
from api.console.forms import FormOnceDep, kept, new_token, redirect
from api.console.rendering import render
from api.deps import DatabaseDep, LedgerDep
from api.limits import limited
from stemma.access.principal import Principal
from stemma.errors import StemmaError
from stemma.governance import golden, policies
from stemma.governance.checking import POLICY, TESTS, Checked, Finding, check
from stemma.governance.learning.simulation import simulate
from stemma.governance.policies import Texts
from stemma.registry.differences import differences
from stemma.registry.model import Published

router = APIRouter(prefix="/policies", route_class=limited("console"), include_in_schema=False)

_STARTER: Final = Path(__file__).parents[1] / "starters"
_MOST_SHOWN: Final = 160
_SIMULATED: Final = 200

WriterDep = Annotated[Principal, allow("decide:write")]
PublisherDep = Annotated[Principal, allow("decide:publish")]
TextField = Annotated[str, Form()]


@router.get("/-/edit")
def edit(
    request: Request,
    principal: WriterDep,
    database: DatabaseDep,
    of: Annotated[str | None, Query(max_length=200)] = None,
) -> Response:
    """A published version to be written on, or the start of a policy."""
    texts = database.read(lambda connection: policies.next_texts(connection, of)) if of else _starter()
    return _editor(request, principal, texts)


@router.post("/-/check")
def check_texts(request: Request, principal: WriterDep, policy: TextField = "", tests: TextField = "") -> Response:
    """The editor with everything that is wrong; scripts ask for it at each pause and take that part alone."""
    return _editor(request, principal, _texts(policy, tests))


@router.post("/-/review")
def review(
    request: Request, principal: WriterDep, database: DatabaseDep, policy: TextField = "", tests: TextField = ""
) -> Response:
    """What publishing would change, or the editor where something is wrong."""
    texts = _texts(policy, tests)
    checked = check(texts.policy, texts.tests)
    if checked.draft is None or checked.policy is None or not checked.valid:
        return _editor(request, principal, texts, checked, status=422)
    draft = checked.draft
    with database.snapshot() as connection:
        before = policies.before(connection, draft)
        simulation = simulate(connection, checked.policy, last=_SIMULATED)
    return render(
        request,
        "pages/policy_review.html",
        store=False,
        texts=texts,
        draft=draft,
        before=before,
        found=differences(before.content, draft.content) if before else (),
        results=checked.results,
        unused=golden.unused(checked.policy, checked.results),
        simulation=simulation,
        once=new_token(),
        may_publish=principal.may("decide:publish"),
    )


@router.post("")
async def publish(
    request: Request,
    principal: PublisherDep,
    once: FormOnceDep,
    database: DatabaseDep,
    ledger: LedgerDep,
    policy: TextField = "",
    tests: TextField = "",
) -> Response:
    """Publishes it for good, or shows the editor with what is in the way."""
    texts = _texts(policy, tests)
    try:
        change = await run_in_threadpool(
            database.read, lambda c: policies.publish(c, principal, texts.policy, texts.tests)
        )
        published = await once.write(ledger, change, kept=lambda done: kept(_published(done)))
    except StemmaError as error:
        return await run_in_threadpool(_editor, request, principal, texts, error=error, status=error.status)
    return _published(published)


def _published(published: Published) -> Response:
    said = f"{published.reference} is published. Decisions by {published.name} follow it from now on."
    return redirect(f"/policies/{published.reference}", said=said)


def _texts(policy: str, tests: str) -> Texts:
    """The texts as they were typed: browsers send line ends as CR LF."""
    return Texts(policy.replace("\r\n", "\n"), tests.replace("\r\n", "\n"))


def _starter() -> Texts:
    return Texts(*((_STARTER / name).read_text("utf-8") for name in ("policy.yaml", "policy.tests.yaml")))


def _editor(
    request: Request,
    principal: Principal,
    texts: Texts,
    checked: Checked | None = None,
    *,
    error: StemmaError | None = None,
    status: int = 200,
) -> Response:
    checked = checked or check(texts.policy, texts.tests)
    lines = {POLICY: texts.policy.split("\n"), TESTS: texts.tests.split("\n")}
    return render(
        request,
        "pages/policy_edit.html",
        status=status,
        store=False,
        texts=texts,
        checked=checked,
        findings=[(finding, _excerpt(lines[finding.text], finding)) for finding in checked.findings],
        unused=golden.unused(checked.policy, checked.results) if checked.policy else (),
        levels=words.LEVELS,
        error=error,
    )


def _excerpt(lines: list[str], finding: Finding) -> dict[str, Any] | None:
    """The line that a finding is about, with what stands before its column apart."""
    if finding.line is None or finding.column is None or finding.line > len(lines):
        return None
    line, at = lines[finding.line - 1], finding.column - 1
    return {"before": line[:at], "at": line[at : at + _MOST_SHOWN]}
