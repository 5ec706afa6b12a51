"""Plans: what templates propose, what their notebooks measure, and what no plan may ask for."""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from stemma.errors import InvalidInput
from stemma.papers import planning
from stemma.papers.model import Claim, Paper
from stemma.papers.plan import PlanDocument, json_schema, parse_plan
from stemma.papers.templates import cells

Read = Callable[[str], Any]


def proposed(read: Read, name: str) -> PlanDocument:
    known = read(name)
    return planning.propose(known.paper, known.claims)


def measured(plan: PlanDocument, folder: Path, alternative: str | None = None, seed: int = 0) -> dict[str, float]:
    """What a plan's notebook reports, as its events say."""
    folder.mkdir()
    names: dict[str, Any] = {}
    with contextlib.chdir(folder), contextlib.redirect_stdout(io.StringIO()):
        for cell in cells(plan, alternative, seed):
            if cell.kind == "code":
                exec(cell.source, names)
    events = [json.loads(line) for line in (folder / "events.jsonl").read_text().splitlines()]
    return {event["metric"]: event["value"] for event in events if event["type"] == "metric_update"}


def gaps(plan: PlanDocument, values: dict[str, float]) -> dict[str, bool]:
    """Which targets are off by more than their tolerance."""
    return {
        target.metric: abs(values[target.metric] - target.claimed) > target.tolerance
        for target in plan.targets
        if target.metric in values
    }


def test_fishers_three_coefficients_are_reproduced(read: Read, tmp_path: Path) -> None:
    plan = proposed(read, "s2_fisher_iris.pdf")
    values = measured(plan, tmp_path / "run")
    assert plan.template == "fisher-discriminant"
    assert values == pytest.approx(
        {"coef.sepal-width": 5.9038, "coef.petal-length": -7.12998, "coef.petal-width": -10.1037}, abs=1e-4
    )
    assert set(gaps(plan, values).values()) == {False} and len(values) == 3
    other = measured(plan, tmp_path / "other", "three-species")
    assert set(gaps(plan, other).values()) == {True}


def test_wine_is_reproduced_but_for_the_nearest_neighbour_whose_gap_an_alternative_closes(
    read: Read, tmp_path: Path
) -> None:
    plan = proposed(read, "s1_wine_loo.pdf")
    values = measured(plan, tmp_path / "run")
    assert values == pytest.approx(
        {"lda.accuracy": 98.8764, "qda.accuracy": 99.4382, "1nn.accuracy": 95.5056}, abs=1e-4
    )
    assert gaps(plan, values) == {"lda.accuracy": False, "qda.accuracy": False, "1nn.accuracy": True}
    raw = measured(plan, tmp_path / "raw", "raw-features")
    assert gaps(plan, raw) == {"1nn.accuracy": True}
    closing = measured(plan, tmp_path / "closing", "min-max-manhattan")
    assert gaps(plan, closing) == {"1nn.accuracy": False}


def test_a_substituted_method_is_stochastic_and_says_so(read: Read, tmp_path: Path) -> None:
    plan = proposed(read, "s6_wdbc_plane.pdf")
    assert plan.stochastic and len(plan.seeds) == 5 and plan.method.substitution
    first, again = (measured(plan, tmp_path / name, seed=1) for name in ("first", "again"))
    assert first == again == pytest.approx({"plane.accuracy": 96.66}, abs=0.5)


def test_data_that_are_not_here_are_named(read: Read) -> None:
    plan = proposed(read, "s5_ucr_1nn.pdf")
    assert plan.targets[0].parameters["problem"] == "GunPoint"
    absent = plan.model_copy(update={"dataset": plan.dataset.model_copy(update={"package": "no-such-package"})})
    with pytest.raises(InvalidInput) as refused:
        planning.require_packages(absent)
    assert refused.value.code == "dataset_missing" and "no-such-package" in refused.value.message
    planning.require_packages(proposed(read, "s1_wine_loo.pdf"))


@pytest.mark.parametrize(("name", "targets"), [("betareg.pdf", 4), ("rq.pdf", 2)])
def test_regressions_of_papers_are_reproduced(name: str, targets: int, read: Read, tmp_path: Path) -> None:
    plan = proposed(read, name)
    found = gaps(plan, measured(plan, tmp_path / "run"))
    assert len(found) == targets and not any(found.values())


