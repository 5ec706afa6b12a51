"""Making a notebook of a plan: first the cell that seeds every generator of random numbers, then the plan's own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from stemma.papers import templates
from stemma.papers.plan import Cell, PlanDocument

if TYPE_CHECKING:
    from nbformat import NotebookNode

_SEED: Final = """\
import json, random
seeded = {{"seed": {seed}}}
random.seed({seed})
seeded["random"] = random.random()
random.seed({seed})
try:
    import numpy
    numpy.random.seed({seed})
    seeded["numpy"] = float(numpy.random.random())
    numpy.random.seed({seed})
except ImportError:
    pass
{torch}with open("events.jsonl", "a", encoding="utf-8") as events:
    events.write(json.dumps({{"type": "stage_update", "stage": "seed_check", **seeded}}) + "\\n")
print("seeded:", seeded)"""
# Importing torch takes seconds: it is seeded where it is used.
_TORCH: Final = """\
try:
    import torch
    torch.manual_seed({seed})
    seeded["torch"] = float(torch.rand(1))
    torch.manual_seed({seed})
    torch.use_deterministic_algorithms(True)
except ImportError:
    pass
"""


def build(plan: PlanDocument, alternative: str | None, seed: int) -> NotebookNode:
    """The notebook of a plan, or of one of its alternatives, with one seed. Raises what `templates.cells` raises."""
    return assemble(templates.cells(plan, alternative, seed), seed)


def assemble(cells: tuple[Cell, ...], seed: int) -> NotebookNode:
    """A notebook of these cells behind the one that seeds."""
    from nbformat import NotebookNode

    torch = _TORCH.format(seed=seed) if any("torch" in cell.source for cell in cells) else ""
    first = Cell(source=_SEED.format(seed=seed, torch=torch))
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    notebook = NotebookNode(nbformat=4, nbformat_minor=5, metadata=NotebookNode(kernelspec=NotebookNode(kernel)))
    notebook.cells = [_cell(number, cell) for number, cell in enumerate((first, *cells))]
    return notebook


def _cell(number: int, cell: Cell) -> NotebookNode:
    from nbformat import NotebookNode

    # A random id would tell two equal notebooks apart.
    made = NotebookNode(id=f"cell-{number}", cell_type=cell.kind, metadata=NotebookNode(), source=cell.source)
    if cell.kind == "code":
        made.update(execution_count=None, outputs=[])
    return made
