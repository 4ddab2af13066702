"""Seven hosts on one machine, each a cgroup with a CPU quota, and the real parts on them and in front of them.

A host's core is a fraction of one of this machine's. The cgroup's quota is all cores of its host, and the kernel shares
it among the processes in it, one for each request in service and one for each job; each uses at most one core
(pace.rb). It must end everything that it started, and leave no cgroup behind.
"""

import json
import os
import secrets
import signal
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import ClassVar

from tests import cgroups
from tests.real.parts import Agent, HAProxy, Part, Redis, Sidekiq, until

from agent.tools.haproxy.snippet import snippet
from benches.fleet.parts import AGENT_PORT, PROXY_PORT, WEB_PORT, Arrangement, address, hurry

HERE = Path(__file__).parent
NETWORK = 90
WEB_HOSTS, JOB_HOSTS = range(3), range(3, 7)
HOSTS = 7
CORES = 4
CORE = 0.05  # of a core of this machine; seven hosts take 1.4 of them, and the rest is for what is in front of them
PERIOD_US = 20_000
WEB_WORKERS = 3 * CORES  # requests that a host serves at the same time; more wait in its backlog
REST_S, RESTING = 0.5, 0.15  # before a run, all together must use less than this share of a core


class CannotError(Exception):
    """The bench cannot run on this machine; the text says why."""


# -- cgroups ------------------------------------------------------------------------------------------------


