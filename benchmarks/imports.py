"""What an import costs, beside ``multiprocessing.pool``, by turns in one run.

    python benchmarks/imports.py [--rounds 41]

Each import is timed in a process of its own, which finds everything compiled.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile

from figures import machine

STANDARD = "import multiprocessing.pool"
STATEMENTS = [
    STANDARD,
    "import poollock",
    "from poollock import locked_pool",
    "from poollock import LockedLogWriter",
]
PROGRAM = """
from time import perf_counter
begun = perf_counter()
{}
print(perf_counter() - begun)
"""


def seconds(statement: str, cache: str) -> float:
    environment = {**os.environ, "PYTHONPYCACHEPREFIX": cache}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    command = [sys.executable, "-c", PROGRAM.format(statement)]
    return float(subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=True).stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description="Time the import of poollock beside multiprocessing.pool's.")
    parser.add_argument("--rounds", type=int, default=41)
    rounds = parser.parse_args().rounds
    times: dict[str, list[float]] = {statement: [] for statement in STATEMENTS}
    with tempfile.TemporaryDirectory() as cache:
        for number in range(-1, rounds):  # the first one compiles
            for statement in STATEMENTS if number % 2 else STATEMENTS[::-1]:
                taken = seconds(statement, cache)
                if number >= 0:
                    times[statement].append(taken)
    print(machine())
    print(f"{'':40}    ms   ratio to {STANDARD}")
    for statement, costs in times.items():
        ratios = [cost / standard for cost, standard in zip(costs, times[STANDARD], strict=True)]
        print(
            f"{statement:40} {statistics.median(costs) * 1000:5.1f}   "
            f"{statistics.median(ratios):.2f} [{min(ratios):.2f} to {max(ratios):.2f}]"
        )


if __name__ == "__main__":
    main()
