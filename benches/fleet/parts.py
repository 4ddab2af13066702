"""The fleet on one machine: hosts with process trees, their real agents, and the real HAProxy in front.

Every host has its own loopback address. Time may be compressed: every duration here is in model seconds, and is
divided by the compression when a configuration is written. It must end everything that it started.
"""

import json
import os
import signal
import subprocess
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from tests.matrix.trees import Haproxy
from tests.real.parts import Agent, HAProxy
from tests.tree import Tree

from agent.config.schema import Scan
from benches.harness import compile_c

CORES = 24
HEARTBEAT_S = 10.0
AGENT_INTER_S = 0.25
FRESH_FOR_S, MIN_GAP_S = Scan().fresh_for, Scan().min_gap
RELEASE_FOR_S = 5.0
PROXY_PORT, WEB_PORT, AGENT_PORT = 28_000, 28_080, 25_001

# Other settings of the real agent: table, key and value; a rate is per model second, a duration in them.
SETTINGS: dict[str, tuple[tuple[str, str, str | float], ...]] = {
    "real": (),
    "titles": (("workers", "now", "titles"),),
    "cores": (("weight", "count", "cpu"),),
    "floor10": (("weight", "floor", "10%"),),
    "floor25": (("weight", "floor", "25%"),),
    "rise5": (("weight", "rise", 5.0),),
    "stale": (("scan", "fresh_for", 0.5), ("scan", "min_gap", 0.25)),
    "fresh01": (("scan", "fresh_for", 0.1),),
    "fresh2": (("scan", "fresh_for", 2.0),),
}


# Those that end the bench, once they have come. Their handler appends here and raises nothing: an exception that comes
# while subprocess waits may leave its lock taken, and then nobody can wait for that process any more. Nor does it take
# a lock, as an event's `set` would: another signal may come meanwhile.
SIGNALS: list[int] = []

SOURCES = [Path(__file__).with_name(name) for name in ("main.c", "host.c", "wire.c")]


class EndedError(Exception):
    """The bench is being ended, and so are its runs."""


@dataclass(frozen=True)
class Arrangement:
    """How requests are routed to hosts.

    agent: "" for none, one of SETTINGS, or a rule of host.c with which the bench itself answers polls.
    web_only: job hosts get no requests. maxconn: each server's; when all servers in the pool have reached it, new
    requests spill to all hosts, as in the snippet. Without it, all_busy: use the second backend when all hosts are
    full; spill_at: also when there are that many requests per server in the pool. inter_s: HAProxy's agent-inter.
    """

    name: str
    agent: str = ""
    balance: str = "roundrobin"
    web_only: bool = False
    oracle: bool = False
    all_busy: bool = True
    spill_at: int = 0
    maxconn: int = 0
    inter_s: float = AGENT_INTER_S

    @property
    def rule(self) -> str:
        """The what-if rule, or "-" where polls are the real agent's."""
        return "-" if self.agent in ("", *SETTINGS) else self.agent

    @property
    def agent_port(self) -> int:
        """The port of whoever answers polls; what-if agents use ports above the real ones, which stay idle."""
        return AGENT_PORT + (self.rule != "-")


def address(host: int, network: int) -> str:
    """The address of a host, by its number from 0. Fleets that exist at the same time have separate networks."""
    return f"127.{network}.{1 + host // 200}.{1 + host % 200}"


def hurry(pid: int, *, realtime: bool = False) -> None:
    """Raises a process's priority if permitted: a model that is late is worthless."""
    with suppress(PermissionError):
        os.setpriority(os.PRIO_PROCESS, pid, -10)
        if realtime:
            os.sched_setscheduler(pid, os.SCHED_RR, os.sched_param(1))


