"""Stories that a model tells: what it makes up, or says in hard words, is not kept."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import jsonschema
import pytest

from stemma.errors import InvalidInput, StemmaError, Unavailable
from stemma.llm.model import Caller, Completion, Finished, Prompt, Usage
from stemma.papers.kid.asking import SCHEMA, Telling, ask_for_story, read_story
from stemma.papers.kid.readability import GRADE
from stemma.papers.kid.storyboard import SHOWS, Told, tell

CALLER = Caller(actor="test", route="test", op="explain", request_id="test")
CLAIMS = [Told("98.9", "%", "LOO accuracy", "wine", "LDA"), Told("1,234.50", "", "error", "wine", "5-NN")]


def page(body: str = "They had some wine. They put it in a glass.", **more: str) -> dict[str, str]:
    return {"title": "The Wine", "body": body, "picture": "glass", **more}


def story(*pages: dict[str, str], **more: Any) -> dict[str, Any]:
    told = list(pages) or [page(), page("Is it 98.9? It can be."), page("One is 1,234.50."), page()]
    return {"pages": told, "glossary": [{"term": "Wine", "meaning": "A drink."}], **more}


def asked(*answers: object) -> tuple[Telling, list[Prompt]]:
    """What comes of asking a model that answers so, an error by raising it; and what it was asked."""
    waiting, prompts = list(answers), []

    async def complete(prompt: Prompt, caller: Caller) -> Completion:
        prompts.append(prompt)
        answer = waiting.pop(0)
        if isinstance(answer, StemmaError):
            raise answer
        text = answer if isinstance(answer, str) else json.dumps(answer)
        return Completion(text, Finished("local", "small", "stop", Usage(1, 1), None, 1.0, 1.0))

    return asyncio.run(ask_for_story(CLAIMS, complete, CALLER)), prompts


def test_a_story_that_holds_is_kept_with_what_its_pictures_show() -> None:
    jsonschema.validate(story(), SCHEMA)
    telling, (prompt,) = asked(story())
    told = telling.storyboard
    assert told is not None and telling.refused is None and told.told_by == "local/small"
    assert [one.alt_text for one in told.pages[:-1]] == [SHOWS["glass"]] * 4
    assert told.pages[-1] == tell(CLAIMS).pages[-1] and told.read().grade <= GRADE
    assert prompt.schema == SCHEMA and "offline" not in prompt.providers and "98.9" in prompt.messages[-1].text


@pytest.mark.parametrize(
    ("broken", "why"),
    [
        ("not JSON", "no storyboard"),
        ("[]", "no storyboard"),
        (story(page(), page(), page()), "five to seven pages"),
        (story(*[page()] * 7), "five to seven pages"),
        (story(page(picture="dragon"), page(), page(), page()), "no storyboard"),
        (story(page(alt_text="made up"), page(), page(), page()), "no storyboard"),
        (story(page(" "), page(), page(), page()), "no storyboard"),
        (story(glossary=[]), "no storyboard"),
        (story(page("It was 99.9 then."), page(), page(), page()), "says 99.9"),
        (story(page("It was 98.90 then."), page(), page(), page()), "says 98.90"),
        (story(page(title="7 Farms"), page(), page(), page()), "says 7"),
        (story(*[page("Discriminatory classification necessitates multidimensional analysis.")] * 4), "grade"),
    ],
)
def test_what_does_not_hold_is_refused_with_the_reason(broken: Any, why: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        read_story(broken if isinstance(broken, str) else json.dumps(broken), CLAIMS, "local/small")
    assert refused.value.code == "story_unusable" and why in refused.value.message


def test_a_model_is_told_once_what_is_wrong() -> None:
    telling, (_, again) = asked("not JSON", story())
    assert telling.storyboard is not None and "no storyboard" in again.messages[0].text
    telling, prompts = asked("not JSON", "nor this")
    assert telling.storyboard is None and "no storyboard" in (telling.refused or "") and len(prompts) == 2


def test_a_model_that_fails_leaves_it_to_the_templates() -> None:
    assert asked(Unavailable("provider_away", "It is away."))[0] == Telling(None, "It is away.")
    # Where there is none, none failed.
    assert asked(InvalidInput("provider_not_configured", "There is none."))[0] == Telling(None)
