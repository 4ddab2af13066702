"""PURE. What can be configured: every key, with its kind and its default.

One table lists them all; it drives parsing and printing (`toml`) and the configuration file that is shipped. Nothing
is read here.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from agent._scan import PRESETS
from agent.config import values
from agent.config.values import Kind
from agent.weight.policy import Rule

MAX_POOLS = 31  # a scan distinguishes 32 selectors, and the default pool uses one


@dataclass(frozen=True, slots=True)
class Workers:
    """Which processes' titles count for a pool."""

    preset: str = "sidekiq"
    comm: tuple[str, ...] = ()
    users: tuple[str | int, ...] = ()
    cgroups: tuple[str, ...] = ()
    pattern: str = ""
    busy_states: tuple[str, ...] = ()
    now: str = "cpu"


@dataclass(frozen=True, slots=True)
class Weight:
    """How a pool's counts become a weight."""

    count: str = "processes"
    capacity: str | float = "cores"
    others: tuple[str, ...] = ()
    floor: int = 0
    rise: float | None = None
    unknown: int | None = None

    def rule(self, cores: int, quota: float | None = None) -> Rule:
        """The policy's rule on a machine with this many physical cores, of which the workers' cgroups may use
        ``quota`` (None: all)."""
        limited = float(cores) if quota is None else min(quota, float(cores))
        capacity = {"cores": float(cores), "quota": limited, "slots": None}.get(str(self.capacity), self.capacity)
        assert not isinstance(capacity, str)  # noqa: S101 - for the type checker; parsing ensures it
        return Rule(self.count, capacity, self.floor, self.rise, self.unknown)


@dataclass(frozen=True, slots=True)
class Pool:
    """One set of workers, and how their counts become a weight. The default pool has no name."""

    name: str
    workers: Workers
    weight: Weight


@dataclass(frozen=True, slots=True)
class Scan:
    """When and how to scan. Durations in seconds, ``max_duty`` in percent of one core."""

    procfs: str = "/proc"
    pid_namespace: str = "host"
    discovery: str = "auto"
    fresh_for: float = 0.125
    min_gap: float = 0.1
    max_duty: float = 5.0
    wait_at_most: float = 0.05
    give_up_after: float = 30.0


@dataclass(frozen=True, slots=True)
class Reply:
    """The format of replies, and the last reply."""

    health: str = "up"
    on_stop: str = "release"
    release_for: float = 5.0


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits on pollers. ``max_connections`` counts connections whose agent-send line is still missing."""

    max_connections: int = 256
    deadline: float = 1.0
    backlog: int = 4096


@dataclass(frozen=True, slots=True)
class Control:
    """Who may control the agent, besides root and the agent's own user."""

    group: str = ""


@dataclass(frozen=True, slots=True)
class Log:
    """How the agent logs."""

    level: str = "info"
    format: str = "text"


@dataclass(frozen=True, slots=True)
class Metrics:
    """Where Prometheus may read; None: nowhere."""

    listen: tuple[str, int] | None = None


@dataclass(frozen=True, slots=True)
class Config:
    """The whole configuration."""

    listen: tuple[tuple[str, int], ...] = (("127.0.0.1", 5001),)
    allow: tuple[str, ...] = ()
    workers: Workers = Workers()
    scan: Scan = Scan()
    weight: Weight = Weight()
    reply: Reply = Reply()
    limits: Limits = Limits()
    control: Control = Control()
    log: Log = Log()
    metrics: Metrics = Metrics()
    pools: tuple[Pool, ...] = ()

    @property
    def all_pools(self) -> tuple[Pool, ...]:
        """The default pool, which has no name, and then the named ones."""
        return (Pool("", self.workers, self.weight), *self.pools)

    @property
    def lowest_weight(self) -> int:
        """The lowest weight, in percent, that any pool sends without an override: its floor, or its weight for an
        unknown state."""
        weights = [pool.weight for pool in self.all_pools]
        return min(min(weight.floor, 100 if weight.unknown is None else weight.unknown) for weight in weights)

    def rules(self, cores: int, quota: Callable[[tuple[str, ...]], float | None]) -> list[tuple[str, Rule]]:
        """Each pool's name and its policy's rule, on a machine with this many physical cores. ``quota``
        returns how many of them cgroups may use."""
        rules = []
        for pool in self.all_pools:
            limit = quota(pool.workers.cgroups) if pool.weight.capacity == "quota" else None
            rules.append((pool.name, pool.weight.rule(cores, limit)))
        return rules


_texts = values.list_of(values.text)

# Every key, in the order in which keys are shown.
KINDS: dict[str, dict[str, Kind[Any]]] = {
    "": {
        "listen": values.list_of(values.address),
        "allow": values.list_of(values.network),
    },
    "workers": {
        "preset": values.one_of(*PRESETS),
        "comm": _texts,
        "users": values.list_of(values.user),
        "cgroups": _texts,
        "now": values.one_of("cpu", "titles"),
    },
    "workers.custom": {"pattern": values.text, "busy_states": _texts},
    "scan": {
        "procfs": values.text,
        "pid_namespace": values.one_of("host", "any"),
        "discovery": values.one_of("auto", "sweep", "cgroup", "ebpf"),
        "fresh_for": values.duration,
        "min_gap": values.duration,
        "max_duty": values.share,
        "wait_at_most": values.duration,
        "give_up_after": values.duration,
    },
    "weight": {
        "count": values.one_of("processes", "threads", "cpu"),
        "capacity": values.capacity,
        "others": _texts,
        "floor": values.weight,
        "rise": values.rise,
        "unknown": values.unknown,
    },
    "reply": {
        "health": values.one_of("up", "none"),
        "on_stop": values.one_of("release", "keep"),
        "release_for": values.duration,
    },
    "limits": {
        "max_connections": values.integer(1, 65_536),
        "deadline": values.duration,
        "backlog": values.integer(1, 65_535),
    },
    "control": {"group": values.text},
    "log": {
        "level": values.one_of("debug", "info", "warning", "error"),
        "format": values.one_of("text", "json"),
    },
    "metrics": {"listen": values.optional_address},
}
