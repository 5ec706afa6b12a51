"""`stemma policy`: checking policies, publishing them, and looking at what is published."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.text import Text

from cli.output import Json, moment, out, plain, print_json, print_table, printable, say
from cli.session import commit, open_studio
from stemma.access.principal import local_principal
from stemma.errors import CheckFailed, InvalidInput, NotFound

if TYPE_CHECKING:
    from stemma.governance.checking import Checked
    from stemma.registry.differences import Difference

app = typer.Typer(help="Policies: what is decided by rule.", no_args_is_help=True)

File = Annotated[Path, typer.Argument(metavar="FILE", help="The policy; its golden cases are in NAME.tests.yaml.")]
_REFERENCE = "name, name@1, name@1.2, name@1.2.3 or name@latest"
Reference = Annotated[str, typer.Argument(metavar="REFERENCE", help=f"{_REFERENCE}.")]
Either = Annotated[str, typer.Argument(help=f"A file, or a published version: {_REFERENCE}.")]

_SUFFIX = ".yaml"
_TESTS = ".tests.yaml"


@app.command()
def validate(file: File, as_json: Json = False) -> None:
    """Check a policy and its golden cases without running these; tells everything that is wrong."""
    checked = _check(file)
    if as_json:
        print_json({"valid": checked.draft is not None, "findings": checked.findings})
    else:
        _say_findings(file, checked)
    _require_sound(checked, as_json=as_json)
    if not as_json:
        say(f"{file} says nothing wrong.")


@app.command()
def test(file: File, as_json: Json = False) -> None:
    """Run a policy's golden cases; ends with 6 when one fails."""
    from stemma.governance.golden import unused

    checked = _check(file)
    unused_rules = unused(checked.policy, checked.results) if checked.policy else ()
    if as_json:
        cases = [{**plain(result), "passed": result.passed} for result in checked.results]
        print_json({"valid": checked.valid, "findings": checked.findings, "cases": cases, "unused_rules": unused_rules})
    else:
        _say_findings(file, checked)
    _require_sound(checked, as_json=as_json)
    if not as_json:
        for result in checked.results:
            say(f"{'passed' if result.passed else 'failed'}  {result.case}")
            if result.failure:
                say(f"        {result.failure}")
        for rule in unused_rules:
            say(f"unused  {rule} answers in no case")
    if not checked.valid and as_json:
        raise typer.Exit(CheckFailed.exit_code)
    checked.require_passed()
    if not as_json:
        say(f"All {len(checked.results)} golden cases pass.")


@app.command()
def publish(file: File, as_json: Json = False) -> None:
    """Publish a version for good, once its golden cases pass. The same content again changes nothing."""
    from stemma.governance import policies
    from stemma.governance.checking import check

    policy, tests = _read(file)
    check(policy, tests).publishable()
    settings, database = open_studio()
    with database:
        published = commit(settings, database, lambda c: policies.publish(c, local_principal(), policy, tests))
    if as_json:
        print_json(published)
    else:
        say(f"{published.reference} is published.")
        say(f"sha256 {published.sha256}")


@app.command()
def simulate(
    file: File,
    variant: Annotated[str, typer.Option(help="A variant of the policy.")] = "baseline",
    last: Annotated[int, typer.Option(min=1, max=1_000_000, help="How many events, the newest.")] = 1_000,
    as_json: Json = False,
) -> None:
    """Say what a policy in a file would make of past events, beside what was decided. Its golden cases may fail."""
    from cli.learning import show_transitions
    from stemma.governance.learning.simulation import simulate as simulated

    policy = _check(file).usable()
    _, database = open_studio()
    with database:
        found = database.read(lambda connection: simulated(connection, policy, last=last, variant=variant))
    if as_json:
        print_json(found)
        return
    say(f"{found.policy}, {found.variant}: {found.events:,} events, of which {found.decided:,} were decided.")
    for title, counts in (("Verdict", found.verdicts), ("Level", found.levels), ("Rule", found.rules)):
        print_table("", (title, "events"), tuple(counts.items()), empty="No events.")
    for rule in found.unused:
        say(f"unused  {rule} answers in no event")
    show_transitions(found.comparison)


@app.command()
def diff(before: Either, after: Either, as_json: Json = False) -> None:
    """Compare two versions, published or in files, part by part."""
    from stemma.registry.differences import differences

    old, new = (_content(given, field=field) for given, field in ((before, "before"), (after, "after")))
    found = differences(old, new)
    if as_json:
        print_json(found)
        return
    for difference in found:
        _say_difference(difference)
    if not found:
        say("They say the same.")


