"""`stemma papers`: taking in papers, what they claim, and the plans to reproduce it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any
from uuid import UUID, uuid4

import typer

from cli import paper_reports
from cli.output import Json, moment, print_json, print_table, say
from cli.session import commit, open_studio
from stemma.access.principal import local_principal
from stemma.errors import InvalidInput, StemmaError

if TYPE_CHECKING:
    from stemma.papers.intake import Ingested, Received
    from stemma.papers.model import Claim, Plan
    from stemma.papers.review import ClaimEdit
    from stemma.store.database import Database
    from stemma.store.settings import Settings

app = typer.Typer(help="Papers, what they claim, and plans to reproduce it.", no_args_is_help=True)

PaperId = Annotated[UUID, typer.Argument(metavar="PAPER", help="The paper's id.")]
ClaimId = Annotated[UUID, typer.Argument(metavar="CLAIM", help="The claim's id.")]
Licence = Annotated[str | None, typer.Option(help="Under which licence they may be kept.")]


@app.command()
def add(
    what: Annotated[list[str], typer.Argument(metavar="PDF…", help="PDFs, folders of PDFs, or URLs.")],
    licence: Licence = None,
    as_json: Json = False,
) -> None:
    """Take in papers; one that cannot be read is named, and the others are taken in."""
    settings, database = open_studio()
    ingested: list[Ingested] = []
    failures: list[tuple[str, StemmaError]] = []
    with database:
        for name, receive in _sources(what, settings, licence, failures):
            try:
                ingested.append(_take_in(settings, database, receive()))
            except StemmaError as error:
                failures.append((name, error))
    if as_json and not failures:
        print_json(ingested)
    for item in [] if as_json and not failures else ingested:
        already = "" if item.status == "created" else " (it was there already)"
        say(f"{item.paper.id}  {item.paper.title}, {item.paper.pages} pages{already}")
    if not as_json and any(item.paper.pages_key is None for item in ingested):
        say("`stemma up` reads and plans them by itself; `stemma papers materialize PAPER` does it now.")
    for name, error in failures[1:]:
        say(f"{name}: {error}")
    if failures:
        name, error = failures[0]
        error.message = f"{name}: {error.message}"
        raise error


def _sources(what: list[str], settings: Settings, licence: str | None, failures: list[tuple[str, StemmaError]]) -> Any:
    """What is to be taken in: a name, and what reads it."""
    from stemma.papers import intake

    for item in what:
        if item.startswith(("https://", "http://")):
            yield item, lambda url=item: intake.receive_url(url, settings, licence=licence)
            continue
        try:
            files = intake.files_in(Path(item))
        except StemmaError as error:
            failures.append((item, error))
            continue
        for file in files:
            yield str(file), lambda path=file: intake.receive_file(path, settings, licence=licence)


def _take_in(settings: Settings, database: Database, received: Received) -> Ingested:
    from stemma.papers import intake

    key = intake.store(received, settings)
    return commit(settings, database, lambda connection: intake.record(connection, local_principal(), received, key))


@app.command("list")
def list_papers(
    limit: Annotated[int, typer.Option(min=1, max=200, help="How many.")] = 50,
    cursor: Annotated[str | None, typer.Option(help="`next_cursor` of the page before.")] = None,
    as_json: Json = False,
) -> None:
    """Show the papers, the newest first."""
    from stemma.papers import catalog

    _, database = open_studio()
    with database:
        page = database.read(lambda connection: catalog.list_papers(connection, cursor=cursor, limit=limit))
    if as_json:
        print_json(page)
        return
    rows = [(p.id, p.title, p.kind, p.pages, p.error_code or p.status, moment(p.created_at)) for p in page.data]
    columns = ("id", "title", "kind", "pages", "status", "taken in")
    print_table("Papers", columns, rows, empty="No papers. `stemma papers add PDF` takes one in.")


@app.command()
def materialize(paper: PaperId, as_json: Json = False) -> None:
    """Read a paper, find what it claims, and plan how to reproduce that: all steps, one after the other."""
    _run(paper, 'group:papers and +key:"papers/plan"', as_json=as_json)


@app.command()
def extract(paper: PaperId, as_json: Json = False) -> None:
    """Read a paper again and find what it claims; what a person decided stays."""
    _run(paper, 'group:papers and +key:"papers/claims"', as_json=as_json)


@app.command()
def ask(
    paper: PaperId,
    for_plan: Annotated[bool, typer.Option("--plan", help="Have it write a plan, instead of finding claims.")] = False,
    as_json: Json = False,
) -> None:
    """Have a model propose claims that the rules did not find, for a person to accept; or a plan, with --plan."""
    from stemma.llm.blocking import open_models
    from stemma.llm.model import Caller
    from stemma.papers import catalog, steps
    from stemma.papers.asking import ask_for_plan
    from stemma.papers.claims.asking import ask_for_claims
    from stemma.papers.planning import plan_by_model
    from stemma.store.files import FileStore

    principal = local_principal()
    principal.require("papers:write")
    settings, database = open_studio()
    with database, open_models(settings, database) as models:
        with database.snapshot() as connection:
            found = catalog.get_paper(connection, paper)
            known = catalog.list_claims(connection, paper)
        caller = Caller(principal.actor, "cli papers ask", "plan" if for_plan else "claims", uuid4().hex)
        if for_plan:
            document = ask_for_plan(found, known, models.complete_sync, caller)
            made = commit(settings, database, lambda connection: plan_by_model(connection, principal, found, document))
            _show_plan(made, as_json=as_json)
            return
        pages = steps.stored_pages(FileStore.open_default(settings), found)
        asked = ask_for_claims(pages, models.complete_sync, caller)
        new = commit(
            settings,
            database,
            lambda connection: steps.claims_proposed(
                connection, found, asked.claims, actor=principal.actor, model=asked.model
            ),
        )
    if as_json:
        print_json({"model": asked.model, "found": asked.claims, "new": new, "dropped": asked.dropped})
    else:
        say(
            f"{asked.model} found {len(asked.claims)} claims that hold, {new} of them new; {asked.dropped} do not hold."
        )


@app.command()
def attach(paper: PaperId, as_json: Json = False) -> None:
    """Send a paper to OpenAI's File Search; needs FF_PAID_PROVIDERS and a key."""
    from stemma.papers import catalog, file_search
    from stemma.store.files import FileStore

    principal = local_principal()
    settings, database = open_studio()
    with database:
        found = database.read(lambda connection: catalog.get_paper(connection, paper))
        data = FileStore.open_default(settings).read(found.file_key)
        attached = file_search.attach(found, data, settings)
        commit(settings, database, lambda connection: file_search.recorded(connection, principal, found, attached))
    if as_json:
        print_json(attached)
    else:
        say(f"{found.title} is file {attached.file} in vector store {attached.vector_store}.")


