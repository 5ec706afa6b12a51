"""What a storyboard is, and telling one of a paper's claims from templates: short sentences, plain words.

A pure function of claims and figures. How it is kept is the business of `keeping`, how it is drawn that of the console.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Final, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field

from stemma.papers.kid.readability import Readability, measure
from stemma.papers.reports.verdicts import Verdict

Picture = Literal[
    "paper", "flower", "glass", "cells", "wave", "coins", "dots", "wall", "neighbors", "line", "ruler", "robot", "bars"
]
PICTURES: Final[tuple[str, ...]] = get_args(Picture)

Line = Annotated[str, Field(min_length=1, max_length=80)]
Text = Annotated[str, Field(min_length=1, max_length=600)]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Page(_Part):
    """One page: what it says, what its picture shows for whoever cannot see it, and which picture that is."""

    title: Line
    body: Text
    alt_text: Text
    visual_hint: Picture


class Term(_Part):
    """A word of the glossary."""

    term: Line
    meaning: Text


class Score(_Part):
    """The paper's value beside ours, as they are drawn and as they are said."""

    paper: float
    ours: float
    paper_said: Line
    ours_said: Line


class Storyboard(_Part):
    """Five to seven pages with a glossary; `score` belongs to the last page, once there was a run.

    `told_by` names the model that wrote all pages but the last.
    """

    pages: Annotated[tuple[Page, ...], Field(min_length=5, max_length=7)]
    glossary: Annotated[tuple[Term, ...], Field(min_length=1, max_length=12)]
    score: Score | None = None
    told_by: Line = "templates"

    def read(self) -> Readability:
        """How easy it is to read: all that it says, what pictures show and the glossary included."""
        parts = [text for page in self.pages for text in (page.title, page.body, page.alt_text)]
        return measure("\n".join([*parts, *(term.meaning for term in self.glossary)]))


@dataclass(frozen=True, slots=True)
class Told:
    """What is told of a claim: its value as the page prints it, and what it is a value of."""

    printed: str
    unit: str
    metric: str
    dataset: str
    method: str


@dataclass(frozen=True, slots=True)
class Found:
    """What a run found: its value as the paper would print it, the verdict, and whether another way closed a gap."""

    claimed: float
    observed: float
    observed_said: str
    verdict: Verdict
    closed: bool = False


@dataclass(frozen=True, slots=True)
class _Scene:
    """What is said where the pattern is found."""

    pattern: str
    body: str
    alt_text: str
    picture: Picture
    terms: tuple[tuple[str, str], ...] = ()


