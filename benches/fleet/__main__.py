"""What weights are worth to a fleet: `python -m benches.fleet [--small | --only NAME | --rules | --many | ...]`.

Writes benches/results/fleet.json and the plots, and the tables of docs/fleet.md, after every seed (`--seeds N`): the
first takes about forty minutes, each other about twenty-five. `--small` takes five minutes and writes fleet-small.json
alone. `--only`, `--rules` and `--many` measure a part of it into the existing results; `--pages` redraws plots and
tables from them. `--haproxies` runs the nights with each HAProxy of `make test-matrix`, into haproxies.json. It
must leave nothing running.
"""

import argparse
import json
import signal
import sys
import tempfile
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from tests.matrix import trees

from benches.fleet import page, plot
from benches.fleet.lanes import lanes
from benches.fleet.parts import AGENT_INTER_S, CORES, FRESH_FOR_S, HEARTBEAT_S, SIGNALS, fleet
from benches.fleet.run import GIVE_UP_S, GOOD_S, LATE_S
from benches.fleet.scenarios import (
    BALANCES,
    COMPARED,
    HOST_MAX,
    MAIN,
    MAXCONN,
    REQUEST_CPU_S,
    all_scenarios,
    now_scenarios,
    restarts,
)
from benches.fleet.suite import COMPRESSION, LANES, PLAIN, Results, Suite, tell
from benches.harness import RESULTS, CompileError, Spread, Target, machine, write_result

SEEDS = 3
# Where docs/fleet.md says why busyweight is worse than static, and what to do about it.
EXPLAINED = {"agent dead at 100%: night"}
# Scenario, window, and the share of their time that jobs may lose in it.
LOSSES = (("onset", "onset", 0.010), ("gusts of 4 s", "gusts", 0.018), ("gusts of 8 s", "gusts", 0.010))
FOLLOW_S = HEARTBEAT_S + AGENT_INTER_S + FRESH_FOR_S + 0.1


def spreads(tree: Any) -> Any:
    """Lists of numbers become spreads, all the way down."""
    if isinstance(tree, dict):
        return {key: spreads(value) for key, value in tree.items()}
    if isinstance(tree, list) and tree:
        return asdict(Spread.of(tree))
    return tree


def model() -> Results:
    """The model's parameters."""
    return {
        "cores": CORES,
        "web_hosts": 3,
        "job_hosts": 4,
        "request_cpu_s": REQUEST_CPU_S,
        "requests_per_s_that_one_host_can_do": HOST_MAX,
        "heartbeat_s": HEARTBEAT_S,
        "agent_inter_s": AGENT_INTER_S,
        "maxconn": MAXCONN,
        "fresh_for_s": FRESH_FOR_S,
        "clients_give_up_after_s": GIVE_UP_S,
        "good_within_s": GOOD_S,
        "compression": COMPRESSION,
        "compression_with_jobs": PLAIN,
    }


def summary(suite: Suite, about: Results) -> Results:
    """All results in the order of the file; `capacity` has plain medians, in requests per second."""
    capacity = spreads(dict(suite.capacity))
    return {
        "machine": about,
        "model": model(),
        "calibration": {
            **suite.calibration,
            "runs": suite.runs,
            "runs_sent_late": suite.late_runs,
            "late_means_p99_over_s": LATE_S,
        },
        "capacity": {a.name: capacity[a.name]["median"] for a in MAIN if a.name in capacity},
        "capacity_spread": capacity,
        "latency_by_load": {name: sorted(rows, key=lambda row: row["load"]) for name, rows in suite.ladder.items()},
        "scenarios": spreads(suite.measured),
        "candidates": spreads(suite.candidates),
        "scale": spreads(suite.scale),
        "timelines": suite.timelines,
    }


def at(results: Results, *path: str) -> Any:
    """The value at that path; None if it was not measured."""
    for key in path:
        results = results.get(key, {})
    return results or None


def median(results: Results, scenario: str, arrangement: str, window: str, metric: str) -> float | None:
    """Of all seeds."""
    found = at(results, "scenarios", scenario, arrangement, window)
    return found[metric]["median"] if found else None


def ratio(over: float | None, under: float | None) -> float | None:
    """None unless both were measured."""
    return over / under if over and under else None


