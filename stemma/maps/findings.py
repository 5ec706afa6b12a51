"""What a check found: problems by code, the first few of each told, the rest counted."""

from __future__ import annotations

from dataclasses import dataclass

TOLD = 5


@dataclass(frozen=True, slots=True)
class Problem:
    """Something wrong with an archive; `code` is stable, `message` says what and where."""

    code: str
    message: str


class Findings:
    """Problems as they are found."""

    def __init__(self) -> None:
        self._told: dict[str, list[Problem]] = {}
        self._found = 0

    def add(self, code: str, message: str) -> None:
        """Keep a problem, or count it where enough of its kind are told."""
        self._found += 1
        told = self._told.setdefault(code, [])
        if len(told) < TOLD:
            told.append(Problem(code, message))

    @property
    def problems(self) -> tuple[Problem, ...]:
        """The problems that are told."""
        return tuple(problem for told in self._told.values() for problem in told)

    @property
    def omitted(self) -> int:
        """How many more there are."""
        return self._found - len(self.problems)
