"""One run of one scenario under one arrangement, and its measurements.

The model (C), HAProxy and the agents run in real time; this module starts, watches and ends them. A run in which the
model itself was late is invalid and is repeated.
"""

import signal
import subprocess
import threading
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tests.real.parts import HAProxy

from benches.fleet.parts import (
    AGENT_PORT,
    PROXY_PORT,
    WEB_PORT,
    Arrangement,
    EndedError,
    Fleet,
    cpu_s,
    hurry,
    program,
)
from benches.fleet.scenarios import REQUEST_CPU_S, Scenario

GOOD_S = 1.0  # a response within this time counts as goodput
GIVE_UP_S = 10.0
LATE_S = 0.05  # if requests are sent later than this at the 99th percentile, the run is invalid
TRIES = 3

REQUEST = np.dtype([("at", "f8"), ("demand", "f8"), ("latency", "f8"), ("lag", "f8"), ("status", "i4"), ("host", "i4")])
SAMPLE = np.dtype([(name, "f8") for name in ("at", "jobs", "requests", "job_time", "job_work", "web_time")])


@dataclass
class Run:
    """One run's measurements. `weights` has one row per look: model time, then each server's weight in percent."""

    requests: Any
    samples: Any  # looks x hosts
    weights: Any
    checks: dict[str, int]  # at the end: number of agent-checks by result
    cpu: dict[str, float]  # cores used by haproxy, the model and an average agent
    late_s: float

    def window(self, begin: float, end: float, job_hosts: range) -> dict[str, float]:
        """The numbers of one window of model time; latencies in seconds, shares as fractions."""
        inside = self.requests[(self.requests["at"] >= begin) & (self.requests["at"] < end)]
        good = inside["status"] == 200
        waited = np.where(good, inside["latency"], GIVE_UP_S)
        p50, p95, p99 = np.percentile(waited, [50, 95, 99])
        return {
            "load": len(inside) / (end - begin),
            "goodput": float((good & (waited < GOOD_S)).sum() / (end - begin)),
            "p50_s": float(p50),
            "p95_s": float(p95),
            "p99_s": float(p99),
            "errors": float(1 - good.mean()),
            "job_slowdown": self.slowdown(begin, end, job_hosts),
            "weight_changes_per_host_minute": self.flapping(begin, end),
        }

    def slowdown(self, begin: float, end: float, job_hosts: range) -> float:
        """The share of their time that jobs on those hosts lost to web work; 0 where there were none."""
        at = self.samples["at"][:, 0]
        first, last = np.searchsorted(at, [begin, end - 1e-9])
        first, last = min(first, len(at) - 1), min(last, len(at) - 1)
        span = self.samples[last], self.samples[first]
        spent, got = (sum(span[0][name][h] - span[1][name][h] for h in job_hosts) for name in ("job_time", "job_work"))
        return float(1 - got / spent) if spent > 0 else 0.0

    def flapping(self, begin: float, end: float) -> float:
        """How often a server's weight changed, per server and model minute."""
        rows = self.weights[(self.weights[:, 0] >= begin) & (self.weights[:, 0] < end), 1:]
        changes = (np.diff(rows, axis=0) != 0).sum()
        return float(changes / rows.shape[1] / ((end - begin) / 60))


def script(fleet: Fleet, arrangement: Arrangement, scenario: Scenario, seed: int, out: Path) -> str:
    """What main.c reads."""
    lines = [
        f"compression {fleet.compression:g}",
        f"seed {seed}",
        f"heartbeat {fleet.heartbeat_s:g}",
        f"give_up_after {GIVE_UP_S:g}",
        f"cpu {REQUEST_CPU_S[0]} {REQUEST_CPU_S[1]}",
        f"end {scenario.end_s:g}",
        f"proxy {fleet.proxy} {PROXY_PORT}",
        f"out {out}",
    ]
    polls = f"{arrangement.agent_port} {arrangement.rule}"
    lines += [f"host {a.address} {WEB_PORT} {polls} {fleet.cores} {fleet.cores} {a.tree}" for a in fleet.agents]
    for host in range(fleet.hosts, fleet.hosts + fleet.polled_only):
        lines.append(f"host {fleet.address(host)} 0 {AGENT_PORT} instant {fleet.cores} 0 -")
    if arrangement.oracle:
        lines.append("oracle")
    return "\n".join([*lines, *scenario.steps, "go"]) + "\n"


