"""Counters since the start: scans, and replies by what they are based on.

Plain sums, updated when something happens. They decide nothing.
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from agent._scan import Answerer, Snapshot

if TYPE_CHECKING:
    from agent.weight.pools import PoolReply


@dataclass(slots=True)
class Scans:
    """Finished scans. Times in seconds; ``cost_s`` is of one core. ``vanished``: processes that exited while they
    were being read."""

    done: int = 0
    failed: int = 0
    took_s: float = 0.0
    cost_s: float = 0.0
    vanished: int = 0

    def note(self, snapshot: Snapshot | None) -> None:
        """A scan ended, with this snapshot or without one."""
        if snapshot is None:
            self.failed += 1
            return
        self.done += 1
        self.took_s += snapshot.took_ns / 1e9
        self.cost_s += snapshot.cost_ns / 1e9
        self.vanished += snapshot.vanished


def _outcome(said: "PoolReply") -> str:
    if said.ordered:
        return "ordered"
    return "measured" if said.decision.known else "unknown"


class Replies:
    """Replies sent, by pool and by what they are based on: ``measured``, ``unknown``, ``ordered``.

    The answerer counts only by pool; all replies that it sent between two changes of a pool's reply are of one kind,
    so it is enough to read its counters at each change.
    """

    def __init__(self, answerer: Answerer) -> None:
        self._answerer = answerer
        self._outcomes: dict[str, str] = {}
        self._seen: dict[str, int] = {}
        self._sums: Counter[tuple[str, str]] = Counter()

    def note(self, said: "Iterable[PoolReply]") -> None:
        """These are the replies from now on."""
        self._settle()
        self._outcomes = {each.pool: _outcome(each) for each in said}

    def sums(self) -> dict[tuple[str, str], int]:
        """Replies by (pool, outcome)."""
        self._settle()
        return dict(self._sums)

    def _settle(self) -> None:
        by_pool = self._answerer.answered_by_pool()
        by_pool[""] = self._answerer.totals().answered - sum(by_pool.values())
        for pool, outcome in self._outcomes.items():
            self._sums[pool, outcome] += by_pool.get(pool, 0) - self._seen.get(pool, 0)
        self._seen = by_pool