def worse_than_static(results: Results) -> list[str]:
    """Windows in which busyweight is worse than static by more than noise: p95 10 % higher with no overlap between
    seeds, 2 % less goodput, or jobs losing 2 percentage points more of their time.
    """
    worse = []
    for scenario, arrangements in results["scenarios"].items():
        if not {"static", "busyweight"} <= arrangements.keys():
            continue
        for window, ours in arrangements["busyweight"].items():
            theirs = arrangements["static"][window]
            mine, other = ours["p95_s"], theirs["p95_s"]
            slower = mine["median"] > 1.1 * other["median"] and mine["low"] > other["high"]
            less = ours["goodput"]["median"] < 0.98 * theirs["goodput"]["median"]
            if slower or less or ours["job_slowdown"]["median"] > theirs["job_slowdown"]["median"] + 0.02:
                worse.append(f"{scenario}: {window}")
    return worse


def targets(results: Results) -> list[Target]:
    """The targets of a fleet, with the measured values."""
    capacity = results["capacity"]
    night = ("night", "p95_s")
    oracle = median(results, "night", "oracle", *night)
    judged = [
        Target("capacity to dedicated", ratio(capacity.get("busyweight"), capacity.get("dedicated")), at_least=2.2),
        Target("capacity to oracle", ratio(capacity.get("busyweight"), capacity.get("oracle")), at_least=0.95),
        Target("night: p95 to oracle", ratio(median(results, "night", "busyweight", *night), oracle), at_most=1.1),
        Target(
            "night: static's p95 to oracle", ratio(median(results, "night", "static", *night), oracle), at_least=1.2
        ),
        Target("night: job slow-down", median(results, "night", "busyweight", "night", "job_slowdown"), at_most=0.05),
        Target(
            "windows worse than static that are not explained",
            len(set(worse_than_static(results)) - EXPLAINED),
            at_most=0,
        ),
    ]
    spike = {
        (who, metric): median(results, "night spike", who, "night", metric)
        for who in ("busyweight", "oracle")
        for metric in ("errors", "p95_s", "job_slowdown")
    }
    judged.append(Target("night spike: errors", spike["busyweight", "errors"], at_most=0))
    for what, metric, most in (("p95", "p95_s", 1.1), ("jobs lose", "job_slowdown", 1.15)):
        to_oracle = ratio(spike["busyweight", metric], spike["oracle", metric])
        judged.append(Target(f"night spike: {what} to oracle", to_oracle, at_most=most))
    for name, window, most in LOSSES:
        lost = median(results, name, "busyweight", window, "job_slowdown")
        judged.append(Target(f"{name}: jobs lose", lost, at_most=most))
    for scenario in now_scenarios():
        (window,) = scenario.windows
        ours, best = (median(results, scenario.name, who, window, "p95_s") for who in ("busyweight", "oracle"))
        judged.append(Target(f"{scenario.name}: p95 to oracle", ratio(ours, best), at_most=1.1))
    for name, scale in results["scale"].items():
        judged.append(
            Target(f"{name}: seconds until the last weight has followed", scale["follow_s"]["high"], at_most=FOLLOW_S)
        )
    return judged


def save(results: Results, name: str) -> list[Target]:
    """Judges and writes the results; those of a full run also as tables and plots."""
    results["worse_than_static"] = worse_than_static(results)
    judged = targets(results)
    path = write_result(name, results, judged)
    tell(f"written: {path}")
    if name == "fleet":
        draw()
    return judged


def draw() -> None:
    """Plots and tables, from the results on disk."""
    results = json.loads((RESULTS / "fleet.json").read_text())
    for path in (*plot.all_plots(results), page.write()):
        tell(f"written: {path}")


def measure(home: Path, *, small: bool, seeds: int) -> list[Target]:
    """Runs everything, and saves after every seed."""
    judged: list[Target] = []
    about = machine()
    suite = Suite(home)
    with fleet(home / "seven", 3, 4, COMPRESSION) as hosts:
        suite.calibrate(hosts)
        if small:
            suite.small(hosts)
        for seed in range(1, seeds + 1) if not small else ():
            suite.one_seed(hosts, seed)
            if seed == 1:
                for arrangement in MAIN:
                    suite.climb(hosts, arrangement, seed)
                suite.many()
            judged = save(summary(suite, about), "fleet")
    if small:
        suite.grow(14, polled_only=20)
        judged = save(summary(suite, about), "fleet-small")
    return judged


def measure_some(home: Path, names: list[str], seeds: int) -> list[Target]:
    """Measures only these scenarios, into the existing results."""
    suite = Suite(home)
    chosen = [s for s in (*all_scenarios(), *now_scenarios(), *restarts()) if s.name in names]
    with lanes(home, min(LANES, sum(len(s.arrangements) for s in chosen)), PLAIN) as many:
        for seed in range(1, seeds + 1):
            suite.play(many, chosen, seed)
    results = json.loads((RESULTS / "fleet.json").read_text())
    results["scenarios"] |= spreads(suite.measured)
    results["timelines"] |= suite.timelines
    results["model"] = model()
    known = results["calibration"]
    known["runs"] += suite.runs
    known["runs_sent_late"] += suite.late_runs
    known["latest_sent_p99_s"] = max(known["latest_sent_p99_s"], suite.calibration["latest_sent_p99_s"])
    for name, share in suite.calibration["most_cores_used"].items():
        known["most_cores_used"][name] = max(known["most_cores_used"][name], share)
    return save(results, "fleet")


