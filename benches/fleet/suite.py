"""Which runs to make, in which order, and the results as plain data: one list entry per seed, or per run.

It must not judge: benches/fleet/__main__.py compares results with the targets.
"""

from collections import defaultdict
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from benches.fleet.lanes import Lanes, lanes
from benches.fleet.parts import CORES, Arrangement, Fleet, fleet
from benches.fleet.run import GOOD_S, LATE_S, Run, run
from benches.fleet.scenarios import (
    ALL,
    BUSYWEIGHT,
    CANDIDATES,
    HOST_MAX,
    JOB_HOSTS,
    JUDGED,
    MAIN,
    SEVEN_MAX,
    SMALL,
    STATIC,
    THREE_MAX,
    WEB_HOSTS,
    Scenario,
    all_scenarios,
    constant,
    load,
    now_scenarios,
    restarts,
)

COMPRESSION = 12.5  # where job hosts are idle
PLAIN = 1.0  # where there are jobs: the agent measures their CPU in real time
LANES = 12
CAPACITY_S, CAPACITY_STEPS = 80.0, 5
LADDER = (0.2, 0.5, 0.7, 0.85, 0.95, 1.0, 1.04)  # shares of what the cores can serve

Results = dict[str, Any]


def tell(text: str) -> None:
    """Prints progress."""
    print(text, flush=True)


