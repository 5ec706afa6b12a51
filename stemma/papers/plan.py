"""The plan document: what is to be measured, on what, how, and within which limits. Its JSON Schema is published.

Here is what a plan may say; which template writes one, and what notebook follows from it, is `templates`' business.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal, Self
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from stemma.errors import InvalidInput
from stemma.telemetry import tracing

MAX_WALL_MINUTES: Final = 25
MAX_TOTAL_MINUTES: Final = 120
MAX_MEMORY_MB: Final = 2048
LEAST_SEEDS: Final = 5
MAX_SEEDS: Final = 20
MAX_TARGETS: Final = 50
MAX_ALTERNATIVES: Final = 12
MAX_CELLS: Final = 100

CAP_EXCEEDED: Final = "policy.cap.exceeded"
"""The label of a span in which a plan asked for more than it may have; it names the cap."""

Parameter = str | int | float | bool | None | tuple[str | int | float, ...]
Parameters = dict[Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,62}$")], Parameter]
Text = Annotated[str, Field(min_length=1, max_length=2000)]
Name = Annotated[str, Field(min_length=1, max_length=200)]
Slug = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,99}$")]


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class GpuRequested(InvalidInput):
    """A plan asks for a GPU; there is none for notebooks."""

    status = 400
    title = "GPU requested"


class CapExceeded(InvalidInput):
    """A plan asks for more than a run may have; `cap` names the limit in the plan."""

    title = "Cap exceeded"

    def __init__(self, cap: str, asked: float, most: float) -> None:
        super().__init__(
            "E_CAP_EXCEEDED",
            f"The plan asks for {cap} = {asked:g}; at most {most:g} are given.",
            field=f"document.{cap}",
            hint=f"Ask for {most:g} or less.",
        )
        self.cap = cap


class Target(_Model):
    """One claim that is to be measured.

    The notebook reports it as `metric` and `split`, in the unit of the claim. `tolerance` is how far a value may lie
    from the claimed one, in the same unit: by default one and a half units of the last printed digit, so that, rounded
    alike, they differ by one unit at most, which takes in what was rounded while it was worked out by hand.
    `parameters` go before those of the method.
    """

    claim: UUID
    metric: Slug
    split: Name
    label: Name
    claimed: float
    printed: Name
    decimals: int = Field(ge=0, le=20)
    unit: Name | None
    tolerance: float = Field(gt=0)
    page: int = Field(ge=1)
    box: tuple[float, float, float, float]
    quote: Text
    parameters: Parameters = {}


class Dataset(_Model):
    """The data, and how a notebook without a network gets them: a file or loader that an installed package brings."""

    name: Name
    package: Name = Field(description="Distribution that brings the data", examples=["scikit-learn"])
    loader: Name = Field(description="What loads them", examples=["sklearn.datasets.load_wine"])
    licence: Name | None = None
    note: Text | None = None


class Method(_Model):
    """How the targets are measured. `substitution` says what stands in for a method that could not be had."""

    name: Name
    description: Text
    parameters: Parameters = {}
    substitution: Text | None = None


class Environment(_Model):
    """What a notebook runs in; only the packages are a choice."""

    packages: tuple[Name, ...] = Field(max_length=20, description="Distributions that have to be installed")
    accelerator: Literal["cpu"] = "cpu"
    threads: Literal[1] = 1
    hash_seed: Literal[0] = 0
    memory_mb: int = Field(default=1024, ge=64, le=MAX_MEMORY_MB)


class Timeouts(_Model):
    """Minutes: of one execution of the notebook, and of all executions that a report rests on."""

    wall_minutes: float = Field(default=5, gt=0, le=MAX_WALL_MINUTES)
    total_minutes: float = Field(default=60, gt=0, le=MAX_TOTAL_MINUTES)


class Alternative(_Model):
    """Another way to measure some targets, tried when what the plan says first leaves a gap.

    `parameters` go before those of target and method; `targets` are the metrics that it measures.
    """

    name: Slug
    description: Text
    targets: tuple[Slug, ...] = Field(min_length=1)
    parameters: Parameters = Field(min_length=1)


class Cell(_Model):
    """A cell of a notebook."""

    kind: Literal["code", "markdown"] = "code"
    source: str = Field(min_length=1, max_length=100_000)


class PlanDocument(_Model):
    """A plan. Its cells come from a template, or are its own (`notebook`).

    Cells of its own find `SEED`, `ALTERNATIVE` and `TARGETS` (parameters by metric), and report by
    `report(metric, value, split)`. A stochastic method is run once for each seed, of which it has at least 5.
    """

    schema_version: Literal[1] = 1
    title: Name
    template: Slug | None = None
    targets: tuple[Target, ...] = Field(min_length=1, max_length=MAX_TARGETS)
    dataset: Dataset
    method: Method
    environment: Environment
    stochastic: bool = False
    seeds: tuple[Annotated[int, Field(ge=0, lt=2**32)], ...] = Field(default=(0,), min_length=1, max_length=MAX_SEEDS)
    timeouts: Timeouts = Timeouts()
    alternatives: tuple[Alternative, ...] = Field(default=(), max_length=MAX_ALTERNATIVES)
    notebook: tuple[Cell, ...] = Field(default=(), max_length=MAX_CELLS)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if (self.template is None) is not bool(self.notebook):
            raise ValueError("either a template is named, or the plan has cells of its own")
        if self.stochastic and len(set(self.seeds)) < LEAST_SEEDS:
            raise ValueError(f"a stochastic method needs {LEAST_SEEDS} different seeds")
        metrics = [target.metric for target in self.targets]
        _require_unique("metric", metrics)
        _require_unique("alternative", [alternative.name for alternative in self.alternatives])
        for alternative in self.alternatives:
            if unknown := set(alternative.targets).difference(metrics):
                raise ValueError(f"alternative {alternative.name} names {min(unknown)}, which is no target")
        return self

    def measured_by(self, alternative: str | None) -> tuple[Target, ...]:
        """The targets that are measured by an alternative, all without one; raises InvalidInput for an unknown one."""
        if alternative is None:
            return self.targets
        wanted = self.alternative(alternative).targets
        return tuple(target for target in self.targets if target.metric in wanted)

    def parameters(self, target: Target, alternative: str | None) -> Parameters:
        """What a target is measured with: those of the alternative go before its own, its own before the method's."""
        changed = {} if alternative is None else self.alternative(alternative).parameters
        return {**self.method.parameters, **target.parameters, **changed}

    def alternative(self, name: str) -> Alternative:
        """The alternative of that name; raises InvalidInput."""
        for alternative in self.alternatives:
            if alternative.name == name:
                return alternative
        known = ", ".join(alternative.name for alternative in self.alternatives) or "none"
        raise InvalidInput(
            "alternative_unknown",
            f"The plan has no alternative {name!r}.",
            field="alternative",
            hint=f"There are: {known}.",
        )


