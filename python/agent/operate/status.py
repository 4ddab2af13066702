"""The running agent's status: plain values for the control socket and for metrics.

:class:`Status` is the documented JSON (docs/control.md), field by field. Points in time (``since``, ``until``,
``at``, ``taken``) are seconds since 1970; everything else is an age or a duration, in seconds (``_s``) or
milliseconds (``_ms``), so that setting the wall clock does not matter. This file only describes; except for
:func:`workers`, which asks a scanner, it reads no part of the agent.

The dataclasses here have neither comparison nor ``repr``: nobody calls them, and they cost memory in every agent.
"""

from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from typing import Any

from agent._scan import Counts, Scanner

# The weights of the last ten minutes, at most one a second.
HISTORY_S = 600.0
HISTORY_STEP_S = 1.0

# A scan's counts for one pool, in the order of the status; see _scan.pyi.
COUNTS = (
    "workers",
    "readable",
    "busy_processes",
    "busy_threads",
    "total_threads",
    "untitled",
    "cores_milli",
    "others_milli",
    "stopping",
    "copies",
    "unparsable",
    "quarantined",
    "unread",
    "oldest_ms",
)


def counts(of: Counts) -> dict[str, int]:
    """Counts as plain values."""
    return {name: getattr(of, name) for name in COUNTS}


@dataclass(frozen=True, eq=False, repr=False)
class AgentStatus:
    """``state``: starting, serving or stopping."""

    version: str
    pid: int
    uptime_s: float
    state: str


@dataclass(frozen=True, eq=False, repr=False)
class PoolStatus:
    """One pool's reply, and what it is based on. ``capacity`` is None for the sum of all threads, ``counts`` is None
    without a sample. ``hidden``: workers that do not count because ``workers.comm`` does not match their names;
    checked rarely."""

    pool: str
    reply: str
    weight: int | None
    reason: str
    known: bool
    said_for_s: float
    count: str
    capacity: float | None
    counts: dict[str, int] | None
    hidden: int


@dataclass(frozen=True, eq=False, repr=False)
class SampleStatus:
    """The newest sample, until it expires."""

    age_s: float
    visible: bool
    whole: bool
    discovery: str
    processes: int
    rechecked: int
    vanished: int
    unreadable: int
    cpu_untold: int
    took_ms: float
    cost_ms: float


@dataclass(frozen=True, eq=False, repr=False)
class ScannerStatus:
    """``age_s`` is that of the newest sample, expired or not; ``for_s`` how long the current scan has been running;
    ``ended`` has sums over all finished scans; ``hung_readers`` counts hung readers."""

    scans: int
    scanning: bool
    for_s: float
    age_s: float | None
    ended: dict[str, float]
    failure: str | None
    refused: list[str]
    fallback: str | None
    hung_readers: int


@dataclass(frozen=True, eq=False, repr=False)
class StateFileStatus:
    """``write_error``: why the newest override is not on disk. ``load_warning``: what was wrong with the file found
    at the start."""

    path: str
    write_error: str | None
    load_warning: str | None


@dataclass(frozen=True, eq=False, repr=False)
class OverrideStatus:
    """What operators commanded: ``override`` is the active one, or None."""

    override: dict[str, Any] | None
    ready_owed: bool
    ready_left_s: float | None
    ready_in_doubt: bool
    state_file: StateFileStatus


@dataclass(frozen=True, eq=False, repr=False)
class ReloadOutcome:
    """How the last reload went."""

    at: float
    ok: bool
    faults: list[str]


@dataclass(frozen=True, eq=False, repr=False)
class ReloadTotals:
    """Reloads since the start, and when the current configuration was loaded."""

    ok: int
    failed: int
    taken: float


@dataclass(frozen=True, eq=False, repr=False)
class ConfigStatus:
    """The configuration file and its reloads."""

    file: str
    reload: ReloadOutcome | None
    reloads: ReloadTotals
    health: str


@dataclass(frozen=True, eq=False, repr=False)
class MetricsStatus:
    """Where metrics are served, if they are; ``trouble``: why they are not served as configured."""

    listening: str | None
    trouble: str | None