class Suite:
    """Collects results; `measured[scenario][arrangement][window][metric]` is a list with one number per seed."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.capacity: dict[str, list[float]] = defaultdict(list)
        self.ladder: dict[str, list[dict[str, float]]] = defaultdict(list)
        self.measured: Results = {}
        self.candidates: Results = {}
        self.timelines: Results = {}
        self.scale: Results = {}
        self.calibration: Results = {}
        self.late_runs = 0
        self.runs = 0

    def _run(self, hosts: Fleet, arrangement: Arrangement, scenario: Scenario, seed: int) -> Run:
        return self._accounted(run(hosts, arrangement, scenario, seed))

    def _accounted(self, done: Run) -> Run:
        self.runs += 1
        self.late_runs += done.late_s > LATE_S
        for name, share in done.cpu.items():
            most = self.calibration.setdefault("most_cores_used", {})
            most[name] = max(most.get(name, 0.0), share)
        self.calibration["latest_sent_p99_s"] = max(self.calibration.get("latest_sent_p99_s", 0.0), done.late_s)
        return done

    def calibrate(self, hosts: Fleet) -> None:
        """The latency that the plumbing itself adds: with almost no load, every request has a core from the start."""
        done = self._run(hosts, BUSYWEIGHT, constant(5, 60), 1)
        added = done.requests["latency"] - done.requests["demand"]
        for name, share in (("p50", 50), ("p95", 95), ("p99", 99)):
            self.calibration[f"plumbing_{name}_s"] = float(np.percentile(added, share))

    def find_capacity(
        self, hosts: Fleet, arrangement: Arrangement, seed: int, end_s: float = CAPACITY_S, steps: int = CAPACITY_STEPS
    ) -> None:
        """The highest load held, by bisection. The load that came counts, not the intended one."""
        most = THREE_MAX if arrangement.web_only else SEVEN_MAX
        low, high, held = 0.88 * most, 1.06 * most, 0.0
        for step in range(steps + 1):
            # The lower end first: bisection needs a load that is held.
            rate = low if step == 0 else (low + high) / 2
            found = self.look_at_load(hosts, arrangement, rate, seed, end_s)
            if found["p95_s"] < GOOD_S and not found["errors"]:
                held, low = max(held, found["load"]), rate
            elif step == 0:
                low, high = 0.3 * most, low
            else:
                high = rate
        self.capacity[arrangement.name].append(held)
        tell(f"  capacity {arrangement.name}: {held:.1f} requests/s (seed {seed})")

    def look_at_load(
        self, hosts: Fleet, arrangement: Arrangement, rate: float, seed: int, end_s: float = CAPACITY_S
    ) -> dict[str, float]:
        """One constant load on idle job hosts."""
        scenario = constant(rate, end_s)
        found = self._run(hosts, arrangement, scenario, seed).window(*scenario.windows["all"], JOB_HOSTS)
        self.ladder[arrangement.name].append({key: found[key] for key in ("load", "p50_s", "p95_s", "p99_s")})
        return found

    def climb(self, hosts: Fleet, arrangement: Arrangement, seed: int) -> None:
        """Latency against load."""
        most = THREE_MAX if arrangement.web_only else SEVEN_MAX
        for share in LADDER:
            self.look_at_load(hosts, arrangement, share * most, seed, 60)

    def play(self, many: Lanes, scenarios: list[Scenario], seed: int) -> None:
        """Scenarios under all their arrangements, in parallel."""
        wanted = [(scenario, arrangement) for scenario in scenarios for arrangement in scenario.arrangements]
        self._play(many, wanted, seed, self.measured)

    def _play(self, many: Lanes, wanted: list[tuple[Scenario, Arrangement]], seed: int, into: Results) -> None:
        def one(hosts: Fleet, what: tuple[Scenario, Arrangement]) -> Run:
            scenario, arrangement = what
            return run(hosts, arrangement, scenario, seed)

        for (scenario, arrangement), done in zip(wanted, many.each(one, wanted), strict=True):
            self._note(self._accounted(done), scenario, arrangement, seed, into)

    def _note(self, done: Run, scenario: Scenario, arrangement: Arrangement, seed: int, into: Results) -> None:
        """Measures all windows of one run."""
        place = into.setdefault(scenario.name, {}).setdefault(arrangement.name, {})
        for window, (begin, end) in scenario.windows.items():
            for metric, value in done.window(begin, end, scenario.job_hosts).items():
                place.setdefault(window, {}).setdefault(metric, []).append(value)
            if scenario.name.startswith("agent dead"):
                place[window].setdefault("slowdown_of_its_host", []).append(done.slowdown(begin, end, range(3, 4)))
        if scenario.name in JUDGED and arrangement in MAIN and seed == 1:
            self.timelines.setdefault(scenario.name, {})[arrangement.name] = timeline(done, scenario.end_s)
        longest = max(scenario.windows, key=lambda name: scenario.windows[name][1] - scenario.windows[name][0])
        last = {key: round(values[-1], 3) for key, values in place[longest].items()}
        tell(f"  {scenario.name}, {arrangement.name}, {longest}: {last} (seed {seed})")

    def one_seed(self, hosts: Fleet, seed: int) -> None:
        """Everything once."""
        for arrangement in ALL:
            self.find_capacity(hosts, arrangement, seed)
        with lanes(self.home, LANES, PLAIN) as many:
            self.play(many, [*all_scenarios(), *now_scenarios(), *restarts()], seed)
            self.rules(many, seed)

    def rules(self, many: Lanes, seed: int, known: Collection[str] = ()) -> None:
        """The candidate rules, except those already measured."""
        wanted = [(s, c) for s in all_scenarios() if s.name in JUDGED for c in CANDIDATES if c.name not in known]
        self._play(many, wanted, seed, self.candidates)

    def small(self, hosts: Fleet) -> None:
        """The short version, about five minutes."""
        for arrangement in MAIN:
            self.find_capacity(hosts, arrangement, 1, 60, 3)
        with lanes(self.home, LANES, PLAIN) as many:
            night = [replace(s, arrangements=MAIN) for s in all_scenarios() if s.name in SMALL]
            self.play(many, [*night, *(s for s in now_scenarios() if s.name in SMALL)], 1)

    def many(self) -> None:
        """A hundred hosts with real agents, and nine hundred more that are polled only."""
        self.grow(100)
        self.grow(100, polled_only=900)

    def grow(self, real: int, polled_only: int = 0) -> None:
        """Many hosts in real time: how soon weights follow, and what that costs."""
        web_hosts = real * 3 // 7
        rate = web_hosts * HOST_MAX / 2
        job_hosts = range(web_hosts, real)
        scenario = Scenario(
            "many hosts",
            "",
            90,
            (
                load(0, rate),
                *(f"at 15 backlog {host} {CORES} 1e6" for host in job_hosts),
                *(f"at 40 clear {host}" for host in job_hosts),
                *(f"at 65 backlog {host} {1 + (host * 5) % (CORES - 1)} 1e6" for host in job_hosts),
            ),
            {"full": (28, 40)},
        )
        name = f"{real + polled_only} hosts"
        place = self.scale.setdefault(name, {"real_agents": real, "requests_per_s": rate, "job_hosts": len(job_hosts)})
        with fleet(
            self.home / name.replace(" ", "-"), web_hosts, len(job_hosts), 1, network=78, polled_only=polled_only
        ) as hosts:
            for arrangement in (BUSYWEIGHT,) if polled_only else (STATIC, BUSYWEIGHT):
                done = run(hosts, arrangement, scenario, 1, look_every_s=0.05)
                found = done.window(*scenario.windows["full"], job_hosts)
                place[arrangement.name] = {**found, "cores_used": done.cpu, "sent_late_p99_s": done.late_s}
                if arrangement is BUSYWEIGHT:
                    place["agent_checks"] = done.checks
                    place["follow_s"] = follow_times(done, job_hosts, [15, 40, 65])
                    place["looked_every_s"] = float(np.median(np.diff(done.weights[:, 0])))
        tell(f"  {name}: {place}")


def follow_times(done: Run, job_hosts: range, changes: list[float]) -> list[float]:
    """For each job host and change: seconds until HAProxy's weight matched the jobs, and stayed so."""
    times = []
    at = done.weights[:, 0]
    for change, end in zip(changes, [*changes[1:], at[-1]], strict=True):
        inside = (at >= change) & (at < end - 0.5)
        jobs = done.samples["jobs"][np.searchsorted(done.samples["at"][:, 0], change + 1)]
        for host in job_hosts:
            right = done.weights[inside, 1 + host] == round(100 * (1 - jobs[host] / CORES))
            wrong = np.flatnonzero(~right)
            since = 0 if not len(wrong) else wrong[-1] + 1
            times.append(float(at[inside][since] - change) if since < len(right) else float("inf"))
    return times