class Group:
    """A cgroup of either version whose share of the machine's cores may be limited."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.mkdir(exist_ok=True)

    def limit(self, cores: float | None) -> None:
        """None: no limit."""
        quota_us = None if cores is None else round(cores * PERIOD_US)
        if (self.path / "cpu.max").exists():
            (self.path / "cpu.max").write_text(f"{quota_us or 'max'} {PERIOD_US}")
        else:
            (self.path / "cpu.cfs_period_us").write_text(str(PERIOD_US))
            (self.path / "cpu.cfs_quota_us").write_text(str(quota_us or -1))

    def go_first(self) -> None:
        """Gives it priority over everything else on the machine."""
        weight, most = ("cpu.weight", 10_000) if (self.path / "cpu.weight").exists() else ("cpu.shares", 262_144)
        (self.path / weight).write_text(str(most))

    def take(self, pid: int) -> None:
        """Moves a process here, with all its threads."""
        (self.path / "cgroup.procs").write_text(str(pid))

    def pids(self) -> list[int]:
        return [int(pid) for pid in (self.path / "cgroup.procs").read_text().split()]


class HostGroups:
    """One host's cgroups: `cpu` limits its CPU time; `names`, possibly the same one, is where the agent finds its
    workers, in the hierarchy that lists processes."""

    def __init__(self, cpu: Path, names: Path, host: int) -> None:
        self.cpu = Group(cpu / f"h{host + 1}")
        self.names = Group(names / f"h{host + 1}") if names != cpu else self.cpu
        self.cgroup = "/" + str(self.names.path.relative_to(cgroups.mount(_named())))

    def take(self, pid: int) -> None:
        """Moves a process to this host, with those that it starts from now on."""
        self.cpu.take(pid)
        if self.names is not self.cpu:
            self.names.take(pid)

    def limit(self, on: bool) -> None:
        """Sets or lifts the quota."""
        self.cpu.limit(CORES * CORE if on else None)


def _named() -> str:
    """The hierarchy that lists processes: v2 if it is mounted."""
    mounts = Path("/proc/self/mountinfo").read_text()
    return cgroups.V2 if " - cgroup2 " in mounts else cgroups.V1


def _delegate(group: Path) -> None:
    """In v2, allows limits for the cgroups below."""
    if (group / "cgroup.subtree_control").exists():
        (group / "cgroup.subtree_control").write_text("+cpu")


def _cpu_mount() -> Path:
    old = Path("/sys/fs/cgroup/cpu")
    return old if (old / "cgroup.procs").exists() else cgroups.mount()


@contextmanager
def host_groups() -> Iterator[list[HostGroups]]:
    """New cgroups for all hosts, removed at the end; processes still in them are killed then, by pid."""
    tops: list[Path] = []
    try:
        try:
            top, named = _cpu_mount(), cgroups.mount(_named())
            _delegate(top)
            tops = [
                Path(tempfile.mkdtemp(prefix="busyweight-real-", dir=place)) for place in dict.fromkeys((top, named))
            ]
            Group(tops[0]).go_first()
            _delegate(tops[0])
            groups = [HostGroups(tops[0], tops[-1], host) for host in range(HOSTS)]
            for group in groups:
                group.limit(True)
                group.limit(False)
        except OSError as reason:
            raise CannotError(f"cannot create cgroups with a CPU quota here (is this root?): {reason}") from reason
        yield groups
    finally:
        for place in tops:
            _remove(place)


def _remove(top: Path) -> None:
    """Removes the cgroup and all below it, after emptying them."""
    below = sorted((place for place in (top, *top.rglob("*")) if place.is_dir()), reverse=True)

    def gone() -> bool:
        for place in below:
            with suppress(FileNotFoundError):
                for pid in Group(place).pids() if place.exists() else ():
                    with suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
                place.rmdir()
        return True

    def removed() -> bool:
        with suppress(OSError):
            return gone()
        return False

    until(removed, f"{top} removed", 30)


# -- what runs on a host ------------------------------------------------------------------------------------


class OfHost(Part):
    """A part that runs in its host's cgroup, on one of this machine's processors: on two, the kernel hands out the
    quota in slices that are large compared with it, and equal tasks get unequal shares."""

    groups: HostGroups
    host: int

    def start(self) -> None:
        super().start()
        self.groups.take(self.pid)

    def placed(self, *argv: str) -> list[str]:
        """Pinned to its processor from the start."""
        processors = sorted(os.sched_getaffinity(0))
        return ["taskset", "--cpu-list", str(processors[self.host % len(processors)]), *super().placed(*argv)]


class Web(OfHost):
    """Puma, with a process for each request that the host serves at the same time."""

    READY_DEADLINE_S = 90.0

    def __init__(self, home: Path, host: int, groups: HostGroups) -> None:
        super().__init__(f"web{host + 1}", home)
        self.program = self.need("puma", "puma")
        self.address, self.groups, self.host = address(host, NETWORK), groups, host

    def argv(self) -> list[str]:
        return [self.program, "-C", str(HERE / "puma.rb"), str(HERE / "web.ru")]

    def environment(self) -> dict[str, str]:
        return {
            "PATH": os.environ["PATH"],
            "LANG": "C.UTF-8",
            "CORE": str(CORE),
            "BIND": f"tcp://{self.address}:{WEB_PORT}",
            "WORKERS": str(WEB_WORKERS),
        }

    def ready(self) -> bool:
        return self.log_text().count(") booted in ") >= WEB_WORKERS

    def cpu_s(self) -> float:
        """CPU seconds that all its processes have used."""
        children = Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()
        return sum(map(taken_s, [self.pid, *map(int, children)]))


class Worker(OfHost, Sidekiq):
    """A Sidekiq with one thread, for its host's queue. Its jobs keep a journal."""

    READY_DEADLINE_S = 90.0

    def __init__(self, redis: Redis, host: int, number: int, groups: HostGroups) -> None:
        super().__init__(f"h{host + 1}w{number}", redis)
        self.queue, self.groups, self.host = f"h{host + 1}", groups, host
        self.journal, self.progress = self.home / "journal", self.home / "progress"
        self.journal.touch()
        self.progress.write_text("0")

    def argv(self) -> list[str]:
        return [self.program, "-r", str(HERE / "jobs.rb"), "-q", self.queue, "-C", str(self.config_file), *self.tag]

    def environment(self) -> dict[str, str]:
        return super().environment() | {
            "JOURNAL": str(self.journal),
            "PROGRESS": str(self.progress),
            "CORE": str(CORE),
        }

    def done(self) -> float:
        """The seconds of a core that its jobs have used so far."""
        return float(self.progress.read_text())

    def busy_times(self) -> list[tuple[float, float]]:
        """When each of its jobs began and ended; the end is infinite while one runs."""
        lines = [line.split() for line in self.journal.read_text().splitlines()]
        times = {word: [float(at) for what, at in lines if what == word] for word in ("began", "ended")}
        return list(zip(times["began"], [*times["ended"], float("inf")], strict=False))

    def idle(self) -> bool:
        """Whether it has no job, according to its journal."""
        times = self.busy_times()
        return not times or times[-1][1] < float("inf")


class HostAgent(Agent):
    """`busyweight serve` of one host, which sees only the workers in the host's cgroup."""

    READY_DEADLINE_S = 60.0
    STOP: ClassVar = ((signal.SIGUSR1, 5.0), (signal.SIGKILL, 5.0))  # nothing polls its last reply

    def __init__(self, home: Path, host: int, groups: HostGroups) -> None:
        self.address, self.cgroup = address(host, NETWORK), groups.cgroup
        super().__init__(home, name=f"agent{host + 1}", port=AGENT_PORT)

    def write_config(self, config: str) -> None:
        lines = [
            f'listen = ["{self.address}:{self.port}"]',
            "[workers]",
            f"cgroups = [{json.dumps(self.cgroup)}]",
            "[weight]",
            f"capacity = {CORES}",
        ]
        self.config_file.write_text("\n".join(lines) + "\n" + config)

    def ready(self) -> bool:
        return "listening on" in self.log_text()


