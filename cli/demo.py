"""The demonstration: the whole graph on the samples, a year of decisions, and questions whose answers must be found."""

from __future__ import annotations

import time
from dataclasses import dataclass

from cli import execution
from cli.governance import ASSETS, Governed, govern
from cli.output import err, say
from cli.session import commit, commit_all
from stemma.access.principal import local_principal
from stemma.governance.demonstration.happenings import happenings
from stemma.knowledge import golden, sources
from stemma.knowledge.models import Source
from stemma.knowledge.search import Searcher
from stemma.maps.catalog import list_layers
from stemma.maps.layers import load_layer
from stemma.maps.registration import register
from stemma.store.database import Database
from stemma.store.settings import REPOSITORY, Settings

SAMPLES = Source("samples", "folder", (str(REPOSITORY / "samples" / "papers"),))
LAYERS = REPOSITORY / "samples" / "maps"


@dataclass(frozen=True, slots=True)
class DemoReport:
    """What the demonstration built, decided, asked, and recommends to look at."""

    outcome: execution.Outcome
    governed: Governed
    answers: tuple[golden.Answer, ...]
    summary: str
    where_to_look: tuple[tuple[str, str], ...]


def run_demo(settings: Settings, database: Database) -> DemoReport:
    """Register the samples and their map layers, materialize everything, decide the sample year, ask the sample
    questions.
    """
    started = time.monotonic()
    say(f"Everything is kept in {settings.home}", console=err)
    with database.snapshot() as connection:
        known = SAMPLES in sources.list_sources(connection)
    if not known:
        commit(settings, database, lambda connection: sources.register(connection, local_principal(), SAMPLES))
    _add_layers(settings, database)
    # Decisions look for similar cases with the encoder that is made with the index.
    outcome = execution.materialize(settings, database, f"not {ASSETS}")
    governed = govern(settings, database, happenings())
    answers = golden.ask(Searcher(database, settings), golden.load_questions())
    made = [outcome] if governed.made is None else [outcome, governed.made]
    first = sum(answer.rank == 1 for answer in answers)
    return DemoReport(
        outcome=outcome,
        governed=governed,
        answers=tuple(answers),
        summary=(
            f"{sum(len(each.built) for each in made)} materializations, "
            f"{sum(each.receipts for each in made):,} receipts, {sum(len(each.checks) for each in made)} checks, "
            f"{governed.summary.replayed:,} decisions, "
            f"{first} of {len(answers)} questions answered by the first hit, {time.monotonic() - started:.1f} s."
        ),
        where_to_look=(
            ("ask the index", f'.venv/bin/stemma search "{answers[0].question}"' if answers else "stemma search"),
            ("see how everything stands", ".venv/bin/stemma status"),
            ("see the map layers", ".venv/bin/stemma maps layers"),
            ("trace the index to its sources", ".venv/bin/stemma receipt show knowledge/search_index"),
            ("decide what waits for a person", ".venv/bin/stemma decisions review --node finance"),
            ("see what was learned", ".venv/bin/stemma learning show finance"),
            ("serve the API and the Dagster UI", "make up"),
        ),
    )


def _add_layers(settings: Settings, database: Database) -> None:
    """Add the sample layers that are not there as they are described."""
    layers = [load_layer(path) for path in sorted(LAYERS.glob("*.yaml"))]
    with database.snapshot() as connection:
        known = {registered.id: registered.layer for registered in list_layers(connection)}
    new = [layer for layer in layers if known.get(layer.id) != layer]
    if new:
        commit_all(
            settings,
            database,
            lambda connection: [register(connection, local_principal(), layer, folder=LAYERS) for layer in new],
        )
