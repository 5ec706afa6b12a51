"""Redaction of prose: what 10 kB cost, beside detect-secrets alone and beside a linear pass over the same text.

The prose is the long descriptions of the installed distributions, cut into pieces of 10,000 characters, with five of
the labelled texts of the tests sown into each. Times are those of the processor, so that other programs do not count.
The peer is detect-secrets' own scan of each line of the same pieces, with all its plugins and no verification: it looks
for secrets only, and says that a line has one, not where.

Hostile text repeats what makes careless patterns backtrack: four times as much of it has to take about four times as
long, and would take sixteen times where the work grows with the square.
"""

from __future__ import annotations

import json
import random
import statistics
import sys
import time
from collections.abc import Callable
from importlib import metadata

from benchmarks.studio import Measure, publish
from stemma.redaction import redact
from stemma.store.settings import REPOSITORY

_PIECE = 10_000
_PIECES = 120
_SOWN = 5
_BAR = 5.0
_HOSTILE_BAR = 9.0
_LEAST_MILLISECONDS = 50.0
_LABELLED = REPOSITORY / "tests" / "redaction" / "labelled.tsv"
_HOSTILE = REPOSITORY / "tests" / "redaction" / "hostile.jsonl"


def main() -> bool:
    """Run the benchmark; True when the bar is met."""
    prose = _prose()
    sown = [_sow(piece, number) for number, piece in enumerate(prose)]
    for piece in sown:
        redact(piece)
    ours = [_milliseconds(redact, piece) for piece in sown]
    bare = [_milliseconds(redact, piece) for piece in prose]
    peer = [_milliseconds(_detect_secrets, piece) for piece in sown]
    twice = [_milliseconds(redact, first + second) for first, second in zip(sown[::2], sown[1::2], strict=True)]
    findings = sum(len(redact(piece).findings) for piece in sown)
    measures = [
        Measure("10 kB with five findings sown, p50", statistics.median(ours), "ms"),
        Measure("10 kB with five findings sown, p95", _p95(ours), "ms", bar=_BAR, at_least=False),
        Measure("10 kB as it is, p95", _p95(bare), "ms", bar=_BAR, at_least=False),
        Measure("20 kB over 10 kB", statistics.median(twice) / statistics.median(ours)),
        Measure("hostile text, 40 kB over 10 kB, worst", _hostile_growth(), bar=_HOSTILE_BAR, at_least=False),
        Measure("detect-secrets alone over redaction, p50", statistics.median(peer) / statistics.median(ours)),
        Measure("findings", findings),
    ]
    return publish("redaction", measures, pieces=len(sown), characters=_PIECE)


def _hostile_growth() -> float:
    """The worst growth; where even the large text is done at once, there is nothing to measure."""
    worst = 1.0
    for unit in map(json.loads, _HOSTILE.read_text("utf-8").splitlines()):
        small, large = ((unit * length)[:length] for length in (_PIECE, 4 * _PIECE))
        taken = _milliseconds(redact, large)
        if taken > _LEAST_MILLISECONDS:
            worst = max(worst, taken / _milliseconds(redact, small))
    return worst


def _prose() -> list[str]:
    texts = sorted({_description(distribution) for distribution in metadata.distributions()})
    together = "\n".join(texts)
    starts = range(0, len(together) - _PIECE, _PIECE)
    return [together[start : start + _PIECE] for start in random.Random(3).sample(starts, min(len(starts), _PIECES))]


def _description(distribution: metadata.Distribution) -> str:
    described = distribution.metadata
    return described.get("Description") or str(described.get_payload() or "")


def _sow(piece: str, seed: int) -> str:
    lines = _LABELLED.read_text("utf-8").replace("¦", "").splitlines()
    rows = [line.split("\t") for line in lines if line and not line.startswith("#")]
    words, chosen = piece.split(" "), random.Random(seed)
    for _, _, template, value in chosen.sample(rows, _SOWN):
        words.insert(chosen.randrange(len(words)), template.replace("{}", value))
    return " ".join(words)[:_PIECE]


def _detect_secrets(text: str) -> None:
    from detect_secrets.core.scan import scan_line
    from detect_secrets.settings import default_settings

    with default_settings() as settings:
        settings.disable_filters("detect_secrets.filters.common.is_ignored_due_to_verification_policies")
        for line in text.splitlines():
            for _ in scan_line(line):
                pass


def _milliseconds(work: Callable[[str], object], text: str) -> float:
    """The median of three: a machine that serves others now and then takes twice as long."""
    return statistics.median(_once(work, text) for _ in range(3))


def _once(work: Callable[[str], object], text: str) -> float:
    started = time.process_time()
    work(text)
    return (time.process_time() - started) * 1000


def _p95(values: list[float]) -> float:
    return statistics.quantiles(values, n=20)[-1]


if __name__ == "__main__":
    sys.exit(0 if main() else 1)
