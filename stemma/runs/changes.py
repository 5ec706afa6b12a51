"""What a run changed: each thing that it made, beside the receipt of the same thing before.

Data versions and hashes come from receipts, which outlast Dagster's events; figures such as row counts come from the
materializations, as long as Dagster has them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from stemma.ledger.receipts import Receipt, subject
from stemma.runs.model import Made
from stemma.store.outputs import Artifact

_TIMES: Final = frozenset({"wall_seconds", "cpu_seconds"})
"""Figures that differ each time and say nothing of what was made."""


@dataclass(frozen=True, slots=True)
class ArtifactChange:
    """An artifact by its name, before and after; None where there was none."""

    name: str
    before: Artifact | None
    after: Artifact | None

    @property
    def how(self) -> str:
        """`added`, `removed`, `changed` or `unchanged`."""
        if self.before is None:
            return "added"
        if self.after is None:
            return "removed"
        return "unchanged" if self.before.sha256 == self.after.sha256 else "changed"


@dataclass(frozen=True, slots=True)
class FigureChange:
    """A figure of the metadata, before and after; None where it was not told."""

    name: str
    before: float | None
    after: float | None

    @property
    def changed(self) -> bool:
        """Whether it is another one."""
        return self.before != self.after


@dataclass(frozen=True, slots=True)
class Change:
    """One thing that was materialized, as it was and as it is; without a receipt there is none yet."""

    asset: str
    partition: str | None
    receipt: Receipt | None
    previous: Receipt | None
    artifacts: tuple[ArtifactChange, ...]
    figures: tuple[FigureChange, ...]

    @property
    def subject(self) -> str:
        """What was materialized."""
        return subject(self.asset, self.partition)

    @property
    def changed(self) -> bool:
        """Whether its content is another one, as far as is known."""
        if self.receipt is None:
            return True
        return self.previous is None or self.previous.data_version != self.receipt.data_version


def compare(
    receipts: Iterable[Receipt],
    previous: Mapping[str, Receipt],
    made: Iterable[Made],
    made_before: Mapping[str, Iterable[Made]],
) -> tuple[Change, ...]:
    """What each receipt of a run changed, and what was made and has no receipt yet, in the order of making.

    `previous` has the receipts before by subject, `made_before` what their runs made by run id.
    """
    by_subject = {item.subject: item for item in made}
    found = []
    for receipt in receipts:
        before = previous.get(receipt.subject)
        old = made_before.get(before.run_id, ()) if before else ()
        figures = _figures(
            next((one for one in old if one.subject == receipt.subject), None), by_subject.pop(receipt.subject, None)
        )
        artifacts = _artifacts(before.artifacts if before else (), receipt.artifacts)
        found.append(Change(receipt.asset, receipt.partition, receipt, before, artifacts, figures))
    waiting = (Change(one.asset, one.partition, None, None, (), _figures(None, one)) for one in by_subject.values())
    return (*found, *waiting)


def _artifacts(before: Iterable[Artifact], after: Iterable[Artifact]) -> tuple[ArtifactChange, ...]:
    old, new = {one.name: one for one in before}, {one.name: one for one in after}
    return tuple(ArtifactChange(name, old.get(name), new.get(name)) for name in sorted(old.keys() | new.keys()))


def _figures(before: Made | None, after: Made | None) -> tuple[FigureChange, ...]:
    old, new = before.figures if before else {}, after.figures if after else {}
    names = [*new, *(name for name in old if name not in new)]
    return tuple(FigureChange(name, old.get(name), new.get(name)) for name in names if name not in _TIMES)
