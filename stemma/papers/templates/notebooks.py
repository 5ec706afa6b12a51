"""The cells of a plan: what every notebook begins with, then those of its template or of its own."""

from __future__ import annotations

import json
import pprint
from typing import Final

from stemma.papers.plan import Cell, PlanDocument

_WIDTH: Final = 110

_REPORT: Final = '''\
import json


def tell(kind, **facts):
    """Add an event to those of the run."""
    with open("events.jsonl", "a", encoding="utf-8") as events:
        events.write(json.dumps({"type": kind, **facts}) + "\\n")


def report(metric, value, split):
    """Tell of a value that was measured."""
    value = float(value)
    print(f"{metric} ({split}) = {value!r}")
    tell("metric_update", metric=metric, split=split, value=value)


def progress(percent, message):
    """Tell how far it is."""
    tell("progress", percent=percent, msg=message)'''


def introduction(plan: PlanDocument, alternative: str | None) -> Cell:
    """What the notebook is, for whoever opens it."""
    lines = [f"# {plan.title}", "", f"{plan.method.name}. {plan.method.description}"]
    if plan.method.substitution:
        lines += ["", plan.method.substitution]
    if alternative is not None:
        lines += ["", f"**Instead:** {plan.alternative(alternative).description}."]
    claims = plan.measured_by(alternative)
    lines += ["", *(f"- {target.label}: {target.printed} (page {target.page})" for target in claims)]
    return Cell(kind="markdown", source="\n".join(lines))


def givens(plan: PlanDocument, alternative: str | None, seed: int) -> Cell:
    """What the cells after it work with: the seed, the data, and what is to be measured by which parameters."""
    targets = {
        target.metric: {
            "split": target.split,
            "parameters": json.loads(json.dumps(plan.parameters(target, alternative))),
        }
        for target in plan.measured_by(alternative)
    }
    values = {
        "SEED": seed,
        "ALTERNATIVE": alternative,
        "DATASET": plan.dataset.model_dump(include={"name", "package", "loader"}),
        "TARGETS": targets,
    }
    written = (f"{name} = {pprint.pformat(value, width=_WIDTH, sort_dicts=False)}" for name, value in values.items())
    return Cell(source="\n".join(written))


def reporting() -> Cell:
    """The functions by which cells tell of themselves."""
    return Cell(source=_REPORT)
