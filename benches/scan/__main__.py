"""What one scan costs, against the host's size: `python -m benches.scan [--small]`.

Writes benches/results/scan.json and scan.svg (--small: scan-small.json, in about a minute, without the ageing
that makes a steady state). benches/scan/turns.py describes the turns. It must leave the machine as it was.
"""

import argparse
import sys
from typing import Any

from tests.farm import FarmError

from benches.harness import CompileError, Target, leave_a_cpu_alone, machine, write_result
from benches.scan.host import WORKERS
from benches.scan.plot import plot_scan
from benches.scan.turns import FIRST, OURS, STEADY, Bench, label

SIZES = (1_000, 5_000, 10_000, 20_000)
SMALL_SIZES = SIZES[:3]
SMALL = ("original", "raw-cmdline", "busyweight-sweep")
THREADED_SIZE, THREADS = 10_000, 5
AGE_S = 125  # after two minutes no candidate is young any more
SPAWN_TURNS = 25
CALLS_PER_WORKER = 2  # its CPU time, then its title
ALL, LISTING, FLAT = "all_in_turns", "listing_twice_a_second", "flat_twice_a_second"

Results = dict[str, Any]


def median(results: Results, *path: str) -> float | None:
    """The median (or plain number) at that path; None if it was not measured."""
    at: Any = results
    for key in path:
        at = at.get(key) if isinstance(at, dict) else getattr(at, key, None)
        if at is None:
            return None
    return float(getattr(at, "median", at))


def ratio(over: float | None, under: float | None) -> float | None:
    """None unless both were measured."""
    return over / under if over and under else None


def steady(results: Results, size: str, name: str, part: str = ALL) -> float | None:
    """The CPU of one scan of that contestant in steady state, in nanoseconds."""
    return median(results, "hosts", size, "steady", part, name, "cpu_ns")


def targets(results: Results) -> list[Target]:
    """The targets of a scan, with the measured values, in the README's order."""
    judged = []
    for name in OURS[1:]:
        factor = ratio(steady(results, "10000", "original"), steady(results, "10000", name))
        growth = ratio(*(steady(results, size, name, FLAT) for size in ("20000", "1000")))
        calls = median(results, "hosts", "10000", "steady", "syscalls", name)
        judged += [
            Target(f"{name}: times less CPU than the original at 10,000", factor, at_least=500),
            Target(f"{name}: growth from 1,000 to 20,000", growth, at_most=1.2),
            Target(f"{name}: system calls a scan at 10,000", calls, at_most=CALLS_PER_WORKER * WORKERS + 5),
        ]
    factor = ratio(steady(results, "10000", "original"), steady(results, "10000", "busyweight-sweep"))
    listing = steady(results, "10000", "raw-getdents", LISTING)
    reading = steady(results, "10000", "raw-kept", LISTING)
    least = listing + reading if listing and reading else None
    sweep = steady(results, "10000", "busyweight-sweep", LISTING)
    judged += [
        Target("busyweight-sweep: times less CPU than the original at 10,000", factor, at_least=30),
        Target(
            "busyweight-sweep: to getdents64 and the workers' preads, twice a second",
            ratio(sweep, least),
            at_most=1.3,
        ),
    ]
    raw_loop = median(results, "hosts", "10000", "first", "raw-cmdline", "cpu_ns")
    for name in OURS:
        first = median(results, "hosts", "10000", "first", name, "cpu_ns")
        judged.append(
            Target(f"{name}: first scan to one file per pid in C, at 10,000", ratio(first, raw_loop), at_most=1.2)
        )
    hooks = median(results, "fork_exec", "ratio")
    return [*judged, Target("fork, exec and exit with hooks to without", hooks, at_most=1.02)]


def ratios(results: Results) -> Results:
    """Numbers without a target: each contestant relative to the original, its growth, and what threads cost it."""
    threaded = label(THREADED_SIZE, THREADS)
    found: Results = {"original_to": {}, "growth_1000_to_20000": {}, "five_threads_to_one": {}}
    for name in STEADY:
        found["original_to"][name] = {
            size: ratio(steady(results, size, "original"), steady(results, size, name)) for size in results["hosts"]
        }
        part = FLAT if steady(results, "1000", name, FLAT) else ALL
        found["growth_1000_to_20000"][name] = ratio(*(steady(results, size, name, part) for size in ("20000", "1000")))
        found["five_threads_to_one"][name] = ratio(*(steady(results, size, name, part) for size in (threaded, "10000")))
    return found


def table(results: Results) -> str:
    """CPU milliseconds per scan for the terminal: first scan, steady state, share of the re-checks, system calls."""
    lines = [f"{'':>10} {'':20} {'first':>9} {'steady':>9} {'after pause':>12} {'calls':>8}   (ms of CPU per scan)"]
    for size, host in results["hosts"].items():
        for name in dict.fromkeys((*STEADY, *FIRST)):
            cells = [
                median(host, "first", name, "cpu_ns"),
                median(host, "steady", ALL, name, "cpu_ns"),
                median(host, "steady", LISTING, name, "after_pause_cpu_ns")
                or median(host, "steady", FLAT, name, "after_pause_cpu_ns"),
            ]
            calls = median(host, "steady", "syscalls", name)
            texts = ["" if cell is None else f"{cell / 1e6:.3f}" for cell in cells]
            if any(texts):
                count = "" if calls is None else f"{calls:.0f}"
                lines.append(f"{size:>10} {name:20} {texts[0]:>9} {texts[1]:>9} {texts[2]:>12} {count:>8}")
    return "\n".join(lines)


def run(*, small: bool, age_s: float) -> Results:
    """All measurements, as they go into the file."""
    leave_a_cpu_alone()
    bench = Bench(SMALL if small else tuple(dict.fromkeys((*STEADY, *FIRST))), rounds=5 if small else 7)
    results: Results = {"machine": machine(), "workers": WORKERS, "age_s": age_s}
    if small:
        results["hosts"] = bench.hosts(SMALL_SIZES, threads=1, age_s=age_s)
    else:
        results["hosts"] = {
            **bench.hosts(SIZES, threads=1, age_s=age_s),
            **bench.hosts((THREADED_SIZE,), threads=THREADS, age_s=age_s),
        }
        results["ratios"] = ratios(results)
        results["fork_exec"] = bench.fork_exec(SPAWN_TURNS)
        results["memory"] = bench.memory()
    return {**results, "unavailable": bench.unavailable}


def main() -> int:
    """0 if everything was measured, whether or not the targets are met; 1 if the bench could not run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--small", action="store_true", help="three sizes and three contestants, no ageing")
    parser.add_argument("--age", type=float, metavar="SECONDS", help=f"how old candidates grow (default {AGE_S})")
    arguments = parser.parse_args()
    age_s = arguments.age if arguments.age is not None else (0 if arguments.small else AGE_S)
    try:
        results = run(small=arguments.small, age_s=age_s)
    except (CompileError, FarmError) as error:
        print(f"benches.scan: {error}", file=sys.stderr)
        return 1
    judged = [] if arguments.small else targets(results)
    print(table(results))
    for target in judged:
        print(target.line())
    for name, reason in results["unavailable"].items():
        print(f"not run: {name}: {reason}")
    print(write_result("scan-small" if arguments.small else "scan", results, judged))
    if not arguments.small:
        print(plot_scan(results["hosts"]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
