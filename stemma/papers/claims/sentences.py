"""Sentences that report a result: `an accuracy of 93.5 % on the wine data`."""

from __future__ import annotations

import bisect
import re
from collections.abc import Iterator
from typing import Final

from stemma.papers.claims.cells import around
from stemma.papers.claims.found import Found, split_of
from stemma.papers.claims.numbers import parse_number
from stemma.papers.pages import Page, Word

_METRIC: Final = (
    r"(?P<metric>(?:(?:classification|test|training|validation|mean|average|overall|balanced|top-\d) )?"
    r"(?:accuracy|error rate|misclassification rate|F1(?:[- ]score)?|AUC|AUROC|RMSE|root mean squared? error"
    r"|mean absolute error|MAE|BLEU(?: score)?|perplexity|sensitivity|specificity|R2|R²|R-squared|correlation"
    r"|recall|precision))"
)
_VALUE: Final = r"(?P<value>[-−]?\d+(?:\.\d+)?)(?P<unit> ?%| percent| per cent)?"
_AFTER: Final = re.compile(
    rf"\b{_METRIC}(?: (?:rate|score))?(?: (?:of|is|was|are|were|equals|reached|reaches|at|to be|equal to|=|:)){{1,2}} "
    rf"(?:about |only |approximately |nearly |roughly )?{_VALUE}(?![\w.]*\d)",
    re.IGNORECASE,
)
_BEFORE: Final = re.compile(rf"(?<![\w.]){_VALUE} {_METRIC}\b", re.IGNORECASE)
_DATASET: Final = re.compile(r"\b(?:on|for|in) (?:the )?([A-Z]?[\w-]+(?: [\w-]+){0,2}?) (?:data ?sets?|data|corpus)\b")
_SENTENCE_END: Final = re.compile(r"(?<=[a-z0-9)%][.!?]) (?=[A-Z])")


def find_in_sentences(page: Page) -> Iterator[Found]:
    """What the running text of a page claims."""
    words = [word for line in page.lines for word in line.words]
    starts, text = _joined(words)
    ends = [match.start() for match in _SENTENCE_END.finditer(text)] + [len(text)]
    for pattern in (_AFTER, _BEFORE):
        for match in pattern.finditer(text):
            begin = max((end + 1 for end in ends if end < match.start()), default=0)
            end = next(end for end in ends if end >= match.end("value"))
            sentence = text[begin:end]
            number = parse_number(match["value"])
            printed = _words(words, starts, match.start("value"), match.end("value"))
            if number is None or not printed or len(sentence) > 1000:
                continue
            dataset = _DATASET.search(sentence)
            yield Found(
                metric=match["metric"],
                value=number.value,
                printed=number.printed,
                decimals=number.decimals,
                unit="%" if match["unit"] else None,
                dataset=dataset[1] if dataset else None,
                method=None,
                split=split_of(match["metric"], sentence),
                page=page.number,
                box=around(printed),
                quote=sentence,
                confidence=0.7 if dataset else 0.6,
            )


def _joined(words: list[Word]) -> tuple[list[int], str]:
    starts, position = [], 0
    for word in words:
        starts.append(position)
        position += len(word.text) + 1
    return starts, " ".join(word.text for word in words)


def _words(words: list[Word], starts: list[int], begin: int, end: int) -> list[Word]:
    first = bisect.bisect_right(starts, begin) - 1
    last = bisect.bisect_left(starts, end)
    return words[first:last]
