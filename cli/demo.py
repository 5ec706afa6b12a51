"""The demonstration: the whole graph on the samples, papers to their verdicts, a year of decisions, and questions."""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import partial

from cli import execution
from cli.governance import ASSETS, Governed, govern
from cli.output import err, say
from cli.session import commit, commit_all
from stemma.access.principal import local_principal
from stemma.governance.demonstration.happenings import happenings
from stemma.knowledge import golden, sources
from stemma.knowledge.models import Source
from stemma.knowledge.search import Searcher
from stemma.ledger.change import Change
from stemma.maps.catalog import list_layers
from stemma.maps.layers import load_layer
from stemma.maps.registration import register
from stemma.papers import intake
from stemma.papers.catalog import paper_ids
from stemma.papers.reports.leaderboard import Standing, read_leaderboard
from stemma.store.database import Connection, Database
from stemma.store.settings import REPOSITORY, Settings

SAMPLES = Source("samples", "folder", (str(REPOSITORY / "samples" / "papers"),))
LAYERS = REPOSITORY / "samples" / "maps"
# EDIT HERE: the claim sheets whose claims are measured; each takes some seconds.
PAPERS = tuple(REPOSITORY / "samples" / "papers" / f"{name}.pdf" for name in ("s1_wine_loo", "s2_fisher_iris"))


@dataclass(frozen=True, slots=True)
class DemoReport:
    """What the demonstration built, decided, reproduced, asked, and recommends to look at."""

    outcome: execution.Outcome
    governed: Governed
    papers: tuple[Standing, ...]
    answers: tuple[golden.Answer, ...]
    summary: str
    where_to_look: tuple[tuple[str, str], ...]


def run_demo(settings: Settings, database: Database) -> DemoReport:
    """Register the samples, their map layers and papers, materialize everything, decide the sample year, ask the
    sample questions.
    """
    started = time.monotonic()
    say(f"Everything is kept in {settings.home}", console=err)
    with database.snapshot() as connection:
        known = SAMPLES in sources.list_sources(connection)
    if not known:
        commit(settings, database, lambda connection: sources.register(connection, local_principal(), SAMPLES))
    _add_layers(settings, database)
    _add_papers(settings, database)
    # Decisions look for similar cases with the encoder that is made with the index.
    outcome = execution.materialize(settings, database, f"not {ASSETS}")
    governed = govern(settings, database, happenings())
    answers = golden.ask(Searcher(database, settings), golden.load_questions())
    made = [outcome] if governed.made is None else [outcome, governed.made]
    standings = database.read(read_leaderboard)
    first = sum(answer.rank == 1 for answer in answers)
    return DemoReport(
        outcome=outcome,
        governed=governed,
        papers=standings,
        answers=tuple(answers),
        summary=(
            f"{sum(len(each.built) for each in made)} materializations, "
            f"{sum(each.receipts for each in made):,} receipts, {sum(len(each.checks) for each in made)} checks, "
            f"{governed.summary.replayed:,} decisions, "
            f"{sum(one.reproduced for one in standings)} of {sum(one.targets for one in standings)} claims reproduced, "
            f"{first} of {len(answers)} questions answered by the first hit, {time.monotonic() - started:.1f} s."
        ),
        where_to_look=(
            ("ask the index", f'.venv/bin/stemma search "{answers[0].question}"' if answers else "stemma search"),
            ("see how everything stands", ".venv/bin/stemma status"),
            ("see the map layers", ".venv/bin/stemma maps layers"),
            ("see which claims are reproduced", ".venv/bin/stemma papers leaderboard"),
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


def _add_papers(settings: Settings, database: Database) -> None:
    """Take in the sample papers that are not there."""
    with database.snapshot() as connection:
        known = set(paper_ids(connection))
    for path in PAPERS:
        data = path.read_bytes()
        received = intake.receive(data, settings, source="sample", source_ref=path.name, licence="CC0-1.0")
        if intake.paper_id_of(received.sha256) not in known:
            key = intake.store(received, settings)
            commit(settings, database, partial(_record, received=received, key=key))


def _record(connection: Connection, *, received: intake.Received, key: str) -> Change[intake.Ingested]:
    return intake.record(connection, local_principal(), received, key)
