"""Answering a query: two legs of one generation, exact scores, one ranking, citations.

Both legs propose their best candidates; each candidate then gets its exact score from both, both are scaled to 0–1
over all candidates, and their weighted sum ranks (a convex combination, after Bruch, Gai & Ingber, "An Analysis of
Fusion Functions for Hybrid Retrieval", 2023). Of a section, the best one counts in full and the others a little less,
so that the first hits are not one section in pieces. How an index comes to be is `generations`' business.
"""

from __future__ import annotations

import base64
import hashlib
import json
import threading
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Generic, TypeVar, get_args

import psycopg
from psycopg import sql

from stemma.errors import InvalidInput, Unavailable
from stemma.knowledge.embedding import Vectors
from stemma.knowledge.generations import CANDIDATES, Generation, active, lexical_root, previous
from stemma.knowledge.lexical import LexicalIndex, highlight
from stemma.knowledge.models import Citation, Hit, SearchMode, SearchPage
from stemma.knowledge.onnx_query import QueryEncoder, open_query_encoder
from stemma.store.database import Connection, Database
from stemma.store.settings import Settings

T = TypeVar("T")

LONGEST_QUERY = 2000
LARGEST_PAGE = 100
DEPTH = CANDIDATES
DENSE_WEIGHT = 0.55
REPEATED_SECTION = 0.05
_SPREAD = 30

# Under a filter narrower than this share, or over fewer rows, an exact scan is faster than HNSW and misses nothing.
_NARROW_SHARE = 0.03
_FEW_ROWS = 1000
_OPEN_GENERATIONS = 3


@dataclass(frozen=True, slots=True)
class Candidate:
    """A chunk in the ranking; a leg that was not asked has no score."""

    chunk_id: int
    source: str
    score: float
    dense: float | None
    lexical: float | None


@dataclass(frozen=True, slots=True)
class _Request:
    query: str
    k: int
    sources: tuple[str, ...] | None
    mode: SearchMode

    @property
    def digest(self) -> str:
        facts = json.dumps([self.query, self.sources, self.mode])
        return hashlib.sha256(facts.encode()).hexdigest()[:16]


@dataclass(frozen=True, slots=True)
class _Position:
    """Where a page starts in the ranking of one generation."""

    generation: int
    digest: str
    offset: int

    def encoded(self) -> str:
        facts = json.dumps([self.generation, self.digest, self.offset])
        return base64.urlsafe_b64encode(facts.encode()).decode().rstrip("=")

    @classmethod
    def decoded(cls, cursor: str) -> _Position:
        try:
            facts = json.loads(base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True))
            generation, digest, offset = facts
        except (ValueError, TypeError) as error:
            raise _bad_cursor("it was not made by this search") from error
        sound = type(generation) is int and type(digest) is str and type(offset) is int
        if not sound or not 0 < offset < 2 * DEPTH:
            raise _bad_cursor("it was not made by this search")
        return cls(generation, digest, offset)


def _bad_cursor(why: str) -> InvalidInput:
    return InvalidInput("cursor_invalid", f"The cursor cannot be used: {why}.", field="cursor", hint="Search anew.")