def run(fleet: Fleet, arrangement: Arrangement, scenario: Scenario, seed: int, look_every_s: float = 0.1) -> Run:
    """Runs the scenario, again if the machine was too busy; the last try counts, and says how late it was.

    `look_every_s` is how often weights are looked at, in real seconds.
    """
    for _ in range(TRIES):
        done = _run(fleet, arrangement, scenario, seed, look_every_s)
        if done.late_s <= LATE_S:
            break
    return done


def _run(fleet: Fleet, arrangement: Arrangement, scenario: Scenario, seed: int, look_every_s: float) -> Run:
    out = fleet.home / "run"
    model = subprocess.Popen([program()], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    hurry(model.pid, realtime=True)
    try:
        with fleet.haproxy(arrangement) as haproxy:
            hurry(haproxy.pid, realtime=True)
            before = cpu_s(haproxy.pid), sum(cpu_s(agent.pid) for agent in fleet.agents)
            assert model.stdin is not None
            assert model.stdout is not None
            model.stdin.write(script(fleet, arrangement, scenario, seed, out))
            model.stdin.flush()
            start = float(model.stdout.readline().split()[1])
            weights, checks = _Watch(fleet, haproxy, scenario, start).until_end(model, look_every_s)
            took_s = time.monotonic() - start
            after = cpu_s(haproxy.pid), sum(cpu_s(agent.pid) for agent in fleet.agents)
            used = {
                "haproxy": (after[0] - before[0]) / took_s,
                "agent": max(0.0, after[1] - before[1]) / took_s / len(fleet.agents),
                "model": float(model.stdout.read().split()[1]) / took_s,
            }
    finally:
        model.kill()
        model.communicate()
        for agent in fleet.agents:
            if not agent.running and not fleet.ended:
                agent.restart()
    requests = np.fromfile(f"{out}.requests", REQUEST)
    samples = np.fromfile(f"{out}.hosts", SAMPLE).reshape(-1, fleet.hosts + fleet.polled_only)
    return Run(requests, samples, weights, checks, used, float(np.percentile(requests["lag"], 99)))


class _Watch:
    """Samples the weights during a run, and triggers the scripted failures."""

    def __init__(self, fleet: Fleet, haproxy: HAProxy, scenario: Scenario, start: float) -> None:
        self.fleet, self.haproxy, self.scenario, self.start = fleet, haproxy, scenario, start
        self.due = sorted(scenario.accidents)
        self.restarts: list[threading.Thread] = []

    def until_end(self, model: subprocess.Popen[str], look_every_s: float) -> tuple[Any, dict[str, int]]:
        """Returns `Run.weights` and `Run.checks`."""
        rows = []
        checks: dict[str, int] = {}
        try:
            while model.poll() is None:
                if self.fleet.ended:
                    raise EndedError
                looked = time.monotonic()
                at = (looked - self.start) * self.fleet.compression
                while self.due and self.due[0][0] <= at:
                    self.happen(*self.due.pop(0)[1:])
                rows.append([at, *weights_of(self.haproxy)])
                if not checks and at > self.scenario.end_s - 2:
                    checks = Counter(row["agent_status"].removeprefix("* ") for row in self.haproxy.stat())
                    checks.pop("", None)
                with suppress(subprocess.TimeoutExpired):
                    model.wait(max(0.0, looked + look_every_s - time.monotonic()))
        finally:
            for restart in self.restarts:
                restart.join()
        return np.array(rows), dict(checks)

    def happen(self, what: str, host: int) -> None:
        agent = self.fleet.agents[host]
        if what == "kill":
            agent.send(signal.SIGKILL)
            agent.wait_exit(5)
        else:
            does = {"restart": agent.restart, "stop and start": agent.stop_and_start}[what]
            self.restarts.append(threading.Thread(target=does))
            self.restarts[-1].start()


def weights_of(haproxy: HAProxy, backend: str = "web") -> list[int]:
    """The weights in force, in the order of the servers."""
    rows = haproxy.command(f"show stat {backend} 4 -1").splitlines()
    column = rows[0].removeprefix("# ").split(",").index("weight")
    return [int(row.split(",")[column]) for row in rows[1:] if row]
