"""Claims and plans that a model gives: what it makes up is dropped, and what it writes has to hold."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from stemma.errors import InvalidInput
from stemma.llm.model import Caller, Completion, Finished, Message, Prompt, Usage
from stemma.llm.providers.base import Request
from stemma.llm.providers.responses import body
from stemma.papers.asking import SCHEMA as PLAN_SCHEMA
from stemma.papers.asking import ask_for_plan
from stemma.papers.claims.asking import SCHEMA, ask_for_claims
from stemma.papers.kid.asking import SCHEMA as STORY_SCHEMA
from stemma.papers.pages import read_pages
from stemma.store.settings import Settings

CALLER = Caller(actor="test", route="test", op="claims", request_id="test")
SETTINGS = Settings(home=Path("unused"))


class Scripted:
    """A model that gives the same answer to whatever it is asked, and keeps the questions."""

    def __init__(self, answer: Any) -> None:
        self.answer = answer if isinstance(answer, str) else json.dumps(answer)
        self.asked: list[Prompt] = []

    def __call__(self, prompt: Prompt, caller: Caller) -> Completion:
        self.asked.append(prompt)
        return Completion(self.answer, Finished("local", "test", "stop", Usage(1, 1), None, 1.0, 1.0))


def said(printed: str, page: int, **more: Any) -> dict[str, Any]:
    """A claim as a model lists it."""
    known = {"metric": "accuracy", "unit": None, "dataset": "pima", "method": "SVM", "split": None, "quote": "so good"}
    return {**known, "printed": printed, "page": page, **more}


def test_what_a_model_finds_is_proposed_as_the_page_prints_it(make_pdf: Callable[..., bytes]) -> None:
    pages = read_pages(make_pdf(["nothing here"], ["We got 81.2 % right.", "They got 79.9 %."]), SETTINGS)
    listed = [
        said("81.2", 2, unit="%"),
        said("79.9", 1),
        said("99.9", 2),
        said("81.2", 7),
        said("most", 2),
        said("", 2),
    ]
    model = Scripted({"claims": [*listed, said("81.2", 2, metric=""), "no claim"]})
    jsonschema.validate({"claims": listed}, SCHEMA)
    asked = ask_for_claims(pages, model, CALLER)
    (claim,) = asked.claims
    assert (claim.printed, claim.page, claim.unit, claim.origin) == ("81.2", 2, "%", "model")
    assert claim.quote == "We got 81.2 % right." and claim.confidence < 0.9
    assert asked.dropped == 6
    (prompt,) = model.asked
    assert prompt.schema == SCHEMA and "offline" not in prompt.providers
    assert '<page number="2">' in prompt.messages[-1].text


@pytest.mark.parametrize("answer", ["not JSON", "[]", "{}", '{"claims": 1}', "null"])
def test_an_answer_that_is_none_claims_nothing(answer: str, make_pdf: Callable[..., bytes]) -> None:
    asked = ask_for_claims(read_pages(make_pdf(["accuracy 0.5"]), SETTINGS), Scripted(answer), CALLER)
    assert (asked.claims, asked.dropped) == ((), 0)


def test_a_long_paper_is_asked_about_piece_by_piece(make_pdf: Callable[..., bytes]) -> None:
    pages = read_pages(make_pdf(*(["long words and more of them " * 4] * 35 for _ in range(12))), SETTINGS)
    model = Scripted({"claims": []})
    ask_for_claims(pages, model, CALLER)
    assert len(model.asked) > 1
    assert sum(prompt.messages[-1].text.count("<page ") for prompt in model.asked) == 12


def plan_of(claim: str, **more: Any) -> dict[str, Any]:
    return {
        "method": "LDA",
        "description": "It is done again.",
        "dataset": {"name": "wine", "package": "scikit-learn", "loader": "sklearn.datasets.load_wine"},
        "packages": ["scikit-learn"],
        "stochastic": False,
        "targets": [{"id": claim, "metric": "lda", "split": "loo"}],
        "cells": ["report('lda', 98.9, 'loo')"],
        **more,
    }


def test_a_plan_that_a_model_writes_is_about_what_the_paper_claims(read: Callable[[str], Any]) -> None:
    known = read("s1_wine_loo.pdf")
    claim = known.claims[0]
    answer = plan_of(str(claim.id))
    jsonschema.validate(answer, PLAN_SCHEMA)
    plan = ask_for_plan(known.paper, known.claims, Scripted(answer), CALLER)
    (target,) = plan.targets
    assert (target.claimed, target.page, target.quote) == (claim.value, claim.page, claim.quote)
    assert plan.template is None and plan.notebook[0].source.startswith("report")


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"targets": [{"id": "8e03978e-40d5-43dd-bc93-6894a57f9324", "metric": "a", "split": "b"}]}, "plan_unusable"),
        ({"targets": []}, "plan_invalid"),
        ({"cells": []}, "plan_invalid"),
        ({"cells": ["import torch; torch.zeros(1).cuda()"]}, "E_GPU_REQUESTED"),
        ({"dataset": None}, "plan_invalid"),
        ({"method": None}, "plan_unusable"),
    ],
)
def test_a_plan_that_does_not_hold_is_refused(change: dict[str, Any], code: str, read: Callable[[str], Any]) -> None:
    known = read("s1_wine_loo.pdf")
    answer = plan_of(str(known.claims[0].id)) | change
    with pytest.raises(InvalidInput) as refused:
        ask_for_plan(known.paper, known.claims, Scripted(answer), CALLER)
    assert refused.value.code == code


def test_what_a_model_is_asked_for_it_is_held_to() -> None:
    def strict(schema: dict[str, Any]) -> bool:
        said = body(Request((Message("user", "Hello?"),), "small", (), schema, 10, None))
        return said["text"]["format"]["strict"] is True

    assert all(map(strict, (SCHEMA, PLAN_SCHEMA, STORY_SCHEMA)))
    open_within = {**SCHEMA["properties"]["claims"]["items"], "additionalProperties": True}
    optional = {**SCHEMA, "required": []}
    inner = {**SCHEMA, "properties": {"claims": {"type": "array", "items": open_within}}}
    assert not any(map(strict, (optional, inner, {"type": "object"})))
