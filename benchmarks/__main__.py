"""Run every benchmark, or those named on the command line; the exit status is 1 when a bar is missed."""

from __future__ import annotations

import sys
from importlib import import_module

BENCHMARKS = (
    "embedding_throughput",
    "unchanged_rerun",
    "search_latency",
    "relevance",
    "blind_questions",
    "ledger",
    "redaction",
    "policy_rules",
    "hostile_decisions",
    "bandit",
    "savings",
    "decisions",
    "relay",
    "console_lists",
    "start_up",
    "run_launch",
    "map_tiles",
    "map_months",
    "costs",
    "paper_claims",
    "notebook_overhead",
    "run_stream",
    "run_ends",
    "run_queue",
)


def main(names: list[str]) -> int:
    """Each runs to its end even when one before it missed a bar."""
    unknown = set(names) - set(BENCHMARKS)
    if unknown:
        sys.exit(f"No benchmark {', '.join(sorted(unknown))}; there are {', '.join(BENCHMARKS)}.")
    met = [import_module(f"benchmarks.{name}").main() for name in names or BENCHMARKS]
    return 0 if all(met) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
