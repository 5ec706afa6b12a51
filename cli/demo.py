"""The demonstration: the whole graph on the samples, then questions whose answers must be found."""

from __future__ import annotations

import time
from dataclasses import dataclass

from cli import execution
from cli.output import err, say
from cli.session import commit
from stemma.access.principal import local_principal
from stemma.knowledge import golden, sources
from stemma.knowledge.models import Source
from stemma.knowledge.search import Searcher
from stemma.store.database import Database
from stemma.store.settings import REPOSITORY, Settings

SAMPLES = Source("samples", "folder", (str(REPOSITORY / "samples" / "papers"),))


@dataclass(frozen=True, slots=True)
class DemoReport:
    """What the demonstration built, asked and recommends to look at."""

    outcome: execution.Outcome
    answers: tuple[golden.Answer, ...]
    summary: str
    where_to_look: tuple[tuple[str, str], ...]


def run_demo(settings: Settings, database: Database) -> DemoReport:
    """Register the samples, materialize everything, ask the sample questions."""
    started = time.monotonic()
    say(f"Everything is kept in {settings.home}", console=err)
    with database.snapshot() as connection:
        known = SAMPLES in sources.list_sources(connection)
    if not known:
        commit(settings, database, lambda connection: sources.register(connection, local_principal(), SAMPLES))
    outcome = execution.materialize(settings, database, "*")
    answers = golden.ask(Searcher(database, settings), golden.load_questions())
    first = sum(answer.rank == 1 for answer in answers)
    return DemoReport(
        outcome=outcome,
        answers=tuple(answers),
        summary=(
            f"{len(outcome.built)} materializations, {outcome.receipts} receipts, {len(outcome.checks)} checks, "
            f"{first} of {len(answers)} questions answered by the first hit, {time.monotonic() - started:.1f} s."
        ),
        where_to_look=(
            ("ask the index", f'.venv/bin/stemma search "{answers[0].question}"' if answers else "stemma search"),
            ("see how everything stands", ".venv/bin/stemma status"),
            ("trace the index to its sources", ".venv/bin/stemma receipt show knowledge/search_index"),
            ("serve the API and the Dagster UI", "make up"),
        ),
    )