def cpu_s(pid: int) -> float:
    """CPU seconds that a process has used so far; 0 if it has exited."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


class HostAgent(Agent):
    """`busyweight serve` of one host, which sees only that host's tree."""

    READY_DEADLINE_S = 60.0  # fifty of them may start at the same time

    def __init__(self, home: Path, host: int, network: int, compression: float, cores: int) -> None:
        self.address = address(host, network)
        self.compression = compression
        self.cores = cores
        self.tree = Tree(home / f"procfs{host}")
        self.tree.workers(0, cores)
        self.settings = "real"
        super().__init__(home, name=f"agent{host}", port=AGENT_PORT)

    def write_config(self, config: str) -> None:
        def lasts(seconds: float) -> str:
            return f"{seconds * 1000 / self.compression:.3f}ms"

        tables: dict[str, dict[str, str | float]] = {
            "scan": {
                "fresh_for": lasts(FRESH_FOR_S),
                "min_gap": lasts(MIN_GAP_S),
                "wait_at_most": lasts(0.05),
                "give_up_after": lasts(30),
                "max_duty": f"{min(100, 5 * self.compression):g}%",
            },
            "reply": {"release_for": lasts(RELEASE_FOR_S)},
            "weight": {"capacity": self.cores},
            "workers": {},
        }
        for table, key, value in SETTINGS[self.settings]:
            rate = f"{value * self.compression:g}%/s" if isinstance(value, float) else value
            tables[table][key] = lasts(value) if table == "scan" and isinstance(value, float) else rate
        lines = [f'listen = ["{self.address}:{self.port}"]']
        for name, keys in tables.items():
            lines += [f"[{name}]", *(f"{key} = {json.dumps(value)}" for key, value in keys.items())]
        self.config_file.write_text("\n".join(lines) + "\n" + config)

    def stop(self) -> None:
        """Stops it by a signal, with time for its last reply; by SIGKILL only if that fails."""
        if self.process is not None and self.running:
            self.send(signal.SIGTERM)
            with suppress(subprocess.TimeoutExpired):
                self.process.wait(1 + RELEASE_FOR_S / self.compression)
        super().stop()

    def restart(self) -> None:
        """As `systemctl restart` does: by a signal that ends it without a last reply."""
        if self.running:
            self.send(signal.SIGUSR1)
            self.wait_exit(5)
        self.start()
        self.wait_ready()

    def stop_and_start(self) -> None:
        """As `systemctl stop` and `start` do: with a last reply."""
        super().restart()

    def adopt(self, settings: str) -> None:
        """Switches to one of SETTINGS, as `systemctl reload` does."""
        if settings == self.settings:
            return
        self.settings = settings
        self.write_config("")
        reloads = self.log_text().count("reloaded")
        self.send(signal.SIGHUP)
        self.until(lambda: self.log_text().count("reloaded") > reloads, "reloaded", 10)

    def argv(self) -> list[str]:
        return [*super().argv(), "--procfs", str(self.tree)]

    def ready(self) -> bool:
        return "listening on" in self.log_text()

    def start(self) -> None:
        self.log.unlink(missing_ok=True)
        super().start()
        hurry(self.pid)