class Searcher:
    """Answers queries from the active generation. Thread-safe; one per process is enough.

    Indexes and encoders are opened at first use and kept; a query holds one connection for a few milliseconds.
    """

    def __init__(self, database: Database, settings: Settings) -> None:
        self._database = database
        self._settings = settings
        self._encoders = _Recent[str, QueryEncoder](_OPEN_GENERATIONS)
        self._lexical = _Recent[str, LexicalIndex](_OPEN_GENERATIONS)

    def search(
        self,
        query: str,
        *,
        k: int = 10,
        sources: Sequence[str] | None = None,
        mode: SearchMode = "hybrid",
        cursor: str | None = None,
    ) -> SearchPage:
        """One page of `k` hits, the best first; every hit's text is an exact span of its document.

        `sources` limits the search to these sources and never shortens the answer while they have more. Pages of
        one query come from one generation.

        Raises InvalidInput naming the field for a query, k, source, mode or cursor that cannot be used; Unavailable
        when there is no index, its files are missing, or the database does not answer.
        """
        started = time.perf_counter()
        request = _checked(query, k, sources, mode)
        position = _Position.decoded(cursor) if cursor else None
        if position is not None and position.digest != request.digest:
            raise _bad_cursor("it belongs to another query")
        page = self._database.read(lambda connection: self._retrying(connection, request, position))
        return replace(page, took_ms=(time.perf_counter() - started) * 1000)

    def rank(
        self,
        connection: Connection,
        generation: Generation,
        query: str,
        *,
        mode: SearchMode = "hybrid",
        sources: tuple[str, ...] | None = None,
    ) -> list[Candidate]:
        """The whole ranking of one generation as `connection` sees it, also of one that is not yet active."""
        return self._rank(connection, generation, _Request(query, LARGEST_PAGE, sources, mode))

    def fetch(self, connection: Connection, query: str, candidates: Sequence[Candidate]) -> tuple[Hit, ...]:
        """Texts, highlights and citations of the candidates, in their order."""
        return _hits(connection, query, candidates)

    def warm(self) -> None:
        """Open the active generation's files, so that the first query need not. Raises Unavailable like `search`."""

        def open_files(connection: Connection) -> None:
            generation = _required(active(connection))
            self._encoder(generation)
            self._index(generation)

        self._database.read(open_files)

    def close(self) -> None:
        """Let go of the opened files; the database stays open."""
        self._encoders.clear()
        self._lexical.clear()

    def _retrying(self, connection: Connection, request: _Request, position: _Position | None) -> SearchPage:
        """Two swaps during one query take its generation away; the newest then answers instead."""
        generation = _pinned(connection, position)
        try:
            return self._page(connection, generation, request, position)
        except (psycopg.errors.UndefinedTable, Unavailable):
            connection.rollback()
            newest = _pinned(connection, position)
            if newest.id == generation.id:
                raise
            return self._page(connection, newest, request, position)

    def _page(
        self, connection: Connection, generation: Generation, request: _Request, position: _Position | None
    ) -> SearchPage:
        _check_sources(connection, generation, request.sources)
        ranking = self._rank(connection, generation, request)
        start = position.offset if position else 0
        end = start + request.k
        more = end < len(ranking)
        return SearchPage(
            hits=_hits(connection, request.query, ranking[start:end]),
            facets=dict(sorted(Counter(candidate.source for candidate in ranking).items())),
            next_cursor=_Position(generation.id, request.digest, end).encoded() if more else None,
            generation=generation.id,
            mode=request.mode,
        )

    def _rank(self, connection: Connection, generation: Generation, request: _Request) -> list[Candidate]:
        if generation.chunks == 0:
            return []
        index = self._index(generation) if request.mode != "dense" else None
        by_words = dict(index.search(request.query, DEPTH, request.sources)) if index is not None else {}
        vector = self._encoder(generation).encode(request.query) if request.mode != "lexical" else None
        if vector is None:
            sources = _sources_of(connection, generation, list(by_words))
            return _ordered(
                Candidate(chunk_id, sources[chunk_id], score, None, score) for chunk_id, score in by_words.items()
            )
        by_vector = _nearest(connection, generation, vector, request.sources, list(by_words))
        if index is None:
            return _ordered(
                Candidate(chunk_id, source, cosine, cosine, None) for chunk_id, (source, cosine) in by_vector.items()
            )
        by_words |= index.score(request.query, [chunk_id for chunk_id in by_vector if chunk_id not in by_words])
        return _spread(connection, _fused(by_vector, by_words))

    def _encoder(self, generation: Generation) -> QueryEncoder:
        key = generation.model_key
        return self._encoders.get(key, lambda: open_query_encoder(self._settings, key))

    def _index(self, generation: Generation) -> LexicalIndex:
        folder = lexical_root(self._settings) / generation.lexical_dir
        return self._lexical.get(generation.lexical_dir, lambda: LexicalIndex.open(folder))


K = TypeVar("K")