def parse_plan(document: object) -> PlanDocument:
    """A plan from what a JSON document holds.

    Raises InvalidInput(plan_invalid) with the field; GpuRequested; CapExceeded.
    """
    try:
        if isinstance(document, Mapping):
            _refuse_gpu(document)
            _refuse_excess(document)
        return PlanDocument.model_validate(document)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(["document", *map(str, first["loc"])])
        raise InvalidInput("plan_invalid", f"{first['msg']}.", field=where) from error
    except RecursionError as error:
        raise InvalidInput("plan_invalid", "The plan is nested too deep.", field="document") from error


def json_schema() -> dict[str, Any]:
    """The JSON Schema (2020-12) of a plan."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **PlanDocument.model_json_schema()}


_GPU: Final = re.compile(r"(?<![a-z])(gpus?|cuda|cudnn|rocm|nvidia|tpus?|cupy|mps)(?![a-z])", re.IGNORECASE)
# What a paper says is no wish of the plan.
_QUOTED: Final = frozenset({"quote", "title", "label", "description", "note", "substitution"})


def _refuse_gpu(document: Any, where: str = "document") -> None:
    """Raises GpuRequested for a plan that asks for a GPU anywhere: by a name with a value, or in a text or code."""
    if isinstance(document, Mapping):
        for name, value in document.items():
            if _GPU.search(str(name).replace("_", " ")) and value not in (None, False, 0, "", "none"):
                raise _gpu_requested(f"{where}.{name}")
            if name not in _QUOTED:
                _refuse_gpu(value, f"{where}.{name}")
    elif isinstance(document, (list, tuple)):
        for index, value in enumerate(document):
            _refuse_gpu(value, f"{where}.{index}")
    elif isinstance(document, str) and _GPU.search(document.replace("_", " ")):
        raise _gpu_requested(where)


def _gpu_requested(where: str) -> GpuRequested:
    hint = "Notebooks run on the CPU; leave it out."
    return GpuRequested("E_GPU_REQUESTED", "The plan asks for a GPU, and there is none.", field=where, hint=hint)


_CAPS: Final = {
    ("timeouts", "wall_minutes"): MAX_WALL_MINUTES,
    ("timeouts", "total_minutes"): MAX_TOTAL_MINUTES,
    ("environment", "memory_mb"): MAX_MEMORY_MB,
}


def _refuse_excess(document: Mapping[Any, Any]) -> None:
    for (part, name), most in _CAPS.items():
        given = document.get(part)
        asked = given.get(name) if isinstance(given, Mapping) else None
        if isinstance(asked, (int, float)) and asked > most:
            raise _excess(f"{part}.{name}", asked, most)
    for name, most in {"seeds": MAX_SEEDS, "alternatives": MAX_ALTERNATIVES, "targets": MAX_TARGETS}.items():
        listed = document.get(name)
        if isinstance(listed, (list, tuple)) and len(listed) > most:
            raise _excess(name, len(listed), most)


def _excess(cap: str, asked: float, most: float) -> CapExceeded:
    tracing.label(CAP_EXCEEDED, cap)
    return CapExceeded(cap, asked, most)


def _require_unique(what: str, names: list[str]) -> None:
    doubled = {name for name in names if names.count(name) > 1}
    if doubled:
        raise ValueError(f"{what} {min(doubled)} is there twice")
