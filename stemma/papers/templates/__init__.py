"""The registry of templates: which claims a template can measure, and the notebook that measures them.

A template is plain Python and its cells plain scikit-learn or statsmodels; no model has a hand in it.
"""

from __future__ import annotations

from stemma.papers.plan import Cell, PlanDocument

__all__ = ["cells"]


def cells(plan: PlanDocument, alternative: str | None, seed: int) -> tuple[Cell, ...]:
    """The cells of a plan's notebook, as it is run with one seed, first or by one of its alternatives.

    The cell that seeds the generators and tells of it goes before them: it is the runner's. A cell reports by appending
    `{"type": "metric_update", "metric": …, "split": …, "value": …}` to `events.jsonl` in the working folder. Raises
    InvalidInput for an alternative or template that there is not.
    """
    raise NotImplementedError