def taken_s(pid: int) -> float:
    """CPU seconds that a process has used, to the nanosecond; 0 if it has exited."""
    try:
        return time.clock_gettime((~pid << 3) | 2)
    except OSError:
        return 0.0


# -- the fleet ----------------------------------------------------------------------------------------------


class RealFleet:
    """Everything that runs on the hosts; each run has its own balancer."""

    def __init__(self, home: Path, groups: list[HostGroups]) -> None:
        self.home, self.groups = home, groups
        self.redis = Redis(home)
        self.webs = [Web(home, host, groups[host]) for host in range(HOSTS)]
        self.workers = {host: [Worker(self.redis, host, i, groups[host]) for i in range(CORES)] for host in JOB_HOSTS}
        self.agents = [HostAgent(home, host, groups[host]) for host in range(HOSTS)]
        self.stop_file = home / "stop"

    @property
    def proxy(self) -> str:
        """The balancer's address."""
        return f"127.{NETWORK}.0.1"

    def start(self, stack: ExitStack) -> None:
        """Starts everything in parallel; the stack ends it."""
        stack.enter_context(self.redis)
        parts = [*self.webs, *(worker for workers in self.workers.values() for worker in workers), *self.agents]
        for part in parts:
            stack.callback(part.stop)
            part.start()
        for part in parts:
            part.wait_ready()
        for part in (self.redis, *self.agents):
            hurry(part.pid)

    @contextmanager
    def limited(self) -> Iterator[None]:
        """Inside, the quotas apply; before and after, hosts have the whole machine, so that leftover work ends soon."""
        self.clear()
        self._come_to_rest()
        self.stop_file.unlink()
        try:
            for group in self.groups:
                group.limit(True)
            yield
        finally:
            for group in self.groups:
                group.limit(False)
            self.clear()

    def _come_to_rest(self) -> None:
        deadline = time.monotonic() + 60
        before = self._taken_s()
        while time.monotonic() < deadline:
            time.sleep(REST_S)
            now = self._taken_s()
            if now - before < RESTING * REST_S:
                return
            before = now
        raise CannotError("the hosts do not become idle")

    def _taken_s(self) -> float:
        jobs = sum(taken_s(worker.pid) for workers in self.workers.values() for worker in workers)
        return jobs + sum(web.cpu_s() for web in self.webs)

    def give(self, host: int, core_seconds: list[float]) -> None:
        """Enqueues jobs for a host's workers."""
        now_s = time.time()
        jobs = [
            json.dumps(
                {
                    "class": "Burning",
                    "args": [each, str(self.stop_file)],
                    "queue": f"h{host + 1}",
                    "jid": secrets.token_hex(12),
                    "retry": False,
                    "created_at": now_s,
                    "enqueued_at": now_s,
                }
            )
            for each in core_seconds
        ]
        self.redis.command("LPUSH", f"queue:h{host + 1}", *jobs)

    def clear(self) -> None:
        """Ends all jobs and empties the queues."""
        for host in self.workers:
            self.redis.command("DEL", f"queue:h{host + 1}")
        self.stop_file.touch()
        for workers in self.workers.values():
            for worker in workers:
                worker.until(worker.idle, "idle", 60)

    def haproxy(self, arrangement: Arrangement) -> HAProxy:
        """The balancer for an arrangement."""
        return HAProxy(self.home, balancer(arrangement, self.proxy), global_lines="nbthread 1\n")


def balancer(arrangement: Arrangement, proxy: str) -> str:
    """haproxy.cfg without its global section; with agents it is the output of `busyweight haproxy snippet`."""
    servers = [(f"h{i + 1}", address(i, NETWORK), WEB_PORT) for i in range(HOSTS)]
    bind = f"bind {proxy}:{PROXY_PORT}"
    # As in the model: a request leaves HAProxy's queue when its client is gone.
    defaults = "defaults\n    option abortonclose\n\n"
    if arrangement.agent:
        inter = f"{1000 * arrangement.inter_s:.0f}ms"
        text = snippet(AGENT_PORT, servers, maxconns={"web": arrangement.maxconn}, agent_inter=inter)
        if text.count("bind :80") != 1 or arrangement.balance != "roundrobin":
            raise ValueError("the snippet has changed")
        return defaults + text.replace("bind :80", bind)
    times = ["timeout connect 5s", "timeout server 30s", f"balance {arrangement.balance}"]
    lines = ["frontend www", bind, "mode http", "timeout client 30s", "default_backend web", "backend web", "mode http"]
    lines += [*times, "default-server check weight 100"]
    count = len(WEB_HOSTS) if arrangement.web_only else HOSTS
    lines += [f"server {name} {host}:{port}" for name, host, port in servers[:count]]
    return defaults + "".join(f"{line}\n" for line in lines)
