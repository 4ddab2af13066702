"""A fleet made only of real parts, compared with the model: `python -m benches.real [--small]`.

Runs real Pumas, Sidekiqs, agents and HAProxy on seven hosts, each a cgroup with a CPU quota. Needs root and about ten
minutes on two cores; writes benches/results/real.json and the tables of docs/fleet.md. `--small` takes three minutes
and writes only real-small.json. It must leave the machine as it was.
"""

import argparse
import os
import signal
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benches.fleet import page
from benches.fleet.lanes import lanes
from benches.fleet.parts import Arrangement, Fleet, hurry
from benches.fleet.run import Run
from benches.fleet.run import run as run_model
from benches.fleet.scenarios import JOB_HOSTS, REQUEST_CPU_S, STATIC, Scenario
from benches.harness import CompileError, Target, machine, write_result
from benches.real import course, judge
from benches.real.hosts import CORE, CORES, PERIOD_US, WEB_WORKERS, CannotError, RealFleet, host_groups
from benches.real.run import Done, run

SEED = 1
HEARTBEAT_S = 0.04  # of the model's titles; the real ones are live
CAPACITY_RATIO = 0.9
LANES = 12

Results = dict[str, Any]
Runs = dict[str, dict[str, Run]]  # by scenario and arrangement


def tell(text: str) -> None:
    """Prints progress."""
    print(text, flush=True)


def alone() -> None:
    """Continues in a new pid namespace, so that everything that was started ends with it, however it ends."""
    if os.geteuid() != 0:
        raise CannotError("needs root, to make cgroups with a CPU quota")
    if os.environ.get("BENCH_ALONE") is None:
        os.environ["BENCH_ALONE"] = "1"
        own = ["unshare", "--fork", "--pid", "--mount-proc", "--kill-child"]
        os.execvp(own[0], [*own, sys.executable, "-m", "benches.real", *sys.argv[1:]])  # noqa: S606 - itself


@contextmanager
def real_fleet(home: Path) -> Iterator[RealFleet]:
    """All hosts and everything that runs on them."""
    with host_groups() as groups, ExitStack() as stack:
        hurry(os.getpid())
        fleet = RealFleet(home, groups)
        fleet.start(stack)
        yield fleet


def wanted(*, small: bool) -> list[tuple[Scenario, Arrangement]]:
    """The runs to make."""
    scenarios = [course.windy()] if small else [course.night(), course.windy()]
    pairs = [(scenario, arrangement) for scenario in scenarios for arrangement in course.ARRANGEMENTS]
    climbs = [(course.capacity(arrangement), arrangement) for arrangement in course.ARRANGEMENTS]
    return pairs if small else [*pairs, *climbs]


class Real:
    """Runs on the real hosts, and keeps what they needed of this machine."""

    def __init__(self, fleet: RealFleet) -> None:
        self.fleet = fleet
        self.calibration: Results = {"most_cores_used": {}, "latest_sent_p99_s": 0.0}

    def all(self, pairs: list[tuple[Scenario, Arrangement]]) -> Runs:
        found: Runs = {}
        for scenario, arrangement in pairs:
            found.setdefault(scenario.name, {})[arrangement.name] = self._run(arrangement, scenario).as_run()
            tell(f"  real: {scenario.name}, {arrangement.name}")
        return found

    def calibrate(self) -> None:
        """Measures requests that have a core to themselves."""
        scenario = course.requests_alone()
        done = self._run(STATIC, scenario)
        begin, end = scenario.windows["all"]
        inside = done.requests[(done.requests["at"] >= begin) & (done.requests["at"] < end)]
        added = inside["latency"] - inside["demand"]
        self.calibration["added_p50_s"], self.calibration["added_p95_s"] = map(float, np.percentile(added, [50, 95]))

    def _run(self, arrangement: Arrangement, scenario: Scenario) -> Done:
        done = run(self.fleet, arrangement, scenario, SEED)
        most = self.calibration["most_cores_used"]
        for name, cores in done.used.items():
            most[name] = max(most.get(name, 0.0), cores)
        self.calibration["latest_sent_p99_s"] = max(self.calibration["latest_sent_p99_s"], done.late_s)
        return done


