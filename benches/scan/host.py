"""A host for the scan bench: so many processes, a hundred of them workers in their own cgroup.

Three in ten processes are `ruby` processes that are not workers, as on a real host.
It must leave nothing behind: no process, cgroup or kernel limit.
"""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from tests.farm import Farm, room_for, sidekiq_title

WORKERS = 100
SLOTS = 10
BUSY = sum(number % (SLOTS + 1) > 0 for number in range(WORKERS))
OTHER_RUBIES = 0.3
_OTHERS = {
    "nginx": b"nginx: worker process",
    "postgres": b"postgres: web shop 10.0.0.7(41532) idle",
    "bash": b"-bash",
}


class Host:
    """A host that grows and shrinks; `cgroup` is where its workers are, None if none can be made."""

    def __init__(self, farm: Farm, cgroup: Path | None, threads: int) -> None:
        self._farm = farm
        self._threads = threads
        self._workers = [
            farm.spawn(comm="ruby", title=sidekiq_title(number % (SLOTS + 1), SLOTS), threads=threads)[0]
            for number in range(WORKERS)
        ]
        self._rubies: list[int] = []
        self._others: list[int] = []
        self.cgroup = cgroup
        if cgroup:
            for pid in self._workers:
                (cgroup / "cgroup.procs").write_text(str(pid))

    def resize(self, size: int) -> None:
        """Grows or shrinks to `size` processes, workers included; the machine's other processes come on top."""
        rubies = int(size * OTHER_RUBIES)
        self._resize(self._rubies, rubies, {"ruby": b"puma 6.4.2 (tcp://0.0.0.0:3000) [shop]"})
        self._resize(self._others, size - rubies - WORKERS, _OTHERS)

    def add_workers(self, count: int) -> None:
        """More workers, for measuring what one more costs."""
        self._farm.spawn(count, comm="ruby", title=sidekiq_title(1, SLOTS))

    def stir(self) -> None:
        """Starts and ends a process, so that no scan finds the host unchanged."""
        self._farm.kill(self._farm.spawn())

    def _resize(self, pids: list[int], size: int, kinds: dict[str, bytes]) -> None:
        self._farm.kill(pids[size:])
        del pids[size:]
        missing = size - len(pids)
        for number, (comm, title) in enumerate(kinds.items()):
            share = missing // len(kinds) + (number < missing % len(kinds))
            if share > 0:
                pids += self._farm.spawn(share, comm=comm, title=title, threads=self._threads)


@contextlib.contextmanager
def new_host(tasks: int, *, threads: int = 1) -> Iterator[Host]:
    """A host with `WORKERS` workers, and room for `tasks` processes and threads."""
    with room_for(tasks), _cgroup() as cgroup, Farm() as farm:
        yield Host(farm, cgroup, threads)


@contextlib.contextmanager
def _cgroup() -> Iterator[Path | None]:
    """A cgroup in the v2 hierarchy, wherever it is mounted; None if none can be created."""
    mounts = (line.split() for line in Path("/proc/self/mountinfo").read_text().splitlines())
    root = next((Path(fields[4]) for fields in mounts if fields[fields.index("-") + 1] == "cgroup2"), None)
    group = root / f"busyweight-bench-{os.getpid()}" if root else None
    try:
        if group:
            group.mkdir()
    except OSError:
        group = None
    try:
        yield group
    finally:
        if group:
            group.rmdir()
