"""`offline`: no model at all. It quotes what the knowledge index says about the last question, and says that it does.

It is deterministic for one state of the index, costs nothing, and opens no connection but to the studio's database.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from math import log
from types import TracebackType
from typing import TYPE_CHECKING, Final, Self

from stemma.errors import Unavailable
from stemma.knowledge.models import Hit
from stemma.llm.model import Message
from stemma.llm.providers.base import Ended, Feature, Request, Standing
from stemma.llm.providers.patience import Patience

if TYPE_CHECKING:
    from stemma.knowledge.search import Searcher

NAME: Final = "offline"
MODEL: Final = "extractive-1"
PREFACE: Final = "Offline: no model was asked. This is what the studio's own documents say."
NOTHING: Final = "Offline: no model was asked, and the studio's own documents say nothing about this."
NO_INDEX: Final = "Offline: no model was asked, and the studio has read no documents yet."

_HITS: Final = 8
_SOURCES: Final = 4
_PASSAGES: Final = 5
_LONGEST_QUESTION: Final = 2000
_SHORTEST_PASSAGE: Final = 60
_LONGEST_PASSAGE: Final = 600
_HEADING_WEIGHT: Final = 0.5
_USUAL_WORDS: Final = 8
_LEAST_SHARE: Final = 0.3
_THREADS: Final = 4
_CHARACTERS_PER_TOKEN: Final = 4
_SENTENCE: Final = re.compile(r"(?<=[.!?:])\s+(?=[\w\"'“(`*\[#-])|\n\s*\n|\n(?=\s*(?:[-*#>|]|\d+[.)]\s))")
_WORD: Final = re.compile(r"\w{2,}")
_QUESTION_WORDS: Final = frozenset({
    "about", "after", "all", "also", "an", "and", "any", "are", "as", "at", "be", "been", "but", "by", "can", "could",
    "do", "does", "did", "for", "from", "get", "give", "had", "has", "have", "how", "if", "in", "into", "is", "it",
    "its", "me", "my", "no", "not", "of", "on", "one", "or", "our", "please", "shall", "should", "so", "some", "tell",
    "than", "that", "the", "their", "them", "then", "there", "these", "they", "this", "those", "to", "up", "us",
    "use", "was", "we", "were", "what", "when", "where", "which", "who", "why", "will", "with", "would", "you",
    "your",
})  # fmt: skip


class Offline:
    """The provider; `async with` opens it."""

    name = NAME

    def __init__(self, searcher: Searcher) -> None:
        self._searcher = searcher

    async def __aenter__(self) -> Self:
        # Apart from the threads that serve requests: a burst of offline answers takes none of those.
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="offline")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)

    @property
    def model(self) -> str:
        """The one there is."""
        return MODEL

    @property
    def standing(self) -> Standing:
        """It is always there."""
        return Standing("ready", "It quotes the index and asks no model.", (MODEL,))

    def has(self, feature: Feature, model: str) -> bool:
        """It reads no instructions: what is told to it directly, it leaves alone."""
        return True

    async def look(self) -> Standing:
        """The same."""
        return self.standing

    async def ask(self, request: Request, patience: Patience) -> AsyncGenerator[str | Ended, None]:
        """Quote the index; raises Unavailable where it or the database cannot be read."""
        question = _question(request.messages)
        hits: tuple[Hit, ...] = ()
        if question:
            search = self._threads.submit(self._searcher.search, question, k=_HITS)
            try:
                hits = (await patience.wait(asyncio.wrap_future(search))).hits
            except Unavailable as error:
                if error.code != "index_missing":
                    raise
                yield NO_INDEX
                yield Ended("stop", None)
                return
        passages = _chosen(question, hits)
        cited = tuple(dict.fromkeys(passage.hit for passage in passages))
        left, cut = request.max_tokens * _CHARACTERS_PER_TOKEN, False
        for part in _told(passages, cited):
            cut = len(part) > left
            if cut:
                break
            left -= len(part)
            yield part
        yield Ended("length" if cut else "stop", None, citations=cited)


def _question(messages: Sequence[Message]) -> str:
    """The last thing a user said, as long as a search may be."""
    asked = next((message.text for message in reversed(messages) if message.speaker == "user"), "")
    return asked.replace("\0", " ").strip()[-_LONGEST_QUESTION:].strip()


@dataclass(frozen=True, slots=True)
class _Passage:
    hit: Hit
    place: int
    text: str
    weight: float


def _chosen(question: str, hits: Sequence[Hit]) -> list[_Passage]:
    """The passages that say most of what is asked, of few documents, in the order of the hits and their texts."""
    asked = _terms(question)
    split = [(hit, place, text) for hit in hits for place, text in enumerate(_passages(hit.text))]
    own = [_terms(text) for _, _, text in split]
    above = [_terms(" ".join((hit.citation.title, *hit.citation.heading_path))) for hit, _, _ in split]
    rarity = {
        term: log(
            1 + len(split) / sum(term in words or term in titles for words, titles in zip(own, above, strict=True))
        )
        for term in asked & set().union(*own, *above)
    }
    rated = []
    for (hit, place, text), words, titles in zip(split, own, above, strict=True):
        said = sum(rarity[term] for term in asked & words)
        headed = sum(rarity[term] for term in asked & titles - words)
        if said or headed:
            weight = (0.5 + hit.score) * (said + _HEADING_WEIGHT * headed) / (_USUAL_WORDS + len(words)) ** 0.5
            rated.append(_Passage(hit, place, text, weight))
    best: list[_Passage] = []
    for passage in sorted(rated, key=lambda one: -one.weight):
        known = {one.hit.chunk_id for one in best}
        worth_it = not best or passage.weight >= _LEAST_SHARE * best[0].weight
        repeated = any(one.text == passage.text for one in best)
        of_few = passage.hit.chunk_id in known or len(known) < _SOURCES
        if len(best) < _PASSAGES and worth_it and not repeated and of_few:
            best.append(passage)
    order = {hit.chunk_id: number for number, hit in enumerate(hits)}
    return sorted(best, key=lambda one: (order[one.hit.chunk_id], one.place))


def _passages(text: str) -> Iterator[str]:
    """The sentences and items of a text without its headings; short ones with what follows them."""
    held = ""
    for part in _SENTENCE.split(text):
        words = " ".join(part.split())
        held = held if words.startswith("#") else f"{held} {words}".strip()
        if len(held) >= _SHORTEST_PASSAGE:
            yield _cut(held)
            held = ""
    if _WORD.search(held):
        yield _cut(held)


def _cut(text: str) -> str:
    return text if len(text) <= _LONGEST_PASSAGE else text[:_LONGEST_PASSAGE].rsplit(" ", 1)[0] + " …"


def _terms(text: str) -> set[str]:
    """The words of a text that say something, without the ending of a plural."""
    words = (word for word in _WORD.findall(text.lower()) if word not in _QUESTION_WORDS)
    return {word[:-1] if len(word) > 3 and word.endswith("s") else word for word in words}


def _told(passages: Sequence[_Passage], cited: Sequence[Hit]) -> Iterator[str]:
    if not passages:
        yield NOTHING
        return
    numbers = {hit.chunk_id: number for number, hit in enumerate(cited, start=1)}
    yield PREFACE + "\n"
    for passage in passages:
        yield f"\n“{passage.text}” [{numbers[passage.hit.chunk_id]}]\n"
    yield "\n"
    for hit in cited:
        where = " › ".join(dict.fromkeys((hit.citation.title, *hit.citation.heading_path)))
        yield f"[{numbers[hit.chunk_id]}] {where} ({hit.citation.uri})\n"