def timeline(done: Run, end_s: float) -> dict[str, list[float]]:
    """Per second: the job hosts' mean weight and jobs, requests in service on both kinds of hosts, latency."""
    seconds = np.arange(0, end_s)
    looks = np.clip(np.searchsorted(done.weights[:, 0], seconds), 0, len(done.weights) - 1)
    samples = done.samples[np.clip(np.searchsorted(done.samples["at"][:, 0], seconds), 0, len(done.samples) - 1)]
    jobs, web = list(JOB_HOSTS), list(WEB_HOSTS)
    served = done.weights.shape[1] - 1 > len(web)
    columns = {
        "s": seconds,
        "weight": done.weights[looks][:, [1 + host for host in jobs]].mean(axis=1)
        if served
        else np.zeros(len(seconds)),
        "jobs": samples["jobs"][:, jobs].mean(axis=1),
        "requests_on_job_hosts": samples["requests"][:, jobs].mean(axis=1),
        "requests_on_web_hosts": samples["requests"][:, web].mean(axis=1),
        "p95_s": np.array([_p95(done, second) for second in seconds]),
    }
    return {name: [round(float(value), 3) for value in values] for name, values in columns.items()}


def _p95(done: Run, second: float) -> float:
    """The p95 of five seconds, by the requests' arrival."""
    inside = done.requests[(done.requests["at"] >= second - 2) & (done.requests["at"] < second + 3)]
    waited = np.where(inside["status"] == 200, inside["latency"], 10.0)
    return float(np.percentile(waited, 95)) if len(waited) else 0.0
