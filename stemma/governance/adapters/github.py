"""GitHub: issues that were opened and closed.

https://docs.github.com/en/rest/issues/issues#list-repository-issues: in the order in which they were changed last, from
a time on. Pages are asked for by that time, because an issue that is changed meanwhile moves all behind it one up.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any, Final
from uuid import UUID, uuid5

from stemma.errors import InvalidInput, Unavailable
from stemma.governance.adapters.adapter import Batch
from stemma.governance.adapters.web import Web
from stemma.governance.events.model import NewEvent
from stemma.redaction import redact
from stemma.store.settings import Settings

EVENT_TYPE: Final = "IssueReported"

_PAGE: Final = 100
_MAX_TITLE: Final = 300
_REPOSITORY: Final = re.compile(r"[A-Za-z0-9-]{1,39}/[A-Za-z0-9._-]{1,100}")
_IDS: Final = UUID("7a8e1b72-6b4d-4c7c-8b1f-5f0c2f9d3e21")


class GitHubIssues:
    """The issues of one repository, which is the entity; an issue is what its events belong to."""

    def __init__(self, web: Web, repository: str) -> None:
        """`repository` is `owner/name`; raises InvalidInput for what is not."""
        if not _REPOSITORY.fullmatch(repository) or repository.split("/")[1] in (".", ".."):
            what = f"{repository[:100]!r} is no repository."
            raise InvalidInput("repository_invalid", what, field="repository", hint="Write owner/name.")
        self._web = web
        self._repository = repository
        self.source = f"github/{repository}"

    def read(self, cursor: str | None) -> Iterator[Batch]:
        """See `Adapter.read`; the cursor is when the last issue was changed."""
        since, page = cursor, 1
        while True:
            found = self._issues(since, page)
            if not found:
                return
            try:
                events = tuple(event for issue in found for event in self._events(issue))
                last = str(found[-1]["updated_at"])
            except (KeyError, TypeError, AttributeError, ValueError) as error:
                raise _unreadable() from error
            yield Batch(events, last)
            if len(found) < _PAGE:
                return
            # More than a page of one second, as a bulk edit leaves behind, can only be counted.
            since, page = (since, page + 1) if last == since else (last, 1)

    def _issues(self, since: str | None, page: int) -> list[Mapping[str, Any]]:
        query = [("state", "all"), ("sort", "updated"), ("direction", "asc"), ("per_page", str(_PAGE))]
        query += [("page", str(page)), *([("since", since)] if since else [])]
        answer = self._web.get(f"/repos/{self._repository}/issues", query)
        if not isinstance(answer, list):
            raise _unreadable()
        return answer

    def _events(self, issue: Mapping[str, Any]) -> Iterator[NewEvent]:
        # Pull requests are issues to this list.
        if "pull_request" in issue:
            return
        yield self._event(issue, "opened", issue["created_at"])
        if issue["closed_at"] is not None:
            yield self._event(issue, "closed", issue["closed_at"])

    def _event(self, issue: Mapping[str, Any], change: str, at: str) -> NewEvent:
        said = {
            "repository": self._repository,
            "number": issue["number"],
            "change": change,
            "title": redact(issue["title"]).text[:_MAX_TITLE],
            "author_association": issue.get("author_association"),
            "reason": issue.get("state_reason") if change == "closed" else None,
        }
        return NewEvent(
            type=EVENT_TYPE,
            data={name: value for name, value in said.items() if value is not None},
            occurred_at=datetime.fromisoformat(at),
            entity=f"github/{self._repository}",
            correlation_id=f"github/{self._repository}/{issue['number']}",
            id=uuid5(_IDS, f"{issue['id']}/{change}/{at}"),
        )


def open_github(settings: Settings) -> Web:
    """The service, with the token of the settings, where there is one: public repositories can be read without."""
    headers = {"Accept": "application/vnd.github+json", "X-GitHub-Api-Version": "2022-11-28"}
    if settings.github_token is not None:
        headers["Authorization"] = f"Bearer {settings.github_token.get_secret_value()}"
    return Web("GitHub", settings.github_url, headers, setting="STEMMA_GITHUB_TOKEN")


def _unreadable() -> Unavailable:
    return Unavailable("source_unavailable", "GitHub answers with something that is no list of issues.")
