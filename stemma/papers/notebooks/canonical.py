"""What counts of a notebook's output when two executions are compared: all but where and how often it ran.

Left out are execution counts and times; folders, addresses in memory and the order of standard output and standard
error among each other are made equal.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from nbformat import NotebookNode

    from stemma.papers.notebooks.telling import Told

_ADDRESS: Final = re.compile(r"\b0x[0-9a-f]{6,16}\b")


def cell_hashes(notebook: NotebookNode, base: Path) -> list[str]:
    """One SHA-256 for each cell, of its canonical output; `base` is the folder that it was executed in."""
    return [
        _hash([_output(output, str(base)) for output in _merged(cell.get("outputs", ()))]) for cell in notebook.cells
    ]


def output_hash(cells: Iterable[str], told: Iterable[Told]) -> str:
    """One SHA-256 (hexadecimal) of all that an execution put out."""
    events = [[event.type, _without_time(event.payload)] for event in told]
    return _hash([list(cells), events])


def first_difference(one: list[str], other: list[str]) -> int | None:
    """The number of the first cell whose output differs; None where none does."""
    return next((number for number, pair in enumerate(zip(one, other, strict=True)) if pair[0] != pair[1]), None)


def _merged(outputs: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    streams: dict[str, dict[str, Any]] = {}
    others: list[dict[str, Any]] = []
    for output in outputs:
        if output["output_type"] == "stream":
            stream = streams.setdefault(output["name"], {"output_type": "stream", "name": output["name"], "text": ""})
            stream["text"] += output["text"]
        else:
            others.append(dict(output))
    return [*(streams[name] for name in sorted(streams)), *others]


def _output(output: Mapping[str, Any], base: str) -> dict[str, Any]:
    left = {name: value for name, value in output.items() if name not in ("execution_count", "metadata", "transient")}
    plain: dict[str, Any] = json.loads(_ADDRESS.sub("0x…", json.dumps(left, sort_keys=True).replace(base, "/run")))
    return plain


def _without_time(payload: Any) -> Any:
    return {name: value for name, value in payload.items() if name != "ts"} if isinstance(payload, Mapping) else payload


def _hash(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, ensure_ascii=True).encode()).hexdigest()