@dataclass(frozen=True, eq=False, repr=False)
class ControlStatus:
    """The control socket, and the group that may use it."""

    path: str
    group: str


@dataclass(frozen=True, eq=False, repr=False)
class RepliesStatus:
    """Replies sent for one pool with one outcome: measured, unknown or ordered."""

    pool: str
    outcome: str
    replies: int


@dataclass(frozen=True, eq=False, repr=False)
class PollerStatus:
    """One address that polled recently."""

    address: str
    polls: int
    last_s: float
    allowed: bool


@dataclass(frozen=True, eq=False, repr=False)
class PollsStatus:
    """What happened on the listening sockets since the start."""

    listening: list[str]
    answered: int
    refused: int
    disconnected: int
    timed_out: int
    evicted: int
    no_fds: int
    replies: list[RepliesStatus]
    pollers: list[PollerStatus]


@dataclass(frozen=True, eq=False, repr=False)
class Status:
    """The answer to ``status``. The default pool's reply is None before the first scan."""

    agent: AgentStatus
    now: float
    reply: str | None
    weight: int | None
    reason: str | None
    known: bool | None
    pools: list[PoolStatus]
    sample: SampleStatus | None
    scanner: ScannerStatus
    override: dict[str, Any] | None
    ready_owed: bool
    ready_left_s: float | None
    ready_in_doubt: bool
    state_file: StateFileStatus
    config: ConfigStatus
    control: ControlStatus
    metrics: MetricsStatus
    polls: PollsStatus
    history: list[tuple[float, int | None]]

    def as_values(self) -> dict[str, Any]:
        """All of it as JSON has it."""
        return asdict(self)


class History:
    """Since when each pool has had its current reply, and the default pool's recent weights."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._since: dict[str, tuple[bytes, float]] = {}
        self._weights: deque[tuple[float, int | None]] = deque(maxlen=round(HISTORY_S / HISTORY_STEP_S))

    def note(self, weight: int | None, lines: Iterable[tuple[str, bytes]]) -> None:
        """From now on the default pool has this weight, and the pools have these replies."""
        now_s = self._clock()
        for pool, line in lines:
            if self._since.get(pool, (b"", 0.0))[0] != line:
                self._since[pool] = (line, now_s)
        if not self._weights or now_s - self._weights[-1][0] >= HISTORY_STEP_S:
            if not self._weights or self._weights[-1][1] != weight:
                self._weights.append((now_s, weight))
        else:
            self._weights[-1] = (self._weights[-1][0], weight)

    def said_for(self, pool: str) -> float:
        """How long a pool has had its current reply, in seconds."""
        now_s = self._clock()
        return max(0.0, now_s - self._since.get(pool, (b"", now_s))[1])

    def weights(self) -> list[tuple[float, int | None]]:
        """(seconds ago, weight in percent or None) for each change, oldest first. Each lasts until the next; the
        first may be older than ten minutes."""
        ages = [(round(self._clock() - at_s, 1), weight) for at_s, weight in self._weights]
        old = sum(age_s > HISTORY_S for age_s, _ in ages)
        return ages[max(0, old - 1) :]


def workers(scanner: Scanner, pools: list[str], most: int) -> dict[str, Any]:
    """The answer to ``workers``: the busiest first, at most ``most``. May take a moment."""
    found = [
        {
            "pid": worker.pid,
            "readings": {
                pool: list(reading) if isinstance(reading, tuple) else reading
                for pool, reading in zip(pools, worker.readings, strict=True)
                if reading is not None
            },
            "copy": worker.copy,
            "quarantined": worker.quarantined,
            "age_ms": worker.age_ms,
            "works_for_ms": worker.works_for_ms,
            "cores_milli": worker.cores_milli,
        }
        for worker in scanner.workers()
    ]
    found.sort(key=_busy, reverse=True)
    return {"count": len(found), "workers": found[:most]}


def _busy(worker: dict[str, Any]) -> int:
    return max((reading[0] for reading in worker["readings"].values() if isinstance(reading, list)), default=-1)
