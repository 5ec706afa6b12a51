"""Questions with known answers: how well the index answers them, and a gate for new generations.

A question counts as answered by the first hit that holds, word for word, one of the passages that answer it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

from stemma.errors import CheckFailed, InvalidInput
from stemma.knowledge.generations import Gate, Generation
from stemma.knowledge.models import Hit
from stemma.knowledge.search import Searcher
from stemma.store.database import Connection
from stemma.store.settings import REPOSITORY

QUESTIONS = REPOSITORY / "samples" / "questions.yaml"
_DEPTH = 10


@dataclass(frozen=True, slots=True)
class Passage:
    """Words of a document that answer a question."""

    uri: str
    quote: str


@dataclass(frozen=True, slots=True)
class Question:
    """A question and every passage that was judged to answer it."""

    question: str
    answers: tuple[Passage, ...]

    def answered_by(self, hit: Hit) -> Passage | None:
        """The passage that this hit holds, if any."""
        held = (p for p in self.answers if p.uri == hit.citation.uri and p.quote in hit.text)
        return next(held, None)


@dataclass(frozen=True, slots=True)
class Answer:
    """What the index answered: the rank of the first hit that answers (1 is best), None when none of ten does."""

    question: str
    rank: int | None
    passage: Passage | None
    first_uri: str | None
    first_text: str | None


@dataclass(frozen=True, slots=True)
class Score:
    """How many questions were answered by the first hit and within the first three."""

    questions: int
    hit_at_1: int
    hit_at_3: int


def load_questions(path: Path = QUESTIONS) -> tuple[Question, ...]:
    """Read a YAML list of {question, answers: [{uri, quote}]}; raises InvalidInput when it is not one."""
    try:
        return tuple(
            Question(entry["question"], tuple(Passage(**answer) for answer in entry["answers"]))
            for entry in yaml.safe_load(path.read_text("utf-8"))
        )
    except (OSError, KeyError, TypeError, ValueError, yaml.YAMLError) as error:
        raise InvalidInput(
            "questions_unreadable",
            f"{path} is not a list of questions: {error}.",
            hint="Each entry has a question and answers, each with uri and quote.",
        ) from error


def ask(searcher: Searcher, questions: Iterable[Question]) -> list[Answer]:
    """Ask the active generation every question; raises what `Searcher.search` raises."""
    return [_answer(question, searcher.search(question.question, k=_DEPTH).hits) for question in questions]


def score(answers: Sequence[Answer]) -> Score:
    """Count the hits at 1 and at 3."""
    return Score(
        questions=len(answers),
        hit_at_1=sum(answer.rank == 1 for answer in answers),
        hit_at_3=sum(answer.rank is not None and answer.rank <= 3 for answer in answers),
    )


def golden_gate(searcher: Searcher, questions: Sequence[Question], *, least_hit_at_3: int) -> Gate:
    """A gate for `build_generation`: at least so many of the questions are answered within the first three hits.

    Questions about documents that this index does not hold are left out, and the bar is lowered by their number.
    """

    def gate(connection: Connection, generation: Generation) -> None:
        rows = connection.execute(
            "SELECT DISTINCT uri FROM documents WHERE NOT removed AND uri = ANY(%s)",
            ([passage.uri for question in questions for passage in question.answers],),
        ).fetchall()
        present = {uri for (uri,) in rows}
        asked = [q for q in questions if any(passage.uri in present for passage in q.answers)]
        answers = []
        for question in asked:
            ranking = searcher.rank(connection, generation, question.question)[:_DEPTH]
            answers.append(_answer(question, searcher.fetch(connection, question.question, ranking)))
        reached = score(answers).hit_at_3
        bar = least_hit_at_3 - (len(questions) - len(asked))
        if reached < bar:
            raise CheckFailed(
                "golden_questions_missed",
                f"The new index answers {reached} of {len(asked)} known questions within three hits, not {bar}.",
            )

    return gate


def _answer(question: Question, hits: Sequence[Hit]) -> Answer:
    held = ((number, question.answered_by(hit)) for number, hit in enumerate(hits, start=1))
    rank, passage = next(((number, passage) for number, passage in held if passage is not None), (None, None))
    first = hits[0] if hits else None
    return Answer(
        question=question.question,
        rank=rank,
        passage=passage,
        first_uri=first.citation.uri if first else None,
        first_text=first.text if first else None,
    )
