"""Whether what is decided, and on what, is still what it was: distributions of the last days against those before.

The verdicts and levels of decisions, and what each day added to the features of each entity, are compared by the
population stability index and the Jensen–Shannon divergence (base 2). An index alarms from 0.25 on, and only where so
few observations would not give it by chance: without a change, it is about (1/n + 1/m) times a chi-square (Yurdakul,
Statistical Properties of the Population Stability Index, 2018), of which the 99.9 % quantile counts.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Any, Final

import numpy as np
import rfc8785
from psycopg.types.json import Jsonb

from stemma.governance.memory.days import Made, Product, Report, bring_up, contents
from stemma.governance.memory.features import by_node
from stemma.governance.memory.inputs import Key, Span, day_hashes, hashed, published_nodes
from stemma.governance.memory.versions import DRIFT
from stemma.governance.memory.windows import combined, feature_key
from stemma.governance.nodes import Node
from stemma.governance.policy import Level, Ruling
from stemma.store.database import Connection, Database

# EDIT HERE: what is compared with what, and from where on it is an alarm.
CURRENT_DAYS: Final = 14
REFERENCE_DAYS: Final = 90
LEAST: Final = 30
"""Observations on either side below which nothing is compared."""
ALARM_PSI: Final = 0.25

_BINS: Final = 10
_PRIOR: Final = 0.5
_Z: Final = 3.0902
_DIGITS: Final = 6

_DECISIONS: Final = """
    SELECT node, (occurred_at AT TIME ZONE 'UTC')::date, verdict, level, count(*) FROM decisions
    WHERE occurred_at >= %(since)s AND occurred_at < %(until)s GROUP BY 1, 2, 3, 4
"""
_FEATURES: Final = """
    SELECT node, day, features FROM entity_features
    WHERE day BETWEEN %(first)s AND %(last)s AND node = ANY (%(nodes)s) ORDER BY day
"""


@dataclass(slots=True)
class _Seen:
    """What a node's days have: how often each verdict and level, and the values of each feature with their days."""

    verdicts: dict[date, Counter[str]]
    levels: dict[date, Counter[str]]
    features: dict[str, tuple[list[date], list[float]]]


def inputs(connection: Connection, known: Sequence[Node], span: Span) -> dict[Key, bytes]:
    """What the report of each day is made of: what happened, and the features, of every day that it looks at."""
    wide = _wide(span)
    happened = day_hashes(connection, known, wide)
    summed_up = contents(connection, Product.FEATURES, wide)
    days = by_node(happened)
    digests = {key: hashed([digest, summed_up.get(key, b"")]) for key, digest in happened.items()}
    wanted = {}
    for name, of in days.items():
        for day in of[bisect_left(of, span.first) :]:
            seen = of[bisect_right(of, day - timedelta(days=CURRENT_DAYS + REFERENCE_DAYS)) : bisect_right(of, day)]
            parts = [b"%s %s" % (str(one).encode(), digests[name, one]) for one in seen]
            wanted[name, day] = hashed([DRIFT.encode(), *parts])
    return wanted


def sync_drift(database: Database, span: Span) -> Report:
    """Bring the reports of a span of days up to the decisions and features that they compare."""
    with database.transaction() as connection:
        known = {node.name: node for node in published_nodes(connection)}
        wanted = inputs(connection, list(known.values()), span)

        def make(connection: Connection, anew: Collection[Key]) -> Mapping[Key, Made]:
            for name, days in by_node(anew).items():
                connection.execute("DELETE FROM drift_reports WHERE node = %s AND day = ANY (%s)", (name, days))
            there = [key for key in anew if key in wanted]
            if not there:
                return {}
            seen = _read(connection, known, _wide(Span(min(d for _, d in there), max(d for _, d in there))))
            reports = {(name, day): compare(seen[name], day) for name, day in there}
            with connection.cursor() as cursor:
                cursor.executemany(
                    "INSERT INTO drift_reports (node, day, content, alarmed) VALUES (%s, %s, %s, %s)",
                    [(*key, Jsonb(report), _alarmed(report)) for key, report in reports.items()],
                )
            return {key: Made(hashed([rfc8785.dumps(report)]), 1) for key, report in reports.items()}

        return bring_up(connection, Product.DRIFT, span, wanted, make)