@app.command()
def claims(paper: PaperId, as_json: Json = False) -> None:
    """Show what a paper claims, each with its page and its quote."""
    from stemma.papers import catalog

    _, database = open_studio()
    with database, database.snapshot() as connection:
        found = catalog.get_paper(connection, paper)
        claimed = catalog.list_claims(connection, paper)
    if as_json:
        print_json(claimed)
        return
    rows = [
        (c.id, c.metric, f"{c.printed}{c.unit or ''}", c.dataset or "", c.method or "", c.page, c.status)
        for c in claimed
    ]
    columns = ("id", "metric", "value", "dataset", "method", "page", "status")
    print_table(found.title, columns, rows, empty=f"No claims. `stemma papers extract {paper}` looks for them.")


@app.command()
def accept(claim: ClaimId, as_json: Json = False) -> None:
    """Accept a claim: it is planned for."""
    from stemma.papers.review import ClaimEdit

    _edit(claim, ClaimEdit(status="accepted"), as_json=as_json)


@app.command()
def reject(claim: ClaimId, as_json: Json = False) -> None:
    """Reject a claim: it is no claim of the paper."""
    from stemma.papers.review import ClaimEdit

    _edit(claim, ClaimEdit(status="rejected"), as_json=as_json)


@app.command()
def edit(
    claim: ClaimId,
    metric: Annotated[str | None, typer.Option(help="What it measures.")] = None,
    printed: Annotated[str | None, typer.Option(help="The value as the page prints it.")] = None,
    page: Annotated[int | None, typer.Option(min=1, help="The page that prints it.")] = None,
    unit: Annotated[str | None, typer.Option(help="Its unit; empty for none.")] = None,
    dataset: Annotated[str | None, typer.Option(help="On which data; empty for none.")] = None,
    method: Annotated[str | None, typer.Option(help="By which method; empty for none.")] = None,
    split: Annotated[str | None, typer.Option(help="On which part of the data; empty for none.")] = None,
    as_json: Json = False,
) -> None:
    """Mend a claim; a value that its page does not print is refused."""
    from stemma.papers.review import ClaimEdit

    wanted = ClaimEdit(metric, printed, page, unit, dataset, method, split)
    _edit(claim, wanted, as_json=as_json)


def _edit(claim_id: UUID, wanted: ClaimEdit, *, as_json: bool) -> None:
    from stemma.papers import catalog, review, steps
    from stemma.store.files import FileStore

    settings, database = open_studio()
    with database:
        with database.snapshot() as connection:
            claim = catalog.get_claim(connection, claim_id)
            paper = catalog.get_paper(connection, claim.paper_id)
        read = steps.stored_pages(FileStore.open_default(settings), paper)
        seen = frozenset({claim.etag})
        edited: Claim = commit(
            settings,
            database,
            lambda connection: review.edit_claim(connection, local_principal(), claim_id, wanted, read, seen=seen),
        )
    if as_json:
        print_json(edited)
    else:
        say(f"{edited.metric} {edited.printed} on page {edited.page} is {edited.status}, revision {edited.revision}.")


