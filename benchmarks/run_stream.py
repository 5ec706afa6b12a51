"""How long a line that a notebook prints takes until a client reads it in the stream of its run's events.

The API, a run in a process of its own, a notebook in the sandbox that prints the time, and a client on loopback.
"""

from __future__ import annotations

import itertools
import re
import sys

from benchmarks.notebooks import Event, begin, follow, load
from benchmarks.serving import Serving, serving
from benchmarks.studio import Measure, console, percentile, publish

LINES, PER_SECOND = 500, 50
BURSTS, BURST = 5, 2_000
STEADY_MS, BURST_MS = 50.0, 250.0

_DROP_EVERY = 173
_STAMP = re.compile(r"(steady|burst \d) (\d+\.\d{6})")
_STEADY = f"""
import time
begun = time.time()
for number in range({LINES}):
    time.sleep(max(0.0, begun + number / {PER_SECOND} - time.time()))
    print(f"steady {{time.time():.6f}}")
"""
_BURST = f"""
for burst in range({BURSTS}):
    time.sleep(1)
    for _ in range({BURST}):
        print(f"burst {{burst}} {{time.time():.6f}}")
"""


def main() -> bool:
    """Run the benchmark; True when the bars are met."""
    before = load()
    with serving("run_stream", only=frozenset({"api"})) as served:
        read = _read(served)
        resumed, connections = _read_with_breaks(served)
    delays = [at - printed for what, printed, at in read if what == "steady"]
    bursts = [
        max(at for what, _, at in read if what == name) - min(printed for what, printed, _ in read if what == name)
        for name in sorted({what for what, _, _ in read} - {"steady"})
    ]
    expected = LINES + BURSTS * BURST
    lines = [event for event in resumed if _STAMP.match(str(event.data))]
    lost = 2 * expected - len(read) - len(lines)
    gaps = sum(two.seq != one.seq + 1 for one, two in itertools.pairwise(resumed))
    measures = [
        Measure(f"a line at {PER_SECOND}/s, p50", 1000 * percentile(delays, 0.5), "ms"),
        Measure(f"a line at {PER_SECOND}/s, p95", 1000 * percentile(delays, 0.95), "ms", STEADY_MS, at_least=False),
        Measure(f"{BURST:,} lines at once, median of {BURSTS}", 1000 * sorted(bursts)[BURSTS // 2], "ms"),
        Measure(f"{BURST:,} lines at once, the slowest", 1000 * max(bursts), "ms", BURST_MS, at_least=False),
        Measure("connections that were broken", connections - 1),
        Measure("lines lost or doubled", abs(lost), bar=0, at_least=False),
        Measure("events out of their order", gaps, bar=0, at_least=False),
    ]
    facts = {"load": [before, load()]}
    console.print(facts)
    return publish("run_stream", measures, bursts=bursts, **facts)


def _read(served: Serving) -> list[tuple[str, float, float]]:
    """The lines of a run: which they are, when they were printed, and when they were read."""
    found = []
    with begin(served, _STEADY, _BURST) as asked, follow(served, asked) as events:
        for event in events:
            if stamp := _STAMP.match(str(event.data)):
                found.append((stamp[1], float(stamp[2]), event.at))
    return found


def _read_with_breaks(served: Serving) -> tuple[list[Event], int]:
    """The events of a run by a client that is cut off again and again, and how often it connected."""
    read, connections = list[Event](), 0
    with begin(served, _STEADY, _BURST) as asked:
        while not read or not read[-1].is_last:
            connections += 1
            with follow(served, asked, read[-1].seq if read else 0) as events:
                read += itertools.islice(events, _DROP_EVERY)
    return read, connections


if __name__ == "__main__":
    sys.exit(0 if main() else 1)