def test_only_accepted_claims_that_a_template_knows_are_planned(read: Read) -> None:
    known = read("s1_wine_loo.pdf")
    paper: Paper = known.paper
    claims: list[Claim] = list(known.claims)
    fewer = planning.propose(paper, [replace(claims[0], status="rejected"), *claims[1:]])
    assert [target.metric for target in fewer.targets] == ["qda.accuracy", "1nn.accuracy"]
    for changed, code in (
        ([replace(claim, status="proposed") for claim in claims], "no_accepted_claims"),
        ([replace(claim, dataset="a secret") for claim in claims], "no_template"),
    ):
        with pytest.raises(InvalidInput) as refused:
            planning.propose(paper, changed)
        assert refused.value.code == code


def test_the_schema_describes_every_plan(read: Read) -> None:
    document = proposed(read, "s1_wine_loo.pdf").model_dump(mode="json")
    jsonschema.Draft202012Validator.check_schema(json_schema())
    jsonschema.validate(document, json_schema())
    assert parse_plan(document).model_dump(mode="json") == document
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({**document, "targets": []}, json_schema())


@pytest.mark.parametrize(
    ("change", "code", "status"),
    [
        ({"environment": {"packages": ["numpy"], "gpu": 1}}, "E_GPU_REQUESTED", 400),
        ({"environment": {"packages": ["cupy-cuda12x"]}}, "E_GPU_REQUESTED", 400),
        ({"environment": {"packages": ["numpy"], "accelerator": "cuda:0"}}, "E_GPU_REQUESTED", 400),
        ({"template": None, "notebook": [{"source": "model.to('cuda')"}]}, "E_GPU_REQUESTED", 400),
        ({"timeouts": {"wall_minutes": 26}}, "E_CAP_EXCEEDED", 422),
        ({"timeouts": {"total_minutes": 1e9}}, "E_CAP_EXCEEDED", 422),
        ({"environment": {"packages": [], "memory_mb": 10**6}}, "E_CAP_EXCEEDED", 422),
        ({"seeds": list(range(21))}, "E_CAP_EXCEEDED", 422),
        ({"seeds": [0, 1], "stochastic": True}, "plan_invalid", 422),
        ({"template": None}, "plan_invalid", 422),
        ({"targets": []}, "plan_invalid", 422),
        ({"dataset": None}, "plan_invalid", 422),
        ({"unknown": 1}, "plan_invalid", 422),
    ],
)
def test_what_no_plan_may_ask_for_is_refused(change: dict[str, Any], code: str, status: int, read: Read) -> None:
    document = proposed(read, "s1_wine_loo.pdf").model_dump(mode="json") | change
    with pytest.raises(InvalidInput) as refused:
        parse_plan(document)
    assert (refused.value.code, refused.value.status) == (code, status)
    assert (refused.value.field or "").startswith("document")


def test_a_paper_may_speak_of_gpus(read: Read) -> None:
    document = proposed(read, "s1_wine_loo.pdf").model_dump(mode="json")
    document["targets"][0]["quote"] = "trained on a GPU: 98.9"
    document["title"] = "GPU computing"
    assert parse_plan(document).title == "GPU computing"


@pytest.mark.parametrize("document", [None, [], "plan", 1])
def test_what_is_no_document_is_no_plan(document: object) -> None:
    with pytest.raises(InvalidInput) as refused:
        parse_plan(document)
    assert refused.value.code == "plan_invalid"


def test_a_plan_that_is_nested_too_deep_is_refused() -> None:
    deep: Any = {}
    for _ in range(5_000):
        deep = {"parameters": deep}
    with pytest.raises(InvalidInput) as refused:
        parse_plan(deep)
    assert refused.value.code == "plan_invalid"


def test_cells_of_its_own_find_what_they_need(read: Read, tmp_path: Path) -> None:
    document = proposed(read, "s2_fisher_iris.pdf").model_dump(mode="json")
    source = "for metric, target in TARGETS.items():\n    report(metric, SEED + 0.5, target['split'])"
    plan = parse_plan(document | {"template": None, "notebook": [{"source": source}]})
    assert set(measured(plan, tmp_path / "run", seed=7).values()) == {7.5}
    with pytest.raises(InvalidInput) as refused:
        cells(plan, "nothing-of-the-kind", 0)
    assert refused.value.code == "alternative_unknown"
