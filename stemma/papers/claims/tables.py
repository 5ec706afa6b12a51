"""Tables of results: a row of headings that name data, methods, metrics or values, and rows below with numbers."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Final

from stemma.papers.claims.cells import Cell, cells_of, in_columns, rows_below
from stemma.papers.claims.found import Found, split_of
from stemma.papers.claims.numbers import Number, parse_number
from stemma.papers.pages import Line, Page, Word

_ROLES: Final = {
    "dataset": r"(data ?sets?|data|corpus|benchmark|problem)",
    "method": r"(methods?|models?|classifiers?|algorithms?|estimators?|approach|system)",
    "metric": r"(metrics?|measures?|statistics?|quantity)",
    "split": r"(split|set|evaluation)",
    "quantile": r"(quantiles?|tau|τ)",
    "value": r"(values?|results?|reported|estimates?)",
}
_MEASURE: Final = re.compile(
    r"(top-?\d+ )?(test |train |val(idation)? )?"
    r"(acc(uracy|\.)?|error( rate)?|f1(-score)?|auc|auroc|precision|recall|rmse|mae|mse|bleu|r2|r²|perplexity"
    r"|sensitivity|specificity)( ?[(\[]?%[)\]]?)?",
    re.IGNORECASE,
)
_UNIT: Final = re.compile(r"\s*[(\[]\s*(%|ms|s|kg|cm|mm|dB|percent)\s*[)\]]")
_TERM: Final = re.compile(r"\(?[A-Za-z][\w.:]*\)?")
_CAPTION: Final = re.compile(r"tab(le|\.)\s*\w", re.IGNORECASE)
_CAPTION_REACH: Final = 4
_ROW_GAP: Final = 4.0

Roles = dict[int, str]


def find_in_tables(page: Page) -> Iterator[Found]:
    """What the tables of a page claim."""
    for index, line in enumerate(page.lines):
        header = cells_of(line)
        roles = _roles(header)
        if roles is not None:
            captioned = any(_CAPTION.match(above.text) for above in page.lines[max(0, index - _CAPTION_REACH) : index])
            yield from _rows(page, rows_below(page, line), header, roles, captioned=captioned)


def _roles(header: Sequence[Cell]) -> Roles | None:
    """What each column holds; None where this is no heading of a table of results."""
    roles: Roles = {}
    for number, cell in enumerate(header):
        if parse_number(cell.text) is not None:
            return None
        for role, pattern in _ROLES.items():
            if re.fullmatch(pattern, _UNIT.sub("", cell.text).strip(" :."), re.IGNORECASE):
                roles[number] = role
                break
        else:
            if _MEASURE.fullmatch(cell.text) or (roles.get(0) == "quantile" and _TERM.fullmatch(cell.text)):
                roles[number] = "measure"
    named = set(roles.values())
    holds_values = "value" in named or "measure" in named
    return roles if holds_values and named & {"dataset", "method", "metric", "quantile"} else None


def _rows(
    page: Page, below: Sequence[Line], header: Sequence[Cell], roles: Roles, *, captioned: bool
) -> Iterator[Found]:
    above: dict[str, str] = {}
    height = header[0].words[0].box[3]
    for line in below:
        top = min(word.box[1] for word in line.words)
        if top - height > _ROW_GAP * line.size:
            return
        cells = in_columns(cells_of(line), header)
        said = {role: cells[number].text for number, role in roles.items() if number in cells}
        values = [
            (number, *valued)
            for number, role in roles.items()
            if role in ("value", "measure") and number in cells and (valued := _value(cells[number]))
        ]
        if not values:
            continue
        height = max(word.box[3] for word in line.words)
        # A cell that is left empty says what the one above it says.
        said = {**{role: above[role] for role in ("dataset", "method") if role in above}, **said}
        above = said
        for number, word, value in values:
            metric = said.get("metric") if roles[number] == "value" else header[number].text
            if "quantile" in said:
                said["method"] = f"quantile regression, tau = {said['quantile']}"
                metric = f"coefficient {metric}"
            yield _claim(page, line, word, value, metric, said, captioned=captioned)


def _value(cell: Cell) -> tuple[Word, Number] | None:
    """The number that a cell holds, be it followed by its spread; None for one that begins otherwise."""
    number = parse_number(cell.words[0].text)
    return None if number is None else (cell.words[0], number)


def _claim(
    page: Page,
    line: Line,
    word: Word,
    value: Number,
    metric: str | None,
    said: dict[str, str],
    *,
    captioned: bool,
) -> Found:
    unit = _UNIT.search(metric or "")
    known = sum(text is not None for text in (metric, said.get("dataset"), said.get("method")))
    return Found(
        metric=_UNIT.sub("", metric or "value").strip(),
        value=value.value,
        printed=value.printed,
        decimals=value.decimals,
        unit=value.unit or (unit[1] if unit else None),
        dataset=said.get("dataset"),
        method=said.get("method"),
        split=split_of(said.get("split"), metric, said.get("method")),
        page=page.number,
        box=word.box,
        quote=line.text,
        confidence=round(0.5 + 0.14 * known + 0.05 * captioned, 2),
    )
