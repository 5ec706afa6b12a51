"""What refusing saved, as it is modelled, against what is known: the orders of the sample superstore, all of which were
given their discount and whose profit the data has.

A policy that gives discounts up to 20 or 30 % is taken to have refused the others. Their profit is modelled from those
that were given, as `stemma learning savings` does, and compared with what it was. Neither model has seen it.
"""

from __future__ import annotations

import sys
from typing import Final

from benchmarks.studio import Measure, publish
from stemma.governance.events.superstore import orders
from stemma.governance.learning.estimates import modelled

_INPUTS: Final = ("discount", "amount", "segment", "category")
_HIGHEST: Final = (0.2, 0.3)


def main() -> bool:
    """Run the benchmark; True when the regression's interval holds the truth, both times."""
    cases = [({name: one.event.data[name] for name in _INPUTS}, one.metrics["profit"]) for one in orders()]
    measures = []
    for highest in _HIGHEST:
        given = [case for case in cases if case[0]["discount"] <= highest]
        refused = [case for case in cases if case[0]["discount"] > highest]
        truth = sum(profit for _, profit in refused)
        known, values = [inputs for inputs, _ in given], [profit for _, profit in given]
        what = f"discounts above {highest:.0%}"
        measures.append(Measure(f"profit of {len(refused):,} {what}, in fact", truth))
        for one in modelled(known, values, [inputs for inputs, _ in refused]):
            holds = one.total.low <= truth <= one.total.high
            bar = 1.0 if one.model == "regression" else None
            measures += [
                Measure(f"  modelled by {one.model}", one.total.estimate),
                Measure("    from", one.total.low),
                Measure("    to", one.total.high),
                Measure("    holds the truth", float(holds), bar=bar),
            ]
    return publish("savings", measures, orders=len(cases))


if __name__ == "__main__":
    sys.exit(0 if main() else 1)
