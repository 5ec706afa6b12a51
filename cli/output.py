"""How every command prints: tables or one JSON document on standard output, everything else on standard error."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Sequence
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any
from uuid import UUID

import typer
from rich.console import Console
from rich.text import Text

from stemma.errors import StemmaError

Json = Annotated[bool, typer.Option("--json", help="Print one JSON document on standard output.")]

out = Console(highlight=False)
err = Console(stderr=True, highlight=False)

_UNWRAPPED = 36
_CONTROLS = {code: "\ufffd" for code in (*range(0x20), *range(0x7F, 0xA0)) if chr(code) not in "\t\n"}


def plain(value: Any) -> Any:
    """Turn domain values into what JSON can hold."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if _is_model(value):
        return value.model_dump(mode="json")
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set)):
        return [plain(item) for item in value]
    if isinstance(value, (datetime, date)):
        return value.isoformat()
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, (Decimal, Path, UUID)):
        return str(value)
    return value


def _is_model(value: Any) -> bool:
    """Whether it is a model of pydantic's; nobody has one who has not imported that."""
    pydantic = sys.modules.get("pydantic")
    return pydantic is not None and isinstance(value, pydantic.BaseModel)


def print_json(value: Any) -> None:
    """One JSON document on standard output."""
    sys.stdout.write(json.dumps(plain(value), ensure_ascii=False, indent=2) + "\n")


def print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[object]], *, empty: str) -> None:
    """A table, or the sentence `empty` when it has no rows."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    if not rows:
        out.print(empty)
        return
    table = Table(
        title=title, title_justify="left", title_style="bold", header_style="dim", box=SIMPLE_HEAD, pad_edge=False
    )
    numeric = [all(isinstance(row[i], (int, float)) for row in rows) for i in range(len(columns))]
    for name, right in zip(columns, numeric, strict=True):
        table.add_column(name, justify="right" if right else "left", overflow="fold")
    table.columns[0].no_wrap = all(len(str(row[0])) <= _UNWRAPPED for row in rows)
    for row in rows:
        table.add_row(*(_cell(value) for value in row))
    out.print(table)


def printable(text: str) -> str:
    """The text without what would steer a terminal, as long as before: documents may hold anything."""
    return text.translate(_CONTROLS)


def _cell(value: object) -> Text:
    if isinstance(value, Text):
        return value
    if isinstance(value, float):
        return Text(f"{value:,.2f}")
    if isinstance(value, int) and not isinstance(value, bool):
        return Text(f"{value:,}")
    return Text("" if value is None else printable(str(value)))


def say(text: str, *, console: Console = out) -> None:
    """One line as it stands: names and paths may hold brackets and be longer than the terminal is wide."""
    console.print(printable(text), markup=False, soft_wrap=True)


def moment(at: datetime | None) -> str:
    """A point in time to the second, in UTC; nothing for one that never came."""
    return at.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S UTC") if at else ""


def print_error(error: StemmaError, *, as_json: bool) -> None:
    """One readable line on standard error, or the same as a JSON document on standard output."""
    if as_json:
        print_json({"error": {"code": error.code, "message": error.message, "field": error.field, "hint": error.hint}})
    else:
        err.print(
            Text.assemble(("error ", "bold red"), (f"{error.code} ", "dim"), printable(str(error))), soft_wrap=True
        )