class _Recent(Generic[K, T]):
    """The few most recently used values of a kind, each made once."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._lock = threading.Lock()
        self._values: OrderedDict[K, T] = OrderedDict()

    def clear(self) -> None:
        with self._lock:
            self._values.clear()

    def get(self, key: K, make: Callable[[], T]) -> T:
        with self._lock:
            if key not in self._values:
                self._values[key] = make()
                if len(self._values) > self._size:
                    self._values.popitem(last=False)
            self._values.move_to_end(key)
            return self._values[key]


def _checked(query: str, k: int, sources: Sequence[str] | None, mode: SearchMode) -> _Request:
    if not query.strip():
        raise InvalidInput("query_empty", "The query is empty.", field="q", hint="Say what to look for.")
    if "\0" in query:
        raise InvalidInput("text_holds_nul", "The query holds the character U+0000.", field="q", hint="Remove it.")
    if len(query) > LONGEST_QUERY:
        raise InvalidInput(
            "query_too_long",
            f"The query has {len(query):,} characters.",
            field="q",
            hint=f"Use at most {LONGEST_QUERY:,}.",
        )
    if not 1 <= k <= LARGEST_PAGE:
        raise InvalidInput("k_out_of_range", f"k is {k}.", field="k", hint=f"Use 1 to {LARGEST_PAGE}.")
    if mode not in get_args(SearchMode):
        raise InvalidInput(
            "mode_unknown", f"{mode!r} is no search mode.", field="mode", hint=f"Use {', '.join(get_args(SearchMode))}."
        )
    return _Request(query.strip(), k, tuple(sorted(set(sources))) if sources else None, mode)


def _required(generation: Generation | None) -> Generation:
    if generation is None:
        raise Unavailable(
            "index_missing", "Nothing has been indexed yet.", hint="Run `stemma materialize '*'` or `make demo`."
        )
    return generation


def _pinned(connection: Connection, position: _Position | None) -> Generation:
    """The generation that answers: the active one, or the one that the pages before came from while it is kept."""
    generation = _required(active(connection))
    if position is None or position.generation == generation.id:
        return generation
    before = previous(connection)
    if before is None or position.generation != before.id:
        raise _bad_cursor("the index has been renewed since")
    return before


def _check_sources(connection: Connection, generation: Generation, sources: tuple[str, ...] | None) -> None:
    """A source that is registered but has nothing in the index is no mistake; one that does not exist is."""
    unknown = [source for source in sources or () if source not in generation.sources]
    if not unknown:
        return
    if any("\0" in source for source in unknown):
        raise InvalidInput("text_holds_nul", "The source holds the character U+0000.", field="source")
    rows = connection.execute("SELECT name FROM knowledge_sources WHERE name = ANY(%s)", (unknown,)).fetchall()
    unknown = sorted(set(unknown) - {name for (name,) in rows})
    if unknown:
        raise InvalidInput(
            "source_unknown",
            f"There is no source {unknown[0]!r}.",
            field="source",
            hint=f"Known: {', '.join(sorted(generation.sources)) or 'none'}.",
        )


def _nearest(
    connection: Connection,
    generation: Generation,
    vector: Vectors,
    sources: tuple[str, ...] | None,
    also: list[int],
) -> dict[int, tuple[str, float]]:
    """Source and cosine of the `DEPTH` chunks nearest to `vector`, and of those in `also`."""
    allowed = generation.chunks if sources is None else sum(generation.sources.get(source, 0) for source in sources)
    if allowed == 0:
        return {}
    chosen = None if allowed == generation.chunks else sources
    narrow = allowed <= max(_FEW_ROWS, _NARROW_SHARE * generation.chunks)
    rows = _scan(connection, generation, vector, chosen, also, exact=narrow)
    # An iterative scan gives up after a bounded number of rows, which a filter far from the query can exhaust.
    if not narrow and sum(near for *_, near in rows) < min(DEPTH, allowed):
        rows = _scan(connection, generation, vector, chosen, also, exact=True)
    return {chunk_id: (source, 1.0 - distance) for chunk_id, source, distance, _ in rows}


def _scan(
    connection: Connection,
    generation: Generation,
    vector: Vectors,
    sources: tuple[str, ...] | None,
    also: list[int],
    *,
    exact: bool,
) -> list[tuple[int, str, float, bool]]:
    """Rows of chunk id, source, cosine distance, and whether the row was found as a near one."""
    # Unprepared, so that each filter is planned for what it is: a generic plan ignores how many rows it leaves.
    return connection.execute(
        sql.SQL("""
            WITH nearest AS MATERIALIZED (
                SELECT chunk_id, source, embedding <=> %(vector)b AS distance
                FROM (SELECT chunk_id, source, embedding FROM {table} WHERE {visible} {filter} {fence}) v
                ORDER BY {order} LIMIT {depth}
            )
            SELECT chunk_id, source, distance, true FROM nearest
            UNION ALL
            SELECT chunk_id, source, embedding <=> %(vector)b, false FROM {table}
            WHERE chunk_id = ANY(%(also)s) AND {visible}
        """).format(
            table=generation.table,
            visible=generation.visible,
            filter=sql.SQL("AND source = ANY(%(sources)s)" if sources is not None else ""),
            fence=sql.SQL("OFFSET 0" if exact else ""),
            order=sql.SQL("distance") if exact else generation.nearness,
            depth=sql.Literal(DEPTH),
        ),
        {"vector": vector, "also": also, "sources": list(sources or ())},
        prepare=False,
    ).fetchall()


def _sources_of(connection: Connection, generation: Generation, chunk_ids: list[int]) -> dict[int, str]:
    rows = connection.execute(
        sql.SQL("SELECT chunk_id, source FROM {} WHERE chunk_id = ANY(%s) AND {}").format(
            generation.table, generation.visible
        ),
        (chunk_ids,),
    )
    return dict(rows.fetchall())


def _spread(connection: Connection, ranking: list[Candidate]) -> list[Candidate]:
    """Take a little off those of the leading candidates whose section, a document's top heading, led before."""
    leading = [candidate.chunk_id for candidate in ranking[:_SPREAD]]
    rows = connection.execute("SELECT id, document_id, heading_path[1] FROM chunks WHERE id = ANY(%s)", (leading,))
    sections = {chunk_id: (document_id, heading) for chunk_id, document_id, heading in rows}
    seen: set[tuple[int, str | None]] = set()
    for at, chunk_id in enumerate(leading):
        if sections[chunk_id] in seen:
            ranking[at] = replace(ranking[at], score=ranking[at].score - REPEATED_SECTION)
        seen.add(sections[chunk_id])
    return _ordered(ranking)