# EDIT HERE: what is told of the things that papers look at, their rules, and their numbers.
_THINGS: Final = (
    _Scene(
        r"iris",
        "They looked at a blue flower with the name iris. There is more than one kind of it. They took a ruler to "
        "every flower. How long is each leaf, and how wide? They wrote down all the numbers.",
        "A flower with five blue leaves on a green stem.",
        "flower",
        (("Iris", "A tall flower. It can be blue."),),
    ),
    _Scene(
        r"wine",
        "They looked at wine that came from three different farms. They put a bit of each in a test tube and wrote "
        "down what was in it. Can you tell the farm from that?",
        "A glass, half full of red wine.",
        "glass",
    ),
    _Scene(
        r"breast|cancer|wdbc|cell|cytolog|tumou?r",
        "They looked at cells. Cells are the little bricks that make up your body. Some of the cells were sick, and "
        "some were well. They wrote down how big and how smooth each one was.",
        "Six round cells with a dark dot in the middle. One cell is bigger than the others.",
        "cells",
        (("Cell", "A little brick of your body. You have more of them than you can count."),),
    ),
    _Scene(
        r"ucr|gunpoint|italypower|arrowhead|osuleaf|time series|ecg",
        "They looked at lines that go up and down, like a path over the hills. One line can show how a hand moved. "
        "Another one can show the edge of a leaf.",
        "A long line that goes up and down like hills.",
        "wave",
    ),
    _Scene(
        r"food|engel|income|expenditure|price|wage",
        "They asked a lot of families. How much money do you have? How much of it do you spend on food? They wrote "
        "down all the answers.",
        "Three piles of coins. Every pile is taller than the one before.",
        "coins",
    ),
)
_ANYTHING: Final = _Scene(
    "",
    "They looked at a lot of facts and put all of them into one long list. A list like that is called data.",
    "Many dots on a page. Some sit close together, and some are far away.",
    "dots",
)
_RULES: Final = (
    _Scene(
        r"\d*-?nn\b|nearest|neighbou?r",
        "They made up a rule. You see a new thing. What kind is it? Look for the old thing that is most like it, and "
        "say that they are of the same kind. It is like asking the neighbor next door.",
        "A dot with a ring around it. A short line goes from it to the closest dot.",
        "neighbors",
    ),
    _Scene(
        r"discriminant|\b[lq]da\b|plane|svm|support vector|linear|logistic|perceptron",
        "They made up a rule. Think of a garden with a wall in the middle. One kind of thing is on the left side, and "
        "the other kind is on the right. The rule says where the wall has to stand.",
        "A wall with round dots on the left and square ones on the right.",
        "wall",
    ),
    _Scene(
        r"regression|quantile|least squares|betareg|ols|glm",
        "They made up a rule. Put a dot on the paper for every fact. Now draw one line that runs close to all the "
        "dots. The line helps you to guess where the next dot will be.",
        "Some dots, and one line that runs close to them.",
        "line",
    ),
)
_SOME_RULE: Final = _Scene(
    "",
    "They made up a rule. A rule says what to do, step by step. A computer can follow every step, and it never gets "
    "tired.",
    "A robot at work. It has a box head and two round eyes.",
    "robot",
)
_SHEET: Final = "A sheet of paper with lines on it. One of the lines has a ring around it."
_RULER: Final = "A ruler with a mark on it."

SHOWS: Final[dict[str, str]] = {
    "paper": _SHEET,
    **{scene.picture: scene.alt_text for scene in (*_THINGS, _ANYTHING, *_RULES, _SOME_RULE)},
    "ruler": _RULER,
}
"""What each picture shows, but for that of the last page."""

_NUMBERS: Final = (
    (
        r"accuracy|correct|precision|recall|\bf1\b",
        "It says how often the rule was right, so a bigger number is better.",
    ),
    (r"error|loss|rmse|mae|mse", "It says how far off the rule was, so a smaller number is better."),
    (
        r"coef|slope|intercept|weight|beta|phi",
        "It says how much one part of the rule counts. A big number counts a lot.",
    ),
)
_SOME_NUMBER: Final = "It says how well the test went."
_GLOSSARY: Final = (
    ("Paper", "A text in which people say what they found out, and how."),
    ("Claim", "A thing that you say is true."),
    ("Data", "A long list of facts."),
    ("Test", "A way to find out if a thing is true."),
    ("Match", "To be the same."),
)


def tell(claims: Sequence[Told], found: Found | None = None) -> Storyboard:
    """A storyboard of six pages on the first of a paper's claims, which is what its report is about.

    Without claims it says that there is no number yet. `found` is what the newest run found, None before there was one.
    """
    first = claims[0] if claims else None
    things = _scene(_THINGS, _ANYTHING, f"{first.dataset} {first.metric}" if first else "")
    rule = _scene(_RULES, _SOME_RULE, f"{first.method} {first.metric}" if first else "")
    pages = (
        _opening(first, len(claims)),
        Page(title="What They Looked At", body=things.body, alt_text=things.alt_text, visual_hint=things.picture),
        Page(title="What They Did", body=rule.body, alt_text=rule.alt_text, visual_hint=rule.picture),
        _meaning(first),
        Page(
            title="Now We Try",
            body="Now it is our turn. We take the same facts and use the same rule. A computer does all the work in "
            "a safe box, where it can not peek at the web. It does the test two times, and both have to match.",
            alt_text="A robot with a box for a head and two round eyes.",
            visual_hint="robot",
        ),
        _ending(first, found),
    )
    words = (*_GLOSSARY, *things.terms, *rule.terms)
    glossary = tuple(Term(term=term, meaning=meaning) for term, meaning in words)
    return Storyboard(pages=pages, glossary=glossary, score=_score(first, found))


