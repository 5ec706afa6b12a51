"""Runs as Dagster knows them, through the GraphQL of its webserver.

Everything here raises Unavailable where the webserver does not answer. An event's seq is its place in the run's log:
Dagster reads a log from an offset, and writes to it in order.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any, Final

from stemma.errors import NotFound
from stemma.jobs.graphql import ask, refused
from stemma.runs.model import LEVELS, Check, Event, Level, Log, Made, Run, RunDetail, RunState, Step, StepState
from stemma.store.cursors import Page, cut_page, decode_cursor, encode_cursor
from stemma.store.settings import Settings

MOST_EVENTS: Final = 1000
"""What Dagster's webserver gives of a log at once."""

_TIMEOUT: Final = 5.0
_STATES: Final = {
    "QUEUED": RunState.QUEUED,
    "NOT_STARTED": RunState.QUEUED,
    "STARTING": RunState.STARTING,
    "MANAGED": RunState.RUNNING,
    "STARTED": RunState.RUNNING,
    "SUSPENDED": RunState.RUNNING,
    "CANCELING": RunState.CANCELLING,
    "SUCCESS": RunState.DONE,
    "FAILURE": RunState.FAILED,
    "CANCELED": RunState.CANCELLED,
}
_STEP_STATES: Final[dict[str, StepState]] = {"SUCCESS": "done", "FAILURE": "failed", "SKIPPED": "skipped"}
_RUN: Final = """
    fragment RunParts on Run {
        runId jobName status creationTime startTime endTime
        tags { key value }
        assetSelection(limit: 50) { path }
    }
"""
_MADE: Final = """
    fragment MadeParts on MaterializationEvent {
        timestamp stepKey partition assetKey { path }
        metadataEntries {
            label
            ... on IntMetadataEntry { intRepr }
            ... on FloatMetadataEntry { floatValue }
        }
    }
"""
_LOG: Final = """
    fragment LogParts on EventConnection {
        hasMore
        events {
            __typename
            ... on MessageEvent { message timestamp level stepKey eventType }
            ... on ErrorEvent { error { message causes { message } } }
            ... on AssetCheckEvaluationEvent {
                evaluation { checkName success severity description partition assetKey { path } }
            }
        }
    }
"""
_LIST: Final = f"""{_RUN}
    query Runs($filter: RunsFilter, $cursor: String, $limit: Int) {{
        runsOrError(filter: $filter, cursor: $cursor, limit: $limit) {{
            __typename
            ... on Runs {{ results {{ ...RunParts }} }}
            ... on Error {{ message }}
        }}
    }}
"""
_DETAIL: Final = f"""{_RUN}{_MADE}{_LOG}
    query Run($run: ID!, $limit: Int) {{
        runOrError(runId: $run) {{
            __typename
            ... on Run {{
                ...RunParts
                stats {{ ... on RunStatsSnapshot {{ enqueuedTime launchTime }} }}
                stepStats {{ stepKey status startTime endTime attempts {{ startTime }} }}
                assetMaterializations {{ ...MadeParts }}
                eventConnection(limit: $limit) {{ ...LogParts }}
            }}
            ... on Error {{ message }}
        }}
    }}
"""
_MORE_LOG: Final = f"""{_LOG}
    query Log($run: ID!, $after: String, $limit: Int) {{
        runOrError(runId: $run) {{
            __typename
            ... on Run {{ status eventConnection(afterCursor: $after, limit: $limit) {{ ...LogParts }} }}
            ... on Error {{ message }}
        }}
    }}
"""
_MADE_BY: Final = f"""{_MADE}
    query Made($filter: RunsFilter) {{
        runsOrError(filter: $filter) {{
            __typename
            ... on Runs {{ results {{ runId assetMaterializations {{ ...MadeParts }} }} }}
            ... on Error {{ message }}
        }}
    }}
"""


def list_runs(
    settings: Settings, *, state: RunState | None = None, cursor: str | None = None, limit: int = 50
) -> Page[Run]:
    """The newest runs first, all or those in a state; raises InvalidInput(field="cursor")."""
    after = decode_cursor("runs", cursor, str)[0] if cursor else None
    statuses = [name for name, known in _STATES.items() if known is state]
    wanted = {"filter": {"statuses": statuses} if state else None, "cursor": after, "limit": limit + 1}
    answer = ask(settings, _LIST, wanted, timeout=_TIMEOUT)["runsOrError"]
    if answer["__typename"] != "Runs":
        raise refused(answer)
    found = [_run(row) for row in answer["results"]]
    return cut_page(found, limit, lambda last: encode_cursor("runs", last.id))


def read_run(settings: Settings, run_id: str) -> RunDetail:
    """A run with the first 1,000 events of its log; raises NotFound with code `run_unknown`."""
    row = _found(run_id, ask(settings, _DETAIL, {"run": run_id, "limit": MOST_EVENTS}, timeout=_TIMEOUT))
    run, stats = _run(row), row["stats"]
    return RunDetail(
        run=run,
        enqueued_at=_moment(stats.get("enqueuedTime")),
        launched_at=_moment(stats.get("launchTime")),
        steps=tuple(sorted(map(_step, row["stepStats"]), key=lambda step: step.started_at or run.created_at)),
        made=tuple(map(_made, row["assetMaterializations"])),
        log=_log(row["eventConnection"], 0, run.state),
    )