def _fused(by_vector: dict[int, tuple[str, float]], by_words: dict[int, float]) -> list[Candidate]:
    dense = _scaled({chunk_id: cosine for chunk_id, (_, cosine) in by_vector.items()})
    lexical = _scaled(by_words)
    return _ordered(
        Candidate(
            chunk_id,
            source,
            DENSE_WEIGHT * dense[chunk_id] + (1 - DENSE_WEIGHT) * lexical[chunk_id],
            cosine,
            by_words[chunk_id],
        )
        for chunk_id, (source, cosine) in by_vector.items()
    )


def _scaled(scores: dict[int, float]) -> dict[int, float]:
    """Min-max over the candidates; where they are all alike, 1 for a match and 0 for none."""
    if not scores:
        return {}
    low, high = min(scores.values()), max(scores.values())
    if high == low:
        return dict.fromkeys(scores, float(high > 0))
    return {chunk_id: (score - low) / (high - low) for chunk_id, score in scores.items()}


def _ordered(candidates: Iterable[Candidate]) -> list[Candidate]:
    return sorted(candidates, key=lambda candidate: (-candidate.score, candidate.chunk_id))


def _hits(connection: Connection, query: str, candidates: Sequence[Candidate]) -> tuple[Hit, ...]:
    rows = connection.execute(
        """
        SELECT c.id, c.text, d.id, d.source, d.uri, d.title, c.heading_path, c.page_first, c.page_last,
            c.start_offset, c.end_offset, encode(c.document_sha256, 'hex')
        FROM chunks c JOIN documents d ON d.id = c.document_id WHERE c.id = ANY(%s)
        """,
        ([candidate.chunk_id for candidate in candidates],),
    ).fetchall()
    found = {row[0]: row[1:] for row in rows}
    return tuple(_hit(query, candidate, found[candidate.chunk_id]) for candidate in candidates)


def _hit(query: str, candidate: Candidate, row: Sequence[Any]) -> Hit:
    text, document_id, source, uri, title, headings, page_first, page_last, start, end, sha256 = row
    return Hit(
        chunk_id=candidate.chunk_id,
        score=candidate.score,
        dense=candidate.dense,
        lexical=candidate.lexical,
        text=text,
        highlights=highlight(query, text),
        citation=Citation(
            document_id=document_id,
            source=source,
            uri=uri,
            title=title,
            heading_path=tuple(headings),
            page_first=page_first,
            page_last=page_last,
            start=start,
            end=end,
            document_sha256=sha256,
        ),
    )
