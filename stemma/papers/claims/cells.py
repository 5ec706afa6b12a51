"""Cells of a table's row, made out by the gaps between words, and the columns that they stand in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from stemma.papers.model import Box
from stemma.papers.pages import Line, Page, Word

_GAP = 0.8
_BESIDE = 2.0
_ONE_ROW = 0.5


@dataclass(frozen=True, slots=True)
class Cell:
    """Words of a row that stand close together."""

    words: tuple[Word, ...]

    @property
    def text(self) -> str:
        """The words with a space between them."""
        return " ".join(word.text for word in self.words)

    @property
    def left(self) -> float:
        """Where it begins."""
        return self.words[0].box[0]

    @property
    def right(self) -> float:
        """Where it ends."""
        return self.words[-1].box[2]


def cells_of(line: Line) -> tuple[Cell, ...]:
    """The cells of a row: a gap of most of the type's size parts them."""
    cells: list[list[Word]] = []
    for word in line.words:
        if cells and word.box[0] - cells[-1][-1].box[2] < _GAP * max(word.size, 1.0):
            cells[-1].append(word)
        else:
            cells.append([word])
    return tuple(Cell(tuple(words)) for words in cells)


def in_columns(cells: Sequence[Cell], header: Sequence[Cell]) -> dict[int, Cell]:
    """The cells by the number of the header's cell above them; cells that meet in one column are put together."""
    placed: dict[int, list[Word]] = {}
    for cell in cells:
        placed.setdefault(_column(cell, header), []).extend(cell.words)
    return {column: Cell(tuple(words)) for column, words in placed.items()}


def _column(cell: Cell, header: Sequence[Cell]) -> int:
    """The column whose heading is above the cell, else the last one that begins before it."""
    overlaps = [min(cell.right, head.right) - max(cell.left, head.left) for head in header]
    widest = max(range(len(header)), key=overlaps.__getitem__)
    if overlaps[widest] > 0:
        return widest
    before = [number for number, head in enumerate(header) if head.left <= cell.left]
    return before[-1] if before else 0


def around(words: Sequence[Word]) -> Box:
    """The box around words."""
    boxes = [word.box for word in words]
    return (
        min(box[0] for box in boxes),
        min(box[1] for box in boxes),
        max(box[2] for box in boxes),
        max(box[3] for box in boxes),
    )


def rows_below(page: Page, header: Line) -> tuple[Line, ...]:
    """What stands below a table's headings, row by row: words of one height that are no wider apart than these."""
    slack = _BESIDE * header.size
    left, _, right, bottom = around(header.words)
    below = [
        word
        for line in page.lines
        for word in line.words
        if word.middle > bottom and word.box[0] > left - slack and word.box[2] < right + slack
    ]
    rows: list[list[Word]] = []
    for word in sorted(below, key=lambda word: word.middle):
        if rows and word.middle - rows[-1][0].middle < _ONE_ROW * min(word.size, rows[-1][0].size):
            rows[-1].append(word)
        else:
            rows.append([word])
    return tuple(Line(tuple(sorted(row, key=lambda word: word.box[0]))) for row in rows)
