"""What an hour of polls costs a host: `python -m benches.scan.polled [--seconds N]`.

Real agents, one for each way of finding processes, each polled by its own real HAProxy, on hosts of 1,000 and
10,000 processes with a hundred workers. Writes benches/results/polled.json. It must leave nothing running.
"""

import argparse
import json
import signal
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from tests.farm import FarmError
from tests.real.parts import Agent, HAProxy

from benches.harness import CompileError, machine, write_result
from benches.scan.host import WORKERS, new_host

SIZES = (1_000, 10_000)
WAYS = ("ebpf", "cgroup", "sweep")
# agent-inter, in milliseconds. The last is not one balancer's: it stands for so many that a scan is always due.
INTERS = (2_000, 500, 250, 50)
SECONDS = 60.0
SETTLE_S = 125.0  # after two minutes no candidate is young any more and re-checked every second
HOUR_S = 3600

Results = dict[str, Any]


def cpu_s(pid: int) -> float:
    """CPU seconds of a process so far, all its threads, by its own clock (clock_gettime(3), CPUCLOCK_SCHED)."""
    return time.clock_gettime((~pid << 3) | 2)


class Asked:
    """One agent and the HAProxy that polls it."""

    def __init__(self, stack: ExitStack, home: Path, way: str, inter_ms: int, cgroup: str) -> None:
        self.way, self.inter_ms = way, inter_ms
        workers = f'[workers]\ncgroups = ["{cgroup}"]\n' if way == "cgroup" else ""
        config = f'{workers}[scan]\ndiscovery = "{way}"\n[reply]\non_stop = "keep"\n'
        self.agent = stack.enter_context(Agent(home, config, name=f"{way}{inter_ms}"))
        check = f"agent-check agent-addr 127.0.0.1 agent-port {self.agent.port} agent-inter {inter_ms}ms"
        text = (
            f"defaults\n timeout connect 1s\n timeout server 5s\nbackend b\n server s 127.0.0.1:9 weight 100 {check}\n"
        )
        self.haproxy = stack.enter_context(HAProxy(home, text, name=f"haproxy-{way}{inter_ms}"))

    def look(self) -> tuple[float, float, float, int]:
        """When it was, CPU seconds of the agent and of HAProxy, and scans, so far."""
        scans = self.status()["scanner"]["scans"]
        return time.monotonic(), cpu_s(self.agent.pid), cpu_s(self.haproxy.pid), scans

    def status(self) -> Results:
        status: Results = json.loads(self.agent.order("status", "--json"))
        return status


def measure(home: Path, seconds: float) -> Results:
    """All ways and all agent-inters on each host, in parallel."""
    found: Results = {}
    with new_host(max(SIZES) + 1_000) as host:
        cgroup = f"/{host.cgroup.name}" if host.cgroup else ""
        for size in SIZES:
            host.resize(size)
            with ExitStack() as stack:
                asked = [
                    Asked(stack, home / str(size), way, inter_ms, cgroup)
                    for way in WAYS
                    for inter_ms in INTERS
                    if way != "cgroup" or cgroup
                ]
                time.sleep(SETTLE_S)
                before = [one.look() for one in asked]
                time.sleep(seconds)
                after = [one.look() for one in asked]
                for one, then, now in zip(asked, before, after, strict=True):
                    took, agent, haproxy, scans = (b - a for a, b in zip(then, now, strict=True))
                    row = {
                        "discovery": one.status()["sample"]["discovery"],
                        "agent_cpu_s_an_hour": agent / took * HOUR_S,
                        "haproxy_cpu_s_an_hour": haproxy / took * HOUR_S,
                        "scans_a_second": scans / took,
                    }
                    found.setdefault(str(size), {}).setdefault(one.way, {})[str(one.inter_ms)] = row
                    print(size, one.way, one.inter_ms, row, flush=True)
    return found


def main() -> int:
    """0 if it was measured."""
    parser = argparse.ArgumentParser(prog="python -m benches.scan.polled", description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=SECONDS, help="how long each host is polled")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    with tempfile.TemporaryDirectory(prefix="polled-") as directory:
        try:
            about = machine()
            hosts = measure(Path(directory), options.seconds)
        except (CompileError, FarmError, pytest.fail.Exception, pytest.skip.Exception) as reason:
            print(f"benches.scan.polled: {reason}", file=sys.stderr)
            return 1
    path = write_result("polled", {"machine": about, "workers": WORKERS, "seconds": options.seconds, "hosts": hosts})
    print(f"written: {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
