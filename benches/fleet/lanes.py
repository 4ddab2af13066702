"""Many runs in parallel, each with its own fleet: a run in real time costs little CPU and takes long.

It must end everything that it started, even if it is itself ended during runs.
"""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from queue import SimpleQueue
from typing import TypeVar

from tests.matrix.trees import Haproxy

from benches.fleet.parts import CORES, HEARTBEAT_S, Fleet, fleet, program

Item = TypeVar("Item")
Result = TypeVar("Result")


class Lanes:
    """Equal fleets, one for each parallel run."""

    def __init__(self, fleets: list[Fleet]) -> None:
        self._fleets = fleets
        self._free: SimpleQueue[Fleet] = SimpleQueue()
        for each in fleets:
            self._free.put(each)

    def each(self, work: Callable[[Fleet, Item], Result], items: Iterable[Item]) -> Iterator[Result]:
        """The results of `work` for the items, in order."""

        def one(item: Item) -> Result:
            free = self._free.get()
            try:
                return work(free, item)
            finally:
                self._free.put(free)

        pool = ThreadPoolExecutor(len(self._fleets))
        try:
            yield from pool.map(one, items)
        except BaseException:
            for each in self._fleets:
                each.ending.set()
            raise
        finally:
            pool.shutdown(cancel_futures=True)


@contextmanager
def lanes(
    home: Path,
    count: int,
    compression: float,
    *,
    cores: int = CORES,
    heartbeat_s: float = HEARTBEAT_S,
    of: Haproxy | None = None,
) -> Iterator[Lanes]:
    """That many fleets of seven hosts, each on its own network; they end with the context."""
    program()  # once, not in every lane
    with ExitStack() as stack:
        fleets = []
        for lane in range(count):
            place, network = home / f"lane{lane}", 100 + lane
            one = fleet(place, 3, 4, compression, network=network, cores=cores, heartbeat_s=heartbeat_s, of=of)
            fleets.append(stack.enter_context(one))
        yield Lanes(fleets)