@app.command()
def plan(
    paper: PaperId,
    show: Annotated[bool, typer.Option("--show", help="Show the plan that counts, and make none.")] = False,
    file: Annotated[
        Path | None, typer.Option("--from", help="Keep this JSON document as the plan, instead of a template's.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Plan how to reproduce what a paper claims."""
    if show and file:
        raise InvalidInput("options_conflict", "--show makes no plan, --from does.", field="--show")
    if file is not None:
        _show_plan(_write_plan(paper, file), as_json=as_json)
        return
    if not show:
        _run(paper, 'key:"papers/plan"', as_json=as_json)
        return
    from stemma.papers import catalog, planning

    _, database = open_studio()
    with database, database.snapshot() as connection:
        catalog.get_paper(connection, paper)
        found = planning.require_plan(catalog.latest_plan(connection, paper), paper)
    _show_plan(found, as_json=as_json)


def _write_plan(paper: UUID, file: Path) -> Plan:
    from stemma.papers import planning
    from stemma.store.files import read_local

    try:
        document = json.loads(read_local(file))
    except (ValueError, RecursionError) as error:
        raise InvalidInput("plan_invalid", f"{file.name} is not JSON: {error}.", field="--from") from error
    settings, database = open_studio()
    with database:
        return commit(
            settings,
            database,
            lambda connection: planning.write_plan(connection, local_principal(), paper, document),
        )


def _show_plan(found: Plan, *, as_json: bool) -> None:
    from stemma.papers.plan import parse_plan
    from stemma.papers.planning import missing_packages

    document = parse_plan(found.document)
    if as_json:
        print_json({"plan": found, "missing_packages": missing_packages(document)})
        return
    rows = [(t.metric, t.split, t.printed, t.unit or "", t.page, t.label) for t in document.targets]
    columns = ("metric", "split", "claimed", "unit", "page", "what")
    print_table(f"{document.method.name} on {document.dataset.name}", columns, rows, empty="")
    for alternative in document.alternatives:
        say(f"or {alternative.name}: {alternative.description}")
    say(f"Version {found.version} by {found.template or 'a plan of its own'}, {found.id}.")
    if missing := missing_packages(document):
        say(f"It cannot be run here: {', '.join(missing)} is not installed.")


@app.command()
def run(
    paper: PaperId,
    alternative: Annotated[str | None, typer.Option(help="One of the plan's alternatives, by name.")] = None,
    again: Annotated[bool, typer.Option("--again", help="Also where a run of this plan stands.")] = False,
    as_json: Json = False,
) -> None:
    """Execute the notebook of a paper's newest plan in a sandbox, here and now."""
    from stemma.papers import catalog, planning
    from stemma.papers.runs import lifecycle

    if again or alternative is not None:
        settings, database = open_studio()
        with database:
            with database.snapshot() as connection:
                catalog.get_paper(connection, paper)
                plan_id = planning.require_plan(catalog.latest_plan(connection, paper), paper).id
            commit(
                settings,
                database,
                lambda connection: lifecycle.create(connection, local_principal(), plan_id, alternative=alternative),
            )
    _run(paper, "papers/run", as_json=as_json)


@app.command()
def runs(paper: PaperId, as_json: Json = False) -> None:
    """List a paper's runs, the newest first."""
    from stemma.papers import catalog
    from stemma.papers.runs.catalog import list_runs

    _, database = open_studio()
    with database, database.snapshot() as connection:
        catalog.get_paper(connection, paper)
        page = list_runs(connection, paper)
    if as_json:
        print_json(page)
        return
    print_table(
        "Runs",
        ("id", "status", "alternative", "sandbox", "asked", "reason"),
        [
            (str(r.id), r.status, r.alternative or "", r.sandbox or "", moment(r.created_at), r.error_message or "")
            for r in page.data
        ],
        empty="No runs. `stemma papers run PAPER` makes one.",
    )


@app.command()
def cancel(run_id: Annotated[UUID, typer.Argument(metavar="RUN", help="The run's id.")], as_json: Json = False) -> None:
    """Cancel a run: at once while it waits, else its cell is interrupted."""
    from stemma.papers.runs.lifecycle import cancel as cancelled

    settings, database = open_studio()
    with database:
        asked = commit(settings, database, lambda connection: cancelled(connection, local_principal(), run_id))
    if as_json:
        print_json(asked)
    else:
        say(f"Run {asked.id} is {'cancelled' if asked.status.is_final else 'being cancelled'}.")


def _run(paper: UUID, selection: str, *, as_json: bool) -> None:
    from cli import execution
    from cli.graph import print_outcome
    from stemma.papers import catalog

    settings, database = open_studio()
    with database:
        with database.snapshot() as connection:
            catalog.get_paper(connection, paper)
        outcome = execution.materialize(settings, database, selection, str(paper))
    if as_json:
        print_json(outcome)
    else:
        print_outcome(outcome)


paper_reports.add_commands(app)
