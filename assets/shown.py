"""How assets put figures into words and tables for the metadata that a person looks at."""

from __future__ import annotations

from collections.abc import Sequence

import dagster as dg

_PREVIEW_ROWS = 10


def counted(number: int, noun: str) -> str:
    """A count with its noun, which takes an s."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> dg.MarkdownMetadataValue:
    """The first rows as a Markdown table."""
    if not rows:
        return dg.MetadataValue.md("none")
    shown = [[str(value).replace("|", "\\|").replace("\n", " ") for value in row] for row in rows[:_PREVIEW_ROWS]]
    lines = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    lines += ["| " + " | ".join(row) + " |" for row in shown]
    if len(rows) > _PREVIEW_ROWS:
        lines.append(f"\n… and {len(rows) - _PREVIEW_ROWS:,} more")
    return dg.MetadataValue.md("\n".join(lines))