def compare(seen: _Seen, day: date) -> dict[str, Any]:
    """The report of a day: each distribution of its last days beside that of the days before them."""
    current = Span(day - timedelta(days=CURRENT_DAYS - 1), day)
    reference = Span(current.first - timedelta(days=REFERENCE_DAYS), current.first - timedelta(days=1))
    measures = [
        _measure(of, [str(kind) for kind in kinds], *(_summed(counts, span, kinds) for span in (reference, current)))
        for of, kinds, counts in (("verdict", Ruling, seen.verdicts), ("level", Level, seen.levels))
    ]
    for name, (days, values) in sorted(seen.features.items()):
        before, now = (
            np.array(values[bisect_left(days, span.first) : bisect_right(days, span.last)])
            for span in (reference, current)
        )
        measures.append(_measure(f"feature {name}", *_binned(before, now)))
    return {
        "current": {"first": str(current.first), "last": str(current.last)},
        "reference": {"first": str(reference.first), "last": str(reference.last)},
        "measures": measures,
    }


def stability(reference: Sequence[int], current: Sequence[int]) -> tuple[float, float, float]:
    """The population stability index of two lists of counts, their Jensen–Shannon divergence, and the index from which
    on it is no chance.
    """
    before, now = (_shares(counts) for counts in (reference, current))
    middle = (before + now) / 2
    psi = float(np.sum((now - before) * np.log(now / before)))
    divergence = float(np.sum(before * np.log2(before / middle) + now * np.log2(now / middle))) / 2
    free = max(len(before) - 1, 1)
    chi_square = free * (1 - 2 / (9 * free) + _Z * math.sqrt(2 / (9 * free))) ** 3
    chance = chi_square * (1 / max(sum(reference), 1) + 1 / max(sum(current), 1))
    return psi, divergence, max(ALARM_PSI, chance)


def _shares(counts: Sequence[int]) -> Any:
    smoothed = np.array(counts, float) + _PRIOR
    return smoothed / smoothed.sum()


def _measure(of: str, kinds: Sequence[str], reference: Sequence[int], current: Sequence[int]) -> dict[str, Any]:
    told: dict[str, Any] = {
        "of": of,
        "kinds": list(kinds),
        "reference": list(reference),
        "current": list(current),
        "psi": None,
        "divergence": None,
        "threshold": None,
        "alarmed": False,
    }
    if min(sum(reference), sum(current)) < LEAST:
        return told
    psi, divergence, threshold = stability(reference, current)
    compared = {"psi": psi, "divergence": divergence, "threshold": threshold}
    return {**told, **{n: round(v, _DIGITS) for n, v in compared.items()}, "alarmed": psi >= threshold}


def _binned(reference: Any, current: Any) -> tuple[list[str], list[int], list[int]]:
    """Counts between the reference's deciles; values that many share make fewer bins."""
    if not len(reference):
        return ["all"], [0], [len(current)]
    edges = np.unique(np.quantile(reference, np.arange(1, _BINS) / _BINS))
    counts = [np.bincount(np.searchsorted(edges, side), minlength=len(edges) + 1) for side in (reference, current)]
    labels = [f"≤ {edge:g}" for edge in edges] + [f"> {edges[-1]:g}"]
    return labels, [int(n) for n in counts[0]], [int(n) for n in counts[1]]


def _summed(counts: Mapping[date, Counter[str]], span: Span, kinds: Iterable[str]) -> list[int]:
    total: Counter[str] = Counter()
    for day, of in counts.items():
        if span.first <= day <= span.last:
            total.update(of)
    return [total[str(kind)] for kind in kinds]


def _read(connection: Connection, known: Mapping[str, Node], span: Span) -> dict[str, _Seen]:
    seen = {name: _Seen(defaultdict(Counter), defaultdict(Counter), {}) for name in known}
    for name, day, verdict, level, count in connection.execute(_DECISIONS, span.parameters).fetchall():
        if name in seen:
            seen[name].verdicts[day][verdict] += count
            seen[name].levels[day][level] += count
    keys = {name: [(feature_key(node, n), n, f) for n, f in node.features.items()] for name, node in known.items()}
    for name, day, states in connection.execute(_FEATURES, {**span.parameters, "nodes": list(known)}).fetchall():
        for key, feature_name, feature in keys[name]:
            value = combined(feature, [states[key]]) if key in states else None
            if isinstance(value, float):
                days, values = seen[name].features.setdefault(feature_name, ([], []))
                days.append(day)
                values.append(value)
    return seen


def _wide(span: Span) -> Span:
    return Span(span.first - timedelta(days=CURRENT_DAYS + REFERENCE_DAYS - 1), span.last)


def _alarmed(report: Mapping[str, Any]) -> bool:
    return any(measure["alarmed"] for measure in report["measures"])
