"""What one answer to a poll costs, and how long it takes: `python -m benches.polls [--small]`.

Writes benches/results/polls.json and polls.svg (--small: polls-small.json, in about a minute).
benches/polls/turns.py describes the turns. It must leave the machine as it was.
"""

import argparse
import os
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

from tests.farm import FarmError

from benches.harness import CompileError, Target, UnavailableError, leave_a_cpu_alone, machine, write_result
from benches.polls.plot import plot_polls
from benches.polls.turns import (
    BALANCED,
    CONTESTANTS,
    EBPF,
    HUNG,
    OURS,
    SWEEPING,
    SWEPT,
    UVLOOP,
    Bench,
    C,
    Samples,
    in_turns,
    network_of_its_own,
    ratios,
    spreads,
)

MANY, ONE = 64, 1  # polls at once
CPU, RATE, P99 = "cpu_us_per_reply", "replies_per_s", "p99_us"


def ratio(samples: Samples, key: str, under: str, over: str = OURS) -> float | None:
    """The median over the rounds; None where nothing was measured."""
    return statistics.median(ratios(samples, key, over, under)) if samples else None


def targets(measured: dict[str, Samples]) -> list[Target]:
    """The targets of a reply, with the measured values."""
    judged = []
    for how, samples in measured.items():
        if how != "swept":
            judged += [
                Target(f"{how}: CPU per reply to the C program's", ratio(samples, CPU, C), at_most=1.10),
                Target(f"{how}: CPU per reply to plain uvloop's", ratio(samples, CPU, UVLOOP), at_most=1.0),
            ]
    swept, many = measured["swept"], measured["64 at once"]
    rss_mb = {name: max(turn["rss_mb"] for turn in turns) for name, turns in swept.items()}
    return [
        *judged,
        Target("haproxy: replies/s to the C program's", ratio(measured["haproxy"], RATE, C), at_least=0.95),
        Target("p99 while sweeping 10,000 processes, to p99 without", ratio(swept, P99, OURS, SWEEPING), at_most=1.5),
        Target("64 at once: p99 while a scan hangs, to p99 without", ratio(many, P99, OURS, HUNG), at_most=1.5),
        Target("RSS in MB, sweeping 10,000 processes", rss_mb.get(SWEEPING), at_most=28),
        Target("RSS in MB, with eBPF among 10,000 processes", rss_mb.get(EBPF), at_most=34),
    ]


def say(title: str, results: dict[str, Any]) -> None:
    """A table for the terminal."""
    print(f"\n{title}")
    for name, numbers in results.items():
        medians = "  ".join(f"{key} {spread.median:.4g}" for key, spread in numbers.items() if spread.median)
        print(f"  {name:20} {medians}")


def measure(bench: Bench, *, small: bool) -> dict[str, Samples]:
    """All the turns, by who polls and how."""
    rounds, seconds, balanced_rounds, balanced_s = (3, 0.5, 1, 2.0) if small else (11, 1.0, 11, 3.0)
    measured = {
        "64 at once": in_turns(CONTESTANTS, rounds, lambda name: bench.polled(name, MANY, seconds)),
        "1 at once": in_turns(CONTESTANTS, rounds, lambda name: bench.polled(name, ONE, seconds)),
        "haproxy": {},
        "swept": {},
    }
    try:
        measured["haproxy"] = in_turns(BALANCED, balanced_rounds, lambda name: bench.balanced(name, balanced_s))
    except UnavailableError as reason:
        print(f"not measured: {reason}", file=sys.stderr)
    if not small:
        bench.grow_old()
        there = [name for name in SWEPT if name in bench.contestants]
        measured["swept"] = in_turns(there, rounds, lambda name: bench.polled(name, MANY, seconds))
    return measured


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--small", action="store_true", help="fewer and shorter turns, and no sweeping")
    small = options.parse_args().small

    described = machine() | {"network_of_its_own": network_of_its_own()}
    cpu = max(os.sched_getaffinity(0))
    leave_a_cpu_alone()
    try:
        with tempfile.TemporaryDirectory() as directory, Bench(Path(directory), cpu) as bench:
            measured = measure(bench, small=small)
    except (CompileError, FarmError, UnavailableError) as reason:
        sys.exit(f"the polls bench cannot run here: {reason}")

    results = {how: spreads(samples) if samples else {} for how, samples in measured.items()}
    for how, numbers in results.items():
        say(how, numbers)
    judged = targets(measured)
    print()
    for target in judged:
        print(target.line())
    write_result("polls-small" if small else "polls", {"machine": described, **results}, judged)
    if not small:
        plot_polls(results)


if __name__ == "__main__":
    main()
