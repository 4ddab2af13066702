"""Workers whom `workers.comm` hides: asked for at the start and rarely afterwards, while somebody polls.

A worker under a name that the filter does not know (a wrapper's, another Ruby's) would make a busy host look
idle. The look itself reads all of /proc and may hang, so it has a thread of its own, one at a time, which is the
caller's to start. Nothing here counts for a weight: it only tells that a count cannot be the whole truth.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from agent import _scan
from agent.config.schema import Config
from agent.sampling import host

# The first look is soon after the start, the later ones far apart: one reads every process's name and title.
FIRST_AFTER_S = 5.0
PERIOD_S = 600.0


@dataclass(frozen=True, slots=True)
class Outsiders:
    """For each pool, those who would count there under another name: pids and names."""

    pools: tuple[tuple[tuple[int, str], ...], ...] = ()

    def of(self, pool: int) -> tuple[tuple[int, str], ...]:
        """Those of one pool, by its place in the configuration."""
        return self.pools[pool] if pool < len(self.pools) else ()


def look(config: Config) -> Outsiders:
    """Who is hidden now. May take a second, or hang. Raises OSError without a procfs root."""
    pools = config.all_pools
    selectors = [host.selector(pool.workers) for pool in pools]
    found = _scan.hidden_by_name(config.scan.procfs, selectors)
    return Outsiders(tuple(tuple((pid, comm) for pid, comm, mask in found if mask & 1 << i) for i in range(len(pools))))


class Watch:
    """When to look. ``start`` begins a look on a thread; its end is told by :meth:`ended`."""

    def __init__(self, clock: Callable[[], float], start: Callable[[], None]) -> None:
        self._clock = clock
        self._start = start
        self._due_s = clock() + FIRST_AFTER_S
        self._looking = False
        self.newest = Outsiders()

    def poll(self) -> None:
        """Somebody polls: a look begins if it is time for one, and none is under way or hangs."""
        if not self._looking and self._clock() >= self._due_s:
            self._looking = True
            self._start()

    def ended(self, found: Outsiders | None) -> bool:
        """A look ended, with what it found, or broke. Whether that is something new."""
        self._looking = False
        self._due_s = self._clock() + PERIOD_S
        new = found is not None and found != self.newest
        if found is not None:
            self.newest = found
        return new

    def again(self) -> None:
        """What is looked for has changed."""
        self.newest = Outsiders()
        self._due_s = self._clock() + FIRST_AFTER_S


def described(hidden: Sequence[tuple[int, str]]) -> str:
    """``3 workers are called foo or bar (pids 7, 8, 9)``."""
    names = " or ".join(sorted({comm for _, comm in hidden}))
    pids = ", ".join(str(pid) for pid, _ in hidden[:5]) + (" ..." if len(hidden) > 5 else "")
    count = "1 worker is" if len(hidden) == 1 else f"{len(hidden)} workers are"
    return f"{count} called {names} (pids {pids})"