def with_ending(storyboard: Storyboard, claims: Sequence[Told], found: Found) -> Storyboard:
    """The same storyboard, whoever told it, with its last page anew: what a run found."""
    first = claims[0] if claims else None
    pages = (*storyboard.pages[:-1], _ending(first, found))
    return storyboard.model_copy(update={"pages": pages, "score": _score(first, found)})


def _scene(scenes: Sequence[_Scene], otherwise: _Scene, text: str) -> _Scene:
    return next((scene for scene in scenes if re.search(scene.pattern, text, re.IGNORECASE)), otherwise)


def _opening(claim: Told | None, count: int) -> Page:
    if claim is None:
        said = "We looked for a number in it, but we did not find one yet."
    else:
        said = f"In it there is a number. It is {_said(claim.printed, claim.unit)}."
        said += f" There are {count - 1} more." if count > 1 else ""
    return Page(
        title="A Paper Says a Thing",
        body=f"Some people did a test and wrote a paper about it. {said} When you say that a thing is true, you make a "
        "claim. But is it really true? Let us find out!",
        alt_text=_SHEET,
        visual_hint="paper",
    )


def _meaning(claim: Told | None) -> Page:
    meaning = _SOME_NUMBER
    if claim is not None:
        named = (said for pattern, said in _NUMBERS if re.search(pattern, claim.metric, re.IGNORECASE))
        meaning = next(named, _SOME_NUMBER)
    of_hundred = " It is out of one hundred tries." if claim is not None and _is_percent(claim.unit) else ""
    return Page(
        title="What the Number Says",
        body=f"What does the number tell us? {meaning}{of_hundred} We want to see if we get the same one when we try.",
        alt_text=_RULER,
        visual_hint="ruler",
    )


def _ending(claim: Told | None, found: Found | None) -> Page:
    title = "What We Found"
    if claim is None or found is None:
        return Page(
            title=title,
            body="We have not done the test yet. When it is done, you will see two bars here. One is for the paper, "
            "and one is for us. Do you think that they will match?",
            alt_text="A place for two bars. It is still empty.",
            visual_hint="bars",
        )
    paper, ours = _said(claim.printed, claim.unit), _said(found.observed_said, claim.unit)
    after = {
        Verdict.REPRODUCED: "They match! We did the test again, and it came out the same. Now we can trust the paper "
        "a bit more than before.",
        Verdict.NOT_REPRODUCED: "They do not match. That does not make the people bad. It may be that one step of "
        "the test was not the same, so we have to look at it again.",
        Verdict.INCONCLUSIVE: "So do they match? We can not tell yet. It may be that one step of the test was not the "
        "same, so we have to look at it again.",
    }[found.verdict]
    closed = " Then we did one step in a new way, and it came out just like in the paper!" if found.closed else ""
    return Page(
        title=title,
        body=f"The paper says {paper}. We got {ours}. {after}{closed}",
        alt_text=f"Two bars. The left bar is the paper. It stands at {paper}. The right bar is us. It stands at "
        f"{ours}. {_beside(found)}",
        visual_hint="bars",
    )


def _score(claim: Told | None, found: Found | None) -> Score | None:
    if claim is None or found is None:
        return None
    return Score(
        paper=found.claimed,
        ours=found.observed,
        paper_said=_said(claim.printed, claim.unit),
        ours_said=_said(found.observed_said, claim.unit),
    )


def _beside(found: Found) -> str:
    if found.verdict is Verdict.REPRODUCED:
        return "They look the same."
    return "Our bar is a bit taller." if abs(found.observed) > abs(found.claimed) else "Our bar is not as tall."


def _said(value: str, unit: str) -> str:
    return f"{value}%" if _is_percent(unit) else value


def _is_percent(unit: str) -> bool:
    return unit.strip().lower() in ("%", "percent", "per cent")
