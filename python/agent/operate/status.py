"""What the running agent tells of itself: plain values for the control socket.

It reads the parts and changes nothing. Points in time that people ordered (``since``,
``until``, ``at``) are seconds since 1970; all else is an age, in seconds, so that it holds
however the wall clock is set.
"""

import os
import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from agent import _scan
from agent._scan import Counts, Scanner, Snapshot
from agent.config import values

if TYPE_CHECKING:
    from agent.serve.daemon import Daemon

# The weights of the last ten minutes, at most one a second.
HISTORY_S = 600.0
HISTORY_STEP_S = 1.0

COUNTS = tuple(name for name in Counts.__dict__ if not name.startswith("_"))


def counts(of: Counts) -> dict[str, int]:
    """Counts as plain values."""
    return {name: getattr(of, name) for name in COUNTS}


class History:
    """Since when each pool says what it says, and the default pool's weights of late."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._since: dict[str, tuple[bytes, float]] = {}
        self._weights: deque[tuple[float, int | None]] = deque(maxlen=round(HISTORY_S / HISTORY_STEP_S))

    def note(self, weight: int | None, lines: Iterable[tuple[str, bytes]]) -> None:
        """From now on the default pool has this weight, and the pools say these lines."""
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
        """For how long a pool has said what it says, in seconds."""
        now_s = self._clock()
        return max(0.0, now_s - self._since.get(pool, (b"", now_s))[1])

    def weights(self) -> list[tuple[float, int | None]]:
        """(seconds ago, weight in percent or None) for each change, the oldest first. Each is
        so until the next; the first may be older than the ten minutes."""
        ages = [(round(self._clock() - at_s, 1), weight) for at_s, weight in self._weights]
        old = sum(age_s > HISTORY_S for age_s, _ in ages)
        return ages[max(0, old - 1) :]


def report(daemon: "Daemon") -> dict[str, Any]:
    """The answer to ``status``."""
    said = daemon.said[0] if daemon.said else None
    return {
        "agent": {
            "version": _scan.__version__,
            "pid": os.getpid(),
            "uptime_s": round(daemon.clock() - daemon.began_s, 1),
            "state": daemon.state,
        },
        "now": time.time(),
        "reply": said and said.line.decode(),
        "weight": said and said.verdict.weight,
        "reason": said and said.verdict.reason,
        "known": said and said.verdict.known,
        "pools": _pools(daemon),
        "sample": _sample(daemon),
        "scanner": _scanner(daemon),
        **daemon.orders.report(),
        "config": {
            "file": daemon.file,
            "reload": daemon.reloader.outcome,
            "reloads": daemon.reloader.totals,
            "health": daemon.config.reply.health,
        },
        "control": {"path": str(daemon.desk.path), "group": daemon.config.control.group},
        "polls": _polls(daemon),
        "history": daemon.history.weights(),
    }


def _pools(daemon: "Daemon") -> list[dict[str, Any]]:
    sample = daemon.cache.newest()
    found = sample.pools if sample else []
    pools = []
    for i, (said, (_, rule)) in enumerate(zip(daemon.said, daemon.speaker.rules, strict=False)):
        of = counts(found[i]) if i < len(found) else None
        pools.append(
            {
                "pool": said.pool,
                "reply": said.line.decode(),
                "weight": said.verdict.weight,
                "reason": said.verdict.reason,
                "known": said.verdict.known,
                "said_for_s": round(daemon.history.said_for(said.pool), 1),
                "count": rule.count,
                "capacity": rule.capacity,
                "counts": of,
            }
        )
    return pools


def _sample(daemon: "Daemon") -> dict[str, Any] | None:
    sample: Snapshot | None = daemon.cache.newest()
    age_s = daemon.cache.age()
    if sample is None or age_s is None:
        return None
    return {
        "age_s": round(age_s, 3),
        "visible": sample.visible,
        "discovery": sample.discovery,
        "processes": sample.processes,
        "rechecked": sample.rechecked,
        "vanished": sample.vanished,
        "unreadable": sample.unreadable,
        "took_ms": round(sample.took_ns / 1e6, 3),
        "cost_ms": round(sample.cost_ns / 1e6, 3),
    }


def _scanner(daemon: "Daemon") -> dict[str, Any]:
    scanner = daemon.sampler.scanner
    return {
        "scans": daemon.cache.scans,
        "scanning": daemon.cache.scanning,
        "for_s": round(daemon.cache.running_for(), 3),
        "age_s": daemon.cache.age(),
        "ended": asdict(daemon.scans),
        "failure": daemon.cache.failure,
        "refused": scanner.refused,
        "fallback": scanner.fallback(),
        "left_behind": scanner.left_behind(),
    }


def _polls(daemon: "Daemon") -> dict[str, Any]:
    totals = daemon.answerer.totals()
    now_s = daemon.clock()
    pollers = sorted(daemon.answerer.pollers(), key=lambda poller: -poller[2])
    return {
        "listening": [values.show_address(address) for address in daemon.addresses()],
        **{name: getattr(totals, name) for name in ("answered", "refused", "lost", "timed_out", "crowded", "no_fds")},
        "replies": [
            {"pool": pool, "outcome": outcome, "replies": replies}
            for (pool, outcome), replies in daemon.replies.sums().items()
        ],
        "pollers": [
            {"address": address, "polls": polls, "last_s": round(now_s - last_ns / 1e9, 1), "allowed": allowed}
            for address, polls, last_ns, allowed in pollers
        ],
    }


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
        }
        for worker in scanner.workers()
    ]
    found.sort(key=_busy, reverse=True)
    return {"count": len(found), "workers": found[:most]}


def _busy(worker: dict[str, Any]) -> int:
    return max((reading[0] for reading in worker["readings"].values() if isinstance(reading, list)), default=-1)