@app.command()
def show(reference: Reference, as_json: Json = False) -> None:
    """Show what a reference resolves to."""
    from stemma.governance import policies

    _, database = open_studio()
    with database:
        published = database.read(lambda connection: policies.find(connection, reference))
    if as_json:
        print_json(published)
        return
    out.print(Text(published.reference, style="bold"))
    facts = {
        "sha256": published.sha256,
        "published": f"{moment(published.published_at)} by {published.published_by}",
        "changelog": published.changelog,
    }
    for name, value in facts.items():
        out.print(Text(f"  {name:<9} ", style="dim") + Text(printable(value)), soft_wrap=True)
    say(json.dumps(published.content["policy"], ensure_ascii=False, indent=2))


@app.command("list")
def list_policies(
    name: Annotated[str | None, typer.Argument(help="All versions of this policy; else the newest of each.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=200, help="How many.")] = 50,
    cursor: Annotated[str | None, typer.Option(help="`next_cursor` of the page before.")] = None,
    as_json: Json = False,
) -> None:
    """List the published policies, or the versions of one."""
    from stemma.governance.policies import KIND
    from stemma.registry import catalog

    _, database = open_studio()
    with database:
        page = database.read(
            lambda connection: (
                catalog.list_newest(connection, KIND, cursor=cursor, limit=limit)
                if name is None
                else catalog.list_versions(connection, KIND, name, cursor=cursor, limit=limit)
            )
        )
    if as_json:
        print_json(page)
        return
    rows = [(v.name, v.version, moment(v.published_at), v.published_by, v.changelog) for v in page.data]
    print_table("Policies", ("name", "version", "published", "by", "changelog"), rows, empty="No policies.")
    if page.next_cursor:
        out.print(Text(f"more: --cursor {page.next_cursor}", style="dim"), soft_wrap=True)


def _check(file: Path) -> Checked:
    from stemma.governance.checking import check

    return check(*_read(file))


def _read(file: Path) -> tuple[str, str]:
    """The texts of a policy and of the golden cases beside it."""
    beside = file.with_name(file.name.removesuffix(_SUFFIX) + _TESTS)
    return _text(file), _text(beside)


def _text(file: Path) -> str:
    try:
        return file.read_text("utf-8")
    except FileNotFoundError as error:
        hint = f"A policy is in NAME{_SUFFIX}, its golden cases beside it in NAME{_TESTS}."
        raise NotFound("file_missing", f"There is no file {file}.", field="FILE", hint=hint) from error
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidInput("file_unreadable", f"{file} cannot be read as UTF-8 text.", field="FILE") from error


def _content(given: str, *, field: str) -> Any:
    """What a file would publish, or what a reference resolves to."""
    from stemma.governance import policies

    if given.endswith(_SUFFIX):
        checked = _check(Path(given))
        if checked.draft is None:
            raise InvalidInput("policy_invalid", f"{given}: {checked.findings[0]}", field=field)
        return checked.draft.content
    _, database = open_studio()
    with database:
        return database.read(lambda connection: policies.find(connection, given)).content


def _say_findings(file: Path, checked: Checked) -> None:
    from stemma.governance.checking import TESTS

    beside = file.with_name(file.name.removesuffix(_SUFFIX) + _TESTS)
    for finding in checked.findings:
        where = f":{finding.line}:{finding.column}" if finding.line else ""
        path = f"{finding.path}: " if finding.path else ""
        say(f"{beside if finding.text == TESTS else file}{where}: {path}{finding.message}")


def _require_sound(checked: Checked, *, as_json: bool) -> None:
    """End here, with the exit code of bad input, where there are findings; they have been told."""
    if not checked.findings:
        return
    if as_json:
        raise typer.Exit(InvalidInput.exit_code)
    count = len(checked.findings)
    raise InvalidInput("policy_invalid", f"{count} thing{'s are' if count > 1 else ' is'} wrong.")


def _say_difference(difference: Difference) -> None:
    say(f"{difference.step}  {difference.path or '/'}")
    for sign, value in (("-", difference.before), ("+", difference.after)):
        if value is not None:
            say(f"  {sign} {json.dumps(value, ensure_ascii=False)}")
