"""`stemma llm`: asking a model, and how the providers of models stand."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any
from uuid import uuid4

import typer

from cli.output import Json, moment, out, print_json, print_table, printable, say
from cli.session import open_studio
from stemma.access.principal import local_principal
from stemma.errors import InvalidInput

if TYPE_CHECKING:
    from stemma.llm.model import Finished

app = typer.Typer(help="Models: asking one, and who provides them.", no_args_is_help=True)

_ROUTE = "cli llm run"


@app.command()
def run(
    question: Annotated[str, typer.Argument(help="What to ask; - reads it from standard input.")],
    provider: Annotated[
        list[str] | None, typer.Option(help="Only this provider; may be given more than once, in the order of trying.")
    ] = None,
    model: Annotated[str | None, typer.Option(help="The model, instead of the provider's own.")] = None,
    schema: Annotated[Path | None, typer.Option(help="File with a JSON Schema that the answer has to satisfy.")] = None,
    max_tokens: Annotated[int, typer.Option(min=1, help="Tokens of the answer, at most.")] = 2048,
    timeout: Annotated[float, typer.Option(min=1, help="Seconds in all.")] = 120.0,
    as_json: Json = False,
) -> None:
    """Ask a model; without one, the studio's own documents are quoted."""
    from stemma.llm.blocking import open_models
    from stemma.llm.model import Caller, Delta, Finished, Message, Prompt, Restarted

    asked = sys.stdin.read() if question == "-" else question
    prompt = Prompt(
        (Message("user", asked),),
        model=model,
        providers=tuple(provider or ()),
        schema=_read(schema),
        max_tokens=max_tokens,
        timeout=timeout,
    )
    caller = Caller(local_principal().actor, _ROUTE, "run", uuid4().hex)
    settings, database = open_studio()
    with database, open_models(settings, database) as models:
        if as_json:
            completion = models.complete_sync(prompt, caller)
            print_json({"text": completion.text, **_plain(completion.finished)})
            return
        for part in models.stream_sync(prompt, caller):
            if isinstance(part, Delta):
                out.print(printable(part.text), end="", markup=False, soft_wrap=True)
            elif isinstance(part, Restarted):
                say(f"\n\n({part.provider} broke off: {part.reason}. Another one begins anew.)\n")
            elif isinstance(part, Finished):
                say(f"\n{_how(part)}")


@app.command()
def providers(as_json: Json = False) -> None:
    """Show the providers in the order in which they are asked, and how they stand now."""
    from stemma.llm.blocking import open_models

    settings, database = open_studio()
    with database, open_models(settings, database) as models:
        found = models.look()
    if as_json:
        print_json([{"name": name, **_fields(standing)} for name, standing in found.items()])
        return
    rows = [
        (name, standing.state, standing.detail, ", ".join(standing.models[:5]), moment(standing.checked_at))
        for name, standing in found.items()
    ]
    print_table("Providers", ("name", "state", "why", "models", "looked at"), rows, empty="There are none.")


def _read(path: Path | None) -> dict[str, Any] | None:
    if path is None:
        return None
    try:
        document = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        what = f"{path} cannot be read as JSON: {error}."
        raise InvalidInput("schema_unusable", what, field="--schema") from error
    if not isinstance(document, dict):
        raise InvalidInput("schema_unusable", "It is no JSON object.", field="--schema")
    return document


def _fields(value: Any) -> dict[str, Any]:
    return {name: getattr(value, name) for name in value.__slots__}


def _plain(finished: Finished) -> dict[str, Any]:
    """What an answer ended with; of its sources, where they stand."""
    cost = None if finished.cost is None else str(finished.cost)
    return {**_fields(finished), "cost": cost, "citations": [hit.citation for hit in finished.citations]}


def _how(finished: Finished) -> str:
    usage = finished.usage
    cost = "cost unknown" if finished.cost is None else f"{finished.cost.normalize():f} US dollars"
    counted = "" if usage.counted == "provider" else ", estimated"
    tokens = f"{usage.tokens_in:,} tokens in, {usage.tokens_out:,} out{counted}"
    return f"{finished.provider} · {finished.model} · {tokens} · {cost} · {finished.latency_ms / 1000:.2f} s"
