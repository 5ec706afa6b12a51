"""The registry of templates: which claims a template can measure, and the notebook that measures them.

A template is plain Python and its cells plain scikit-learn, scipy or statsmodels; no model has a hand in it.
"""

from __future__ import annotations

from typing import Final

from stemma.errors import InvalidInput
from stemma.papers.plan import Cell, PlanDocument
from stemma.papers.templates import notebooks
from stemma.papers.templates.classification import LEAVE_ONE_OUT, NEAREST_SERIES, SEPARATING_PLANE
from stemma.papers.templates.discriminant import FISHER
from stemma.papers.templates.regression import BETA, QUANTILE
from stemma.papers.templates.template import Template

__all__ = ["TEMPLATES", "cells", "find"]

TEMPLATES: Final = {
    template.name: template for template in (LEAVE_ONE_OUT, FISHER, QUANTILE, BETA, SEPARATING_PLANE, NEAREST_SERIES)
}


def find(name: str) -> Template:
    """The template of that name; raises InvalidInput(template_unknown)."""
    if name not in TEMPLATES:
        raise InvalidInput(
            "template_unknown",
            f"There is no template {name!r}.",
            field="document.template",
            hint=f"There are: {', '.join(TEMPLATES)}.",
        )
    return TEMPLATES[name]


def cells(plan: PlanDocument, alternative: str | None, seed: int) -> tuple[Cell, ...]:
    """The cells of a plan's notebook, as it is run with one seed, first or by one of its alternatives.

    The cell that seeds the generators and tells of it goes before them: it is the runner's. A cell reports by appending
    `{"type": "metric_update", "metric": …, "split": …, "value": …}` to `events.jsonl` in the working folder. Raises
    InvalidInput for an alternative or template that there is not.
    """
    body = plan.notebook if plan.template is None else find(plan.template).cells
    return (
        notebooks.introduction(plan, alternative),
        notebooks.givens(plan, alternative, seed),
        notebooks.reporting(),
        *body,
    )