def read_log(settings: Settings, run_id: str, after: int = 0, *, limit: int = MOST_EVENTS) -> Log:
    """The events of a run's log after a seq; raises NotFound with code `run_unknown`."""
    asked = {"run": run_id, "after": _offset(after), "limit": min(limit, MOST_EVENTS)}
    row = _found(run_id, ask(settings, _MORE_LOG, asked, timeout=_TIMEOUT))
    return _log(row["eventConnection"], after, _STATES[row["status"]])


def read_made(settings: Settings, run_ids: Iterable[str]) -> dict[str, tuple[Made, ...]]:
    """What runs materialized, by their ids; those that Dagster does not have any more are left out."""
    wanted = sorted(set(run_ids))
    if not wanted:
        return {}
    answer = ask(settings, _MADE_BY, {"filter": {"runIds": wanted}}, timeout=_TIMEOUT)["runsOrError"]
    if answer["__typename"] != "Runs":
        raise refused(answer)
    return {row["runId"]: tuple(map(_made, row["assetMaterializations"])) for row in answer["results"]}


def _found(run_id: str, data: Mapping[str, Any]) -> Mapping[str, Any]:
    answer: Mapping[str, Any] = data["runOrError"]
    if answer["__typename"] == "RunNotFoundError":
        raise NotFound(
            "run_unknown", f"There is no run {run_id}.", field="id", hint="/runs lists those that there are."
        )
    if answer["__typename"] != "Run":
        raise refused(answer)
    return answer


def _run(row: Mapping[str, Any]) -> Run:
    created = _moment(row["creationTime"])
    assert created is not None
    return Run(
        id=row["runId"],
        job_name=row["jobName"],
        state=_STATES[row["status"]],
        tags={tag["key"]: tag["value"] for tag in row["tags"]},
        assets=tuple(_asset(key) for key in row["assetSelection"] or ()),
        created_at=created,
        started_at=_moment(row["startTime"]),
        ended_at=_moment(row["endTime"]),
    )


def _step(row: Mapping[str, Any]) -> Step:
    return Step(
        key=row["stepKey"],
        state=_STEP_STATES.get(row["status"], "running"),
        started_at=_moment(row["startTime"]),
        ended_at=_moment(row["endTime"]),
        attempts=max(1, len(row["attempts"])),
    )


def _made(row: Mapping[str, Any]) -> Made:
    return Made(
        asset=_asset(row["assetKey"]),
        partition=row["partition"],
        step=row["stepKey"],
        at=_event_time(row),
        figures={entry["label"]: figure for entry in row["metadataEntries"] if (figure := _figure(entry)) is not None},
    )


def _figure(entry: Mapping[str, Any]) -> float | None:
    # What is larger than JavaScript's integers comes as text alone.
    if entry.get("intRepr") is not None:
        return int(entry["intRepr"])
    value = entry.get("floatValue")
    return None if value is None else float(value)


def _log(row: Mapping[str, Any], after: int, state: RunState) -> Log:
    events = tuple(_event(event, seq) for seq, event in enumerate(row["events"], after + 1))
    return Log(events, after + len(events), row["hasMore"], state)


def _event(row: Mapping[str, Any], seq: int) -> Event:
    check = None
    if evaluation := row.get("evaluation"):
        check = Check(
            name=evaluation["checkName"],
            asset=_asset(evaluation["assetKey"]),
            partition=evaluation["partition"],
            step=row["stepKey"],
            at=_event_time(row),
            passed=evaluation["success"],
            blocking=evaluation["severity"] == "ERROR",
            description=evaluation["description"],
        )
    return Event(
        seq=seq,
        at=_event_time(row),
        level=_level(row["level"]),
        # A line that the code logged is no event of Dagster's.
        kind=row["eventType"] or "LOG",
        step=row["stepKey"],
        unredacted=_words(row),
        check=check,
    )


def _words(row: Mapping[str, Any]) -> str:
    said = [row["message"] or ""]
    if error := row.get("error"):
        said += [error["message"], *(cause["message"] for cause in error["causes"])]
    words = "\n".join(part.strip() for part in said if part.strip())
    # Being queued and taken from the queue come without words.
    return words or (row["eventType"] or "").replace("PIPELINE", "run").replace("_", " ").lower()


def _level(name: str) -> Level:
    return next((level for level in LEVELS if level == name), "INFO")


def _asset(key: Mapping[str, Any]) -> str:
    return "/".join(key["path"])


def _moment(seconds: float | None) -> datetime | None:
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC)


def _event_time(row: Mapping[str, Any]) -> datetime:
    return datetime.fromtimestamp(int(row["timestamp"]) / 1000, UTC)


def _offset(position: int) -> str:
    """A position as Dagster's cursor of a log."""
    return base64.b64encode(json.dumps({"type": "OFFSET", "value": position}).encode()).decode()
