"""The table of what can be asked for: every kind of job, what it takes, and how it may be run.

A capability adds its kinds to `KINDS`; how a kind is carried out is said once, by the Dagster job of its name
(`assets/jobs.py`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final, Literal
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator
from pydantic_core import PydanticCustomError

from stemma.errors import InvalidInput

if TYPE_CHECKING:
    from stemma.store.database import Connection


class Input(BaseModel):
    """What a kind takes; nothing else is accepted."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    @field_validator("*")
    @classmethod
    def _storable(cls, value: Any) -> Any:
        if isinstance(value, str) and "\0" in value:
            raise PydanticCustomError("text_holds_nul", "The text holds the character U+0000")
        return value


class Nothing(Input):
    """No input."""


class OfSource(Input):
    """A source of the knowledge base."""

    source: str = Field(min_length=1, max_length=63, description="The source's name", examples=["inbox"])


class OfAgent(Input):
    """An agent; what it was asked is kept with its call."""

    agent: str = Field(min_length=1, max_length=32, description="The agent's name", examples=["nova"])


class OfLayer(Input):
    """A layer of the map."""

    layer: str = Field(min_length=1, max_length=64, description="The layer's id", examples=["columbus-crime"])


class OfPaper(Input):
    """A paper."""

    paper: str = Field(
        pattern=r"^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$",
        description="The paper's id",
        examples=["8e03978e-40d5-43dd-bc93-6894a57f9324"],
    )


class OfPaperRun(OfPaper):
    """A run of a paper's plan that was asked for."""

    run: str = Field(
        pattern=r"^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$",
        description="The run's id, of POST /api/v1/plans/{plan_id}/run, which submits this job",
        examples=["5b0f8c1e-8d8c-4d1c-9a5b-0f2a6f2a7c11"],
    )


def _yesterday() -> str:
    return (datetime.now(UTC).date() - timedelta(days=1)).isoformat()


class OfDay(Input):
    """A day that is over."""

    day: str = Field(
        default_factory=_yesterday,
        pattern=r"^[0-9]{4}-[0-9]{2}-[0-9]{2}$",
        description="A day (UTC) that is over; by default yesterday",
        examples=["2026-01-31"],
    )


class Pause(Input):
    """What a job that does nothing may be asked for."""

    message: str = Field(default="nothing was done", max_length=500, description="What its event says")
    seconds: float = Field(default=0.0, ge=0, le=600, description="How long it takes")


def _no_check(connection: Connection, given: Any) -> None:
    """Whatever the model takes can be worked on."""


def _check_source(connection: Connection, given: OfSource) -> None:
    from stemma.knowledge import sources

    sources.get(connection, given.source)


def _check_layer(connection: Connection, given: OfLayer) -> None:
    from stemma.maps.catalog import find_layer

    find_layer(connection, given.layer)


def _check_paper(connection: Connection, given: OfPaper) -> None:
    from stemma.papers.catalog import get_paper

    get_paper(connection, UUID(given.paper))