@dataclass
class Fleet:
    """Hosts with their agents running; the first `web_hosts` are web hosts, the others job hosts.

    `polled_only` more hosts have neither web port nor agent: the bench answers their polls.
    """

    home: Path
    web_hosts: int
    job_hosts: int
    compression: float
    agents: list[HostAgent]
    network: int
    polled_only: int = 0
    cores: int = CORES  # of each host; it has as many workers, so jobs hold all cores of a full host
    heartbeat_s: float = HEARTBEAT_S
    of: Haproxy | None = None  # None: this machine's
    ending: threading.Event = field(default_factory=threading.Event)  # abandons the current run

    @property
    def proxy(self) -> str:
        """The balancer's address."""
        return f"127.{self.network}.0.1"

    def address(self, host: int) -> str:
        """A host's address, by its number from 0."""
        return address(host, self.network)

    @property
    def hosts(self) -> int:
        return self.web_hosts + self.job_hosts

    @property
    def ended(self) -> bool:
        """Whether there is no sense in going on."""
        return bool(SIGNALS) or self.ending.is_set()

    def haproxy(self, arrangement: Arrangement) -> HAProxy:
        """The balancer for an arrangement; the agents switch to its settings."""
        if arrangement.agent in SETTINGS:
            for agent in self.agents:
                agent.adopt(arrangement.agent)
        return HAProxy(self.home, self.config(arrangement), global_lines="maxconn 9000\nnbthread 1\n", of=self.of)

    def config(self, arrangement: Arrangement) -> str:
        """haproxy.cfg without its global section; the name of host 0 is h1."""
        inter = f"{arrangement.inter_s * 1000 / self.compression:.0f}ms"
        check = f"agent-check agent-port {arrangement.agent_port} agent-inter {inter}"
        count = self.web_hosts if arrangement.web_only else self.hosts
        lines = [
            "defaults",
            *("mode http", "timeout connect 5s", "timeout client 60s", "timeout server 60s", "http-reuse always"),
            "option abortonclose",
            "frontend www",
            f"bind {self.proxy}:{PROXY_PORT} backlog 16384",
        ]
        second = arrangement.agent and (arrangement.all_busy or arrangement.maxconn)
        if arrangement.maxconn:
            # random may choose a host at its maxconn while others have free slots.
            queued = " or { queue(web) gt 0 }" if arrangement.balance == "random" else ""
            lines.append(f"use_backend web_all_busy if {{ be_conn_free(web) eq 0 }}{queued}")
        elif second:
            lines.append("use_backend web_all_busy if { nbsrv(web) eq 0 }")
        if arrangement.spill_at:
            lines += [
                "http-request set-var(txn.servers) nbsrv(web)",
                f"use_backend web_all_busy if {{ be_conn(web),div(txn.servers) ge {arrangement.spill_at} }}",
            ]
        lines += ["default_backend web", "backend web", f"balance {arrangement.balance}"]
        lines.append(f"timeout check {2000 / self.compression:.0f}ms")
        if arrangement.oracle:
            lines.append("use-server %[req.hdr(x-host)] if { req.hdr(x-host) -m found }")
        limit = f"maxconn {arrangement.maxconn}" if arrangement.maxconn else ""
        lines.append(f"default-server weight 100 {limit} {check if arrangement.agent else ''}")
        lines += [f"server h{i + 1} {self.address(i)}:{WEB_PORT} agent-addr {self.address(i)}" for i in range(count)]
        if second:
            spread = "leastconn" if arrangement.maxconn else arrangement.balance
            lines += ["backend web_all_busy", f"balance {spread}"]
            lines += [f"server h{i + 1} {self.address(i)}:{WEB_PORT} track web/h{i + 1}" for i in range(count)]
        if self.polled_only:
            lines += ["backend polled_only", f"default-server weight 100 {check}"]
            more = range(self.hosts, self.hosts + self.polled_only)
            lines += [f"server h{i + 1} {self.address(i)}:{WEB_PORT} agent-addr {self.address(i)}" for i in more]
        return "".join(f"{line}\n" for line in lines)


def program() -> Path:
    """The model's program, compiled if necessary."""
    return compile_c("fleet", SOURCES, headers=[SOURCES[0].with_name("fleet.h")], libraries=["m"])


@contextmanager
def fleet(
    home: Path,
    web_hosts: int,
    job_hosts: int,
    compression: float,
    *,
    network: int = 77,
    polled_only: int = 0,
    cores: int = CORES,
    heartbeat_s: float = HEARTBEAT_S,
    of: Haproxy | None = None,
) -> Iterator[Fleet]:
    """A fleet with all its agents running; they end with the context."""
    with ExitStack() as stack:
        agents = []
        for host in range(web_hosts + job_hosts):
            if SIGNALS:
                raise EndedError
            agent = HostAgent(home, host, network, compression, cores)
            agents.append(agent)
            stack.callback(agent.stop)
            agent.start()
            if host % 8 == 7:  # so that not a hundred interpreters start at the same time
                agent.wait_ready()
        for agent in agents:
            agent.wait_ready()
        try:
            yield Fleet(home, web_hosts, job_hosts, compression, agents, network, polled_only, cores, heartbeat_s, of)
        finally:
            for agent in agents:
                if agent.running:
                    agent.send(signal.SIGUSR1)  # a hundred last replies would only take time
