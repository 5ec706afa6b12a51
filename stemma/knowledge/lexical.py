"""The lexical leg: a tantivy index per generation that ranks chunks by BM25, and the words that matched.

Robertson & Zaragoza, "The Probabilistic Relevance Framework: BM25 and Beyond" (2009), with tantivy's k1 = 1.2 and
b = 0.75. What a query's text is, not how it could be parsed, is searched: operators and quotes are plain characters.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from stemma.errors import Unavailable

if TYPE_CHECKING:
    import tantivy

_ANALYZER = "stemma_english"
_LONGEST_WORD = 64
_WRITER_HEAP_BYTES = 128_000_000

# The English list of the Snowball project (BSD). tantivy's own has 33 words and lets "how", "what" and "do" count.
_STOP_WORDS = """
    i me my myself we our ours ourselves you your yours yourself yourselves he him his himself she her hers
    herself it its itself they them their theirs themselves what which who whom this that these those am is are
    was were be been being have has had having do does did doing a an the and but if or because as until while of
    at by for with about against between into through during before after above below to from up down in out on
    off over under again further then once here there when where why how all any both each few more most other
    some such no nor not only own same so than too very s t can will just don should now
"""


@cache
def _analyzer() -> tantivy.TextAnalyzer:
    """Letters and digits in runs, so `create_index` is two words; lower case, no accents, no stop words, stems."""
    from tantivy import Filter, TextAnalyzerBuilder, Tokenizer

    return (
        TextAnalyzerBuilder(Tokenizer.simple())
        .filter(Filter.remove_long(_LONGEST_WORD))
        .filter(Filter.lowercase())
        .filter(Filter.ascii_fold())
        .filter(Filter.custom_stopword(_STOP_WORDS.split()))
        .filter(Filter.stemmer("english"))
        .build()
    )


def build_lexical_index(folder: Path, rows: Iterable[tuple[int, str, str]]) -> int:
    """Write an index of (chunk id, source, body) rows; the folder appears whole or not at all. Returns the count."""
    import tantivy

    schema = (
        tantivy.SchemaBuilder()
        .add_integer_field("chunk_id", indexed=True, fast=True)
        .add_text_field("source", tokenizer_name="raw", index_option="basic")
        .add_text_field("body", tokenizer_name=_ANALYZER, index_option="freq")
        .build()
    )
    building = folder.with_name(f".{folder.name}.{os.getpid()}")
    shutil.rmtree(building, ignore_errors=True)
    building.mkdir(parents=True)
    try:
        index = tantivy.Index(schema, path=str(building))
        index.register_tokenizer(_ANALYZER, _analyzer())
        # One thread makes one segment, which is the fastest to search and the same every time.
        count = 0
        with index.writer(heap_size=_WRITER_HEAP_BYTES, num_threads=1) as writer:
            for chunk_id, source, body in rows:
                document = tantivy.Document()
                document.add_integer("chunk_id", chunk_id)
                document.add_text("source", source)
                document.add_text("body", body)
                writer.add_document(document)
                count += 1
        shutil.rmtree(folder, ignore_errors=True)
        building.rename(folder)
        _sync_folder(folder.parent)
    finally:
        shutil.rmtree(building, ignore_errors=True)
    return count


def _sync_folder(folder: Path) -> None:
    """Make the rename durable, before the database says that the index is there."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


class LexicalIndex:
    """One generation's index, opened read-only. Thread-safe; it stays readable after its folder is deleted."""

    def __init__(self, searcher: tantivy.Searcher, schema: tantivy.Schema) -> None:
        self._searcher = searcher
        self._schema = schema

    @classmethod
    def open(cls, folder: Path) -> LexicalIndex:
        """Open the index in `folder`; raises Unavailable when it is missing or damaged."""
        import tantivy

        try:
            index = tantivy.Index.open(str(folder))
            index.register_tokenizer(_ANALYZER, _analyzer())
            index.config_reader("manual")
            index.reload()
            return cls(index.searcher(), index.schema)
        except (ValueError, OSError) as error:
            raise Unavailable(
                "index_files_missing",
                f"The lexical index {folder} cannot be opened: {error}.",
                hint="Run `stemma materialize knowledge/search_index`.",
            ) from error

    def __len__(self) -> int:
        return int(self._searcher.num_docs)

    def search(self, query: str, k: int, sources: Sequence[str] | None = None) -> list[tuple[int, float]]:
        """The `k` best (chunk id, BM25) pairs that share a word with the query, best first, then by chunk id."""
        words = self._words(query)
        if words is None:
            return []
        if sources is not None:
            words = self._within("source", sources, words, required=True)
        return sorted(self._run(words, k), key=lambda pair: (-pair[1], pair[0]))

    def score(self, query: str, chunk_ids: Sequence[int]) -> dict[int, float]:
        """The exact BM25 of the given chunks; 0.0 for those that share no word with the query."""
        scores = dict.fromkeys(chunk_ids, 0.0)
        words = self._words(query)
        if words is not None and scores:
            restricted = self._within("chunk_id", list(scores), words, required=False)
            scores.update(self._run(restricted, len(scores)))
        return scores

    def _words(self, query: str) -> tantivy.Query | None:
        from tantivy import Occur, Query

        counts = Counter(_analyzer().analyze(query))
        if not counts:
            return None
        return Query.boolean_query(
            [
                (Occur.Should, Query.boost_query(Query.term_query(self._schema, "body", word, "freq"), float(count)))
                for word, count in counts.items()
            ]
        )

    def _within(
        self, field: str, values: Sequence[str] | Sequence[int], words: tantivy.Query, *, required: bool
    ) -> tantivy.Query:
        """Restrict `words` to rows with one of `values`, without a share in the score."""
        from tantivy import Occur, Query

        allowed = Query.const_score_query(Query.term_set_query(self._schema, field, list(values)), 0.0)
        return Query.boolean_query(
            [
                (Occur.Must, allowed),
                (Occur.Must if required else Occur.Should, words),
            ]
        )

    def _run(self, query: tantivy.Query, limit: int) -> list[tuple[int, float]]:
        hits = self._searcher.search(query, limit, count=False).hits
        ids = self._searcher.fast_field_values("chunk_id", [address for _, address in hits])
        return [
            (int(chunk_id), float(score))
            for (score, _), chunk_id in zip(hits, ids, strict=True)
            if chunk_id is not None
        ]


def highlight(query: str, text: str) -> tuple[tuple[int, int], ...]:
    """Where words of the query stand in `text`, as (start, end) character offsets, by stem, ascending."""
    wanted = set(_analyzer().analyze(query))
    return tuple(
        (token.char_offset_from, token.char_offset_to)
        for token in _analyzer().pre_tokenize(text).tokens
        if token.text in wanted
    )