def modelled(home: Path, pairs: list[tuple[Scenario, Arrangement]]) -> Runs:
    """The same runs on the model, all in parallel."""

    def one(hosts: Fleet, pair: tuple[Scenario, Arrangement]) -> Run:
        return run_model(hosts, pair[1], pair[0], SEED)

    found: Runs = {}
    with lanes(home, min(LANES, len(pairs)), 1.0, cores=CORES, heartbeat_s=HEARTBEAT_S) as many:
        for (scenario, arrangement), done in zip(pairs, many.each(one, pairs), strict=True):
            found.setdefault(scenario.name, {})[arrangement.name] = done
            tell(f"  model: {scenario.name}, {arrangement.name}")
    return found


def windows(runs: Runs, pairs: list[tuple[Scenario, Arrangement]]) -> Results:
    """The numbers of all windows, and the loads held."""
    found: Results = {"scenarios": {}, "capacity": {}, "stairs": {}}
    for scenario, arrangement in pairs:
        done = runs[scenario.name][arrangement.name]
        each = {name: done.window(*window, JOB_HOSTS) for name, window in scenario.windows.items()}
        if scenario.name == "capacity":
            found["stairs"][arrangement.name] = each
            held = judge.held([(window["load"], window["p95_s"]) for window in each.values()])
            found["capacity"][arrangement.name] = held
        else:
            found["scenarios"].setdefault(scenario.name, {})[arrangement.name] = each
    return found


def targets(real: Results, model: Results) -> list[Target]:
    """The targets: the model's order of arrangements, and nearly the model's capacity."""
    other = judge.disagreements(real["scenarios"], model["scenarios"])
    for text in other:
        tell(f"  not in the model's order: {text}")
    ratios = [
        each["capacity"]["busyweight"] / each["capacity"]["dedicated"] if all(each["capacity"].values()) else None
        for each in (real, model)
        if each["capacity"]
    ]
    ratio = ratios[0] / ratios[1] if len(ratios) == 2 and ratios[0] and ratios[1] else None
    return [
        Target("real: arrangements in another order than in the model", len(other), at_most=0),
        Target("real: capacity to dedicated, of the model's", ratio, at_least=CAPACITY_RATIO),
    ]


def measure(home: Path, *, small: bool) -> tuple[Results, list[Target]]:
    """Measures everything, first on the real hosts."""
    pairs = wanted(small=small)
    about = machine()
    with real_fleet(home) as fleet:
        real = Real(fleet)
        real.calibrate()
        runs = real.all(pairs)
    found, model = windows(runs, pairs), windows(modelled(home, pairs), pairs)
    results = {
        "machine": about,
        "hosts": {
            "web_hosts": 3,
            "job_hosts": 4,
            "cores": CORES,
            "core": CORE,
            "period_us": PERIOD_US,
            "puma_workers": WEB_WORKERS,
            "request_cpu_s": REQUEST_CPU_S,
            "seed": SEED,
        },
        "calibration": real.calibration,
        "real": found,
        "model": model,
        "disagreements": judge.disagreements(found["scenarios"], model["scenarios"]),
    }
    return results, targets(found, model)


def main() -> int:
    """0 if everything was measured, whether or not the targets are met; 1 if the bench could not run."""
    options = argparse.ArgumentParser(prog="python -m benches.real", description=__doc__.partition("\n")[0])
    options.add_argument("--small", action="store_true", help="a short version, in three minutes")
    arguments = options.parse_args()
    # Also if a signal ends the bench, it ends what it started.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    try:
        alone()
        with tempfile.TemporaryDirectory(prefix="real-") as directory:
            results, judged = measure(Path(directory), small=arguments.small)
    except (CannotError, CompileError, pytest.fail.Exception, pytest.skip.Exception) as reason:
        print(f"benches.real: {reason}", file=sys.stderr)
        return 1
    tell(f"written: {write_result('real-small' if arguments.small else 'real', results, judged)}")
    if not arguments.small:
        tell(f"written: {page.write()}")
    for target in judged:
        tell(target.line())
    return 0


if __name__ == "__main__":
    sys.exit(main())
