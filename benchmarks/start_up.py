"""How long it takes until there is something to do work with: the definitions beyond Dagster itself, and commands.

Each is a fresh interpreter, whose processor time is counted; they take turns with one that only starts, or imports
Dagster.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
from typing import Final

from benchmarks.studio import Measure, publish
from stemma.store.settings import REPOSITORY

ROUNDS: Final = 9
SECONDS: Final = 0.5

_PROGRAMS: Final = {
    "interpreter": ("-c", "pass"),
    "dagster": ("-c", "import dagster"),
    "definitions": ("-c", "import dagster, definitions"),
    "help": ("-m", "cli", "--help"),
    "command": ("-m", "cli", "agent", "ask", "--help"),
}


def main() -> bool:
    """Run the benchmark; True when the bar is met."""
    rounds = [{name: _seconds(program) for name, program in _PROGRAMS.items()} for _ in range(ROUNDS + 1)][1:]
    found = {name: statistics.median(one[name] for one in rounds) for name in _PROGRAMS}
    beyond = statistics.median(one["definitions"] - one["dagster"] for one in rounds)
    started = statistics.median(one["command"] - one["interpreter"] for one in rounds)
    measures = [
        Measure("definitions beyond Dagster", beyond, "s", bar=SECONDS, at_least=False),
        Measure("definitions over Dagster", found["definitions"] / found["dagster"], "×"),
        Measure("Dagster itself", found["dagster"], "s"),
        Measure("stemma --help", found["help"], "s"),
        Measure("one command beyond the interpreter", started, "s"),
    ]
    return publish("start_up", measures, rounds=ROUNDS, load=os.getloadavg()[0])


def _seconds(program: tuple[str, ...]) -> float:
    """Processor time, in user and system mode, of a fresh interpreter."""
    before = os.times()
    subprocess.run([sys.executable, *program], cwd=REPOSITORY, stdout=subprocess.DEVNULL, check=True)
    after = os.times()
    user, system = after.children_user - before.children_user, after.children_system - before.children_system
    return user + system


if __name__ == "__main__":
    sys.exit(not main())