def measure_rules(home: Path, seeds: int) -> list[Target]:
    """Measures only candidate rules that the results lack, into the existing results."""
    suite = Suite(home)
    results = json.loads((RESULTS / "fleet.json").read_text())
    with lanes(home, LANES, PLAIN) as many:
        for seed in range(1, seeds + 1):
            suite.rules(many, seed, results["candidates"].get("night", {}))
    for scenario, arrangements in spreads(suite.candidates).items():
        results["candidates"].setdefault(scenario, {}).update(arrangements)
    return save(results, "fleet")


def measure_many(home: Path) -> list[Target]:
    """Measures only the many hosts, into the existing results."""
    suite = Suite(home)
    suite.many()
    results = json.loads((RESULTS / "fleet.json").read_text())
    results["scale"] = spreads(suite.scale)
    results["model"] = model()
    return save(results, "fleet")


def measure_haproxies(home: Path) -> list[Target]:
    """Measures the same nights with each HAProxy of the matrix's Debians, into separate results."""
    measured: Results = {}
    about = machine()
    found, reasons = trees.get_all()
    for release, reason in reasons.items():
        tell(f"not measured: {release}: {reason}")
    chosen = [replace(s, arrangements=BALANCES) for s in (*all_scenarios(), *now_scenarios()) if s.name in COMPARED]
    for haproxy in (haproxy for tree in found for haproxy in tree.haproxies()):
        tell(f"HAProxy {haproxy.version}")
        suite = Suite(home / haproxy.version)
        with lanes(suite.home, len(chosen) * len(BALANCES), PLAIN, of=haproxy) as many:
            suite.play(many, chosen, 1)
        measured[haproxy.version] = spreads(suite.measured)
        calibration = suite.calibration["latest_sent_p99_s"], suite.late_runs
        tell(f"  requests sent late, p99 of the worst run: {calibration[0]:.3f} s; runs too late: {calibration[1]}")
    tell(f"written: {write_result('haproxies', {'machine': about, 'model': model(), 'haproxies': measured})}")
    tell(f"written: {page.write()}")
    return []


def main() -> int:
    """0 if everything was measured, whether or not the targets are met; 1 if the bench could not run."""
    parser = argparse.ArgumentParser(prog="python -m benches.fleet", description=__doc__.partition("\n")[0])
    parser.add_argument("--small", action="store_true", help="a short version, in five minutes")
    parser.add_argument(
        "--only",
        action="append",
        choices=[s.name for s in (*all_scenarios(), *now_scenarios(), *restarts())],
        metavar="NAME",
        help="measure only that scenario, into the existing results; may be repeated",
    )
    parser.add_argument("--rules", action="store_true", help="measure only rules that the results lack")
    parser.add_argument("--many", action="store_true", help="measure only the many hosts")
    parser.add_argument("--haproxies", action="store_true", help="measure only the nights, with each HAProxy")
    parser.add_argument("--pages", action="store_true", help="only redraw plots and tables")
    parser.add_argument("--seeds", type=int, default=SEEDS, metavar="N", help="how often to repeat everything")
    options = parser.parse_args()
    if options.pages:
        draw()
        return 0
    # Also if a signal ends the bench, it ends what it started.
    for ends in (signal.SIGINT, signal.SIGTERM):
        signal.signal(ends, lambda signum, _: SIGNALS.append(signum))
    with tempfile.TemporaryDirectory(prefix="fleet-") as directory:
        try:
            if options.only:
                judged = measure_some(Path(directory), options.only, options.seeds)
            elif options.rules:
                judged = measure_rules(Path(directory), options.seeds)
            elif options.many:
                judged = measure_many(Path(directory))
            elif options.haproxies:
                judged = measure_haproxies(Path(directory))
            else:
                judged = measure(Path(directory), small=options.small, seeds=options.seeds)
        except (CompileError, trees.TreeError, pytest.fail.Exception, pytest.skip.Exception) as reason:
            print(f"benches.fleet: {reason}", file=sys.stderr)
            return 1
        except Exception:
            if not SIGNALS:  # else what failed had got the signal, too
                raise
            return 1
    for target in judged:
        tell(target.line())
    return 0


if __name__ == "__main__":
    sys.exit(main())
