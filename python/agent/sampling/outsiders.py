"""Workers that `workers.comm` hides: processes with a worker's title but a name that the filter does not match.

Workers that bear the name of a wrapper or of another Ruby would make a busy host look idle. The search reads all of
/proc and may hang, so it needs its own thread. It changes no count: it only shows that a count may be incomplete.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from agent import _scan
from agent.config.schema import Config
from agent.sampling import host


@dataclass(frozen=True, slots=True)
class Outsiders:
    """For each pool, the processes that would count there under another name: pids and names."""

    pools: tuple[tuple[tuple[int, str], ...], ...] = ()

    def of(self, pool: int) -> tuple[tuple[int, str], ...]:
        """The hidden workers of one pool, by its index in the configuration."""
        return self.pools[pool] if pool < len(self.pools) else ()


def look(config: Config) -> Outsiders:
    """The workers hidden now. May take a second, or hang. Raises OSError if there is no procfs root."""
    pools = config.all_pools
    selectors = [host.selector(pool.workers) for pool in pools]
    found = _scan.hidden_by_name(config.scan.procfs, selectors)
    return Outsiders(tuple(tuple((pid, comm) for pid, comm, mask in found if mask & 1 << i) for i in range(len(pools))))


def described(hidden: Sequence[tuple[int, str]]) -> str:
    """``3 workers are called foo or bar (pids 7, 8, 9)``."""
    names = " or ".join(sorted({comm for _, comm in hidden}))
    pids = ", ".join(str(pid) for pid, _ in hidden[:5]) + (" ..." if len(hidden) > 5 else "")
    count = "1 worker is" if len(hidden) == 1 else f"{len(hidden)} workers are"
    return f"{count} called {names} (pids {pids})"
