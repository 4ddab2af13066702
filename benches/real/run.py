"""One run of one scenario on the real hosts, and its measurements, in the fleet bench's format.

The model's own generator makes the load, so both get the same requests at the same times.
"""

import os
import random
import subprocess
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tests.real.parts import HAProxy

from benches.fleet.parts import PROXY_PORT, Arrangement, cpu_s, hurry, program
from benches.fleet.run import GIVE_UP_S, LATE_S, REQUEST, SAMPLE, Run, weights_of
from benches.fleet.scenarios import REQUEST_CPU_S, Scenario
from benches.real.hosts import HOSTS, JOB_HOSTS, RealFleet
from benches.real.judge import busy_until

LOOK_EVERY_S = 0.1
TRIES = 2


@dataclass
class Done:
    """One run's measurements. Times are seconds since its start; `done` has a row per look and a column per worker:
    the seconds of a core that its jobs have used so far. `busy` has the times at which each worker had a job."""

    requests: Any
    weights: Any
    looks: Any
    done: Any
    busy: list[list[tuple[float, float]]]
    used: dict[str, float]  # cores of this machine used by haproxy, the generator, an average agent, and everybody

    @property
    def late_s(self) -> float:
        """How late requests were sent, at the 99th percentile."""
        return float(np.percentile(self.requests["lag"], 99))

    def as_run(self) -> Run:
        """In the fleet bench's format."""
        samples = np.zeros((len(self.looks), HOSTS), SAMPLE)
        samples["at"] = self.looks[:, None]
        per_host = len(self.busy) // len(JOB_HOSTS)
        for column, times in enumerate(self.busy):
            host = JOB_HOSTS[column // per_host]
            samples["job_time"][:, host] += [busy_until(at, times) for at in self.looks]
            samples["job_work"][:, host] += self.done[:, column] - self.done[0, column]
        return Run(self.requests, samples, self.weights, {}, self.used, self.late_s)


def run(fleet: RealFleet, arrangement: Arrangement, scenario: Scenario, seed: int) -> Done:
    """Runs the scenario, again if requests were sent late; the last try counts."""
    for _ in range(TRIES):
        done = _run(fleet, arrangement, scenario, seed)
        if done.late_s <= LATE_S:
            break
    return done


def _run(fleet: RealFleet, arrangement: Arrangement, scenario: Scenario, seed: int) -> Done:
    out = fleet.home / "run"
    with fleet.limited(), fleet.haproxy(arrangement) as haproxy:
        hurry(haproxy.pid, realtime=True)
        generator = subprocess.Popen([program()], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        try:
            hurry(generator.pid, realtime=True)
            assert generator.stdin is not None
            assert generator.stdout is not None
            before = _used(fleet, haproxy)
            generator.stdin.write(_script(fleet, scenario, seed, out))
            generator.stdin.flush()
            start = float(generator.stdout.readline().split()[1])
            watch = _Watch(fleet, haproxy, scenario, start, random.Random(seed))
            watch.until_end(generator)
            took_s = time.monotonic() - start
            used = {name: (cpu - before[name]) / took_s for name, cpu in _used(fleet, haproxy).items()}
            used["generator"] = float(generator.stdout.read().split()[1]) / took_s
        finally:
            generator.kill()
            generator.communicate()
    looks = np.array(watch.looks)
    busy = [[(b - start, e - start) for b, e in w.busy_times() if e > start] for w in watch.workers]
    return Done(
        np.fromfile(f"{out}.requests", REQUEST), np.array(watch.weights), looks, np.array(watch.done), busy, used
    )


def _script(fleet: RealFleet, scenario: Scenario, seed: int, out: Path) -> str:
    """The script for main.c: only the load."""
    lines = [
        f"seed {seed}",
        f"give_up_after {GIVE_UP_S:g}",
        f"cpu {REQUEST_CPU_S[0]} {REQUEST_CPU_S[1]}",
        f"end {scenario.end_s:g}",
        f"proxy {fleet.proxy} {PROXY_PORT}",
        f"out {out}",
        *(step for step in scenario.steps if step.split()[2] == "load"),
    ]
    return "\n".join([*lines, "go"]) + "\n"


def _used(fleet: RealFleet, haproxy: HAProxy) -> dict[str, float]:
    """CPU seconds used so far."""
    all_ticks = [int(ticks) for ticks in Path("/proc/stat").read_text().splitlines()[0].split()[1:8]]
    idle, waiting = all_ticks[3:5]
    return {
        "haproxy": cpu_s(haproxy.pid),
        "agent": sum(cpu_s(agent.pid) for agent in fleet.agents) / len(fleet.agents),
        "everybody": (sum(all_ticks) - idle - waiting) / os.sysconf("SC_CLK_TCK"),
    }


class _Watch:
    """Enqueues the jobs and samples weights and progress during a run."""

    def __init__(
        self, fleet: RealFleet, haproxy: HAProxy, scenario: Scenario, start: float, dice: random.Random
    ) -> None:
        self.fleet, self.haproxy, self.start, self.dice = fleet, haproxy, start, dice
        self.due = [step.split()[1:] for step in scenario.steps if step.split()[2] != "load"]
        self.workers = [worker for host in JOB_HOSTS for worker in fleet.workers[host]]
        self.looks: list[float] = []
        self.weights: list[list[float]] = []
        self.done: list[list[float]] = []

    def until_end(self, generator: subprocess.Popen[str]) -> None:
        while generator.poll() is None:
            looked = time.monotonic()
            while self.due and float(self.due[0][0]) <= looked - self.start:
                self.happen(*self.due.pop(0)[1:])
            self.look()
            with suppress(subprocess.TimeoutExpired):
                generator.wait(max(0.0, looked + LOOK_EVERY_S - time.monotonic()))
        self.look()

    def happen(self, what: str, host: str, jobs: str, mean_s: str) -> None:
        if what != "backlog":
            raise ValueError(f"no such step: {what}")
        self.fleet.give(int(host), [self.dice.expovariate(1 / float(mean_s)) for _ in range(int(jobs))])

    def look(self) -> None:
        at = time.monotonic() - self.start
        self.looks.append(at)
        self.done.append([worker.done() for worker in self.workers])
        self.weights.append([at, *weights_of(self.haproxy)])