def _check_day(connection: Connection, given: OfDay) -> None:
    try:
        over = date.fromisoformat(given.day) < datetime.now(UTC).date()
    except ValueError:
        over = False
    if not over:
        what = f"{given.day} is no day that is over."
        raise InvalidInput("job_input_invalid", what, field="input.day", hint="Days are those of UTC.")


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of job.

    `materializes` says that its run materializes assets, `partition` which field of the input names their partition.
    `permission` is needed beside `jobs:write`. One attempt is for what must not be done twice. `check` raises for input
    that could never be worked on. What is executed in the API begins there by a request of its own, is never queued,
    and no run of Dagster's is behind it.
    """

    name: str
    description: str
    input: type[Input] = Nothing
    materializes: bool = False
    partition: str | None = None
    permission: str | None = None
    max_attempts: int = 1
    max_runtime: timedelta = timedelta(hours=1)
    check: Callable[[Connection, Any], None] = _no_check
    executed_in: Literal["dagster", "api"] = "dagster"

    @property
    def dagster_job(self) -> str:
        """The Dagster job that carries it out; their names allow no more than letters, digits and `_`."""
        return "job_" + self.name.replace("-", "_").replace(":", "_")

    def checked(self, connection: Connection, given: dict[str, Any]) -> dict[str, Any]:
        """The input as it is kept, with its defaults; raises InvalidInput naming the field, or what `check` says."""
        try:
            model = self.input.model_validate(given, strict=True)
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            where = ".".join(["input", *map(str, first["loc"])])
            hint = f"`stemma jobs kinds` shows what {self.name} takes."
            raise InvalidInput("job_input_invalid", f"{first['msg']}.", field=where, hint=hint) from error
        self.check(connection, model)
        return model.model_dump(mode="json")


_ALL: Final = (
    Kind(
        "agent:call",
        "Has an agent answer",
        input=OfAgent,
        permission="agents:call",
        executed_in="api",
    ),
    Kind(
        "agents:distil",
        "Distils what agents learned on a day",
        input=OfDay,
        materializes=True,
        partition="day",
        permission="agents:operate",
        max_attempts=3,
        check=_check_day,
    ),
    Kind(
        "noop",
        "Does nothing, after a pause if one is asked for: shows that jobs are run",
        input=Pause,
        max_runtime=timedelta(minutes=15),
    ),
    Kind(
        "convert",
        "Reads one source again and converts what changed to text",
        input=OfSource,
        materializes=True,
        partition="source",
        permission="ingest:write",
        max_attempts=3,
        check=_check_source,
    ),
    Kind(
        "embed",
        "Cuts and embeds the converted documents of one source",
        input=OfSource,
        materializes=True,
        partition="source",
        permission="ingest:write",
        max_attempts=3,
        max_runtime=timedelta(hours=6),
        check=_check_source,
    ),
    Kind(
        "search-index",
        "Builds, checks and activates the search index over all sources",
        materializes=True,
        permission="ingest:write",
        max_attempts=3,
        max_runtime=timedelta(hours=6),
    ),
    Kind(
        "map:build",
        "Reads and cleans one map layer, builds and checks its tiles, and serves them",
        input=OfLayer,
        materializes=True,
        partition="layer",
        permission="map:write",
        max_attempts=3,
        max_runtime=timedelta(hours=6),
        check=_check_layer,
    ),
    Kind(
        "governance:aggregate",
        "Sums up a day's features and fills in the vectors of its decisions",
        input=OfDay,
        materializes=True,
        partition="day",
        permission="decide:operate",
        max_attempts=3,
        check=_check_day,
    ),
    Kind(
        "governance:distil",
        "Distils a day into a snapshot, scorecards and a drift report",
        input=OfDay,
        materializes=True,
        partition="day",
        permission="decide:operate",
        max_attempts=3,
        check=_check_day,
    ),
    Kind(
        "paper:pages",
        "Reads the pages of one paper again",
        input=OfPaper,
        materializes=True,
        partition="paper",
        permission="papers:write",
        max_attempts=3,
        max_runtime=timedelta(minutes=15),
        check=_check_paper,
    ),
    Kind(
        "paper:extract",
        "Finds what one paper claims",
        input=OfPaper,
        materializes=True,
        partition="paper",
        permission="papers:write",
        max_attempts=3,
        max_runtime=timedelta(minutes=15),
        check=_check_paper,
    ),
    Kind(
        "paper:plan",
        "Plans how to reproduce what one paper claims",
        input=OfPaper,
        materializes=True,
        partition="paper",
        permission="papers:write",
        max_attempts=3,
        max_runtime=timedelta(minutes=15),
        check=_check_paper,
    ),
    Kind(
        "paper:report",
        "Reports on one paper, once what would close a gap was run",
        input=OfPaper,
        materializes=True,
        partition="paper",
        permission="papers:write",
        max_attempts=2,
        max_runtime=timedelta(hours=3),
        check=_check_paper,
    ),
    Kind(
        "paper:materialize",
        "Reads one paper, finds what it claims, and plans how to reproduce it",
        input=OfPaper,
        materializes=True,
        partition="paper",
        permission="papers:write",
        max_attempts=3,
        max_runtime=timedelta(minutes=15),
        check=_check_paper,
    ),
    Kind(
        "paper:run",
        "Executes the notebook of a paper's plan in a sandbox",
        input=OfPaperRun,
        materializes=True,
        partition="paper",
        permission="papers:run",
        max_runtime=timedelta(hours=6),
        check=_check_paper,
    ),
)

KINDS: Final[dict[str, Kind]] = {kind.name: kind for kind in _ALL}


def find(name: str) -> Kind:
    """The kind of this name; raises InvalidInput that names those that there are."""
    if name not in KINDS:
        hint = f"The kinds are {', '.join(sorted(KINDS))}."
        raise InvalidInput("job_kind_unknown", f"There is no kind of job {name!r}.", field="kind", hint=hint)
    return KINDS[name]
