"""What one scan finds in the real /proc, among processes of the test's own making."""

import os
import subprocess
import sys
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest

from agent._scan import Counts, Scanner, Selector
from tests.farm import Farm, sidekiq_title
from tests.real.parts import until
from tests.tree import scanner

DEADLINE_S = 10.0
_names = count()


@pytest.fixture
def farm() -> Iterator[Farm]:
    with Farm() as farm:
        yield farm


@pytest.fixture
def comm() -> str:
    """A name that no other process has."""
    return f"bw{os.getpid() % 100_000}x{next(_names)}"


@pytest.fixture
def scan(comm: str) -> Scanner:
    return scanner("/proc", Selector("sidekiq", comm=[comm]), detail=True)


def counts(of: Scanner) -> Counts:
    [pool] = of.scan().pools
    return pool


def busy(of: Scanner) -> tuple[int, int]:
    """Busy processes, of how many workers."""
    now = counts(of)
    return now.busy_processes, now.workers


def test_real_titles_are_read_whether_they_fit_in_argv_or_not(farm: Farm, comm: str, scan: Scanner) -> None:
    short, long = farm.spawn(2, comm=comm, title=sidekiq_title(0))
    assert busy(scan) == (0, 2)
    farm.retitle({short: sidekiq_title(3), long: sidekiq_title(4, tag="x" * 1500)})
    now = counts(scan)
    assert (now.busy_processes, now.busy_threads, now.oldest_ms) == (2, 7, 0)
    assert {w.pid: w.readings for w in scan.workers()} == {short: [(3, 10, False)], long: [(4, 10, False)]}


def test_workers_come_and_go(farm: Farm, comm: str, scan: Scanner) -> None:
    """The next scan counts a new worker, and no longer counts a killed one."""
    first = farm.spawn(3, comm=comm, title=sidekiq_title(1))
    assert busy(scan) == (3, 3)
    for _ in range(25):  # more scans than the sweep does without a listing
        assert busy(scan) == (3, 3)
    farm.spawn(2, comm=comm, title=sidekiq_title(1))
    assert busy(scan) == (5, 5)
    farm.kill(first)
    assert busy(scan) == (2, 2)


def test_a_zombie_counts_no_more_from_its_second_empty_reading_on(farm: Farm, comm: str, scan: Scanner) -> None:
    pids = farm.spawn(2, comm=comm, title=sidekiq_title(1))
    scan.scan()
    farm.zombify(pids[:1])
    scan.scan()
    assert busy(scan) == (1, 1)
    farm.reap(pids[:1])
    assert busy(scan) == (1, 1)


def test_a_worker_that_executes_something_else_counts_no_more(farm: Farm, comm: str, scan: Scanner) -> None:
    [pid] = farm.spawn(comm=comm, title=sidekiq_title(1))
    assert busy(scan) == (1, 1)
    farm.exec(pid, "sh", [b"sh"])
    assert busy(scan) == (0, 0)


def test_a_process_that_becomes_a_worker_by_exec_and_title_is_found(farm: Farm, comm: str, scan: Scanner) -> None:
    [pid] = farm.spawn(comm="sh")
    assert busy(scan) == (0, 0)
    farm.exec(pid, comm, [b"ruby", b"bin/sidekiq"])
    farm.retitle({pid: sidekiq_title(1)})
    until(lambda: busy(scan) == (1, 1), "the new worker counts", DEADLINE_S)


def test_copies_forked_by_a_job_do_not_count_even_when_their_parent_is_gone(
    farm: Farm, comm: str, scan: Scanner
) -> None:
    [pid] = farm.spawn(comm=comm, title=sidekiq_title(1))
    copies = farm.fork_copies(pid, 3)
    now = counts(scan)
    assert (now.workers, now.busy_processes, now.copies) == (1, 1, 3)
    assert {w.pid for w in scan.workers() if w.copy} == set(copies)
    farm.kill([pid])
    now = counts(scan)
    assert (now.workers, now.copies) == (0, 3)


def test_a_stopped_worker_shows_what_it_showed(farm: Farm, comm: str, scan: Scanner) -> None:
    [pid] = farm.spawn(comm=comm, title=sidekiq_title(1))
    farm.stop([pid])
    now = counts(scan)
    assert (now.workers, now.readable, now.busy_processes) == (1, 1, 1)


def test_a_worker_whose_memory_lock_is_held_counts_and_holds_nobody_up(farm: Farm, comm: str, scan: Scanner) -> None:
    held, free = farm.spawn(2, comm=comm, title=sidekiq_title(1))
    assert busy(scan) == (2, 2)
    farm.hold_mmap_lock(held)
    farm.retitle({free: sidekiq_title(0)})
    assert busy(scan) == (1, 2)
    farm.release(held)
    farm.retitle({held: sidekiq_title(0)})
    until(lambda: busy(scan) == (0, 2) and counts(scan).quarantined == 0, "both are read", DEADLINE_S)


@pytest.mark.root("other users' processes are started")
def test_users_are_told_apart_and_shown(farm: Farm, comm: str) -> None:
    [ours] = farm.spawn(comm=comm, title=sidekiq_title(1), uid=0)
    [theirs] = farm.spawn(comm=comm, title=sidekiq_title(1), uid=54_321)
    scan = scanner(
        "/proc", *(Selector("sidekiq", comm=[comm], users=[uid]) for uid in (0, 54_321, 54_322)), detail=True
    )
    assert [pool.workers for pool in scan.scan().pools] == [1, 1, 0]
    assert {w.pid: w.uid for w in scan.workers()} == {ours: 0, theirs: 54_321}


def test_thousands_come_and_go_and_the_count_is_right_at_every_rest(farm: Farm, comm: str, scan: Scanner) -> None:
    for round_ in range(1, 4):
        farm.spawn(300, comm="sh")
        workers = farm.spawn(100, comm=comm, title=sidekiq_title(1))
        assert busy(scan) == (100 * round_ - 50 * (round_ - 1), 100 * round_ - 50 * (round_ - 1))
        farm.kill(workers[:50])
        scan.scan()
        assert busy(scan) == (50 * round_, 50 * round_)


INSIDE = """
import sys
from agent._scan import Scanner, Selector
from tests.farm import Farm, sidekiq_title
comm = sys.argv[1]
scan = Scanner("/proc", "sweep", [Selector("sidekiq", comm=[comm])], kept_max=10)
with Farm() as farm:
    for line in sys.stdin:
        farm.spawn(int(line), comm=comm, title=sidekiq_title(1))
        snapshot = scan.scan()
        print(snapshot.visible, snapshot.pools[0].workers, flush=True)
"""


def test_pid_namespaces(farm: Farm, comm: str) -> None:
    """A namespace's processes are seen from inside, and from outside through its own procfs."""
    farm.spawn(2, comm=comm, title=sidekiq_title(1))
    unshare = ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child"]
    if os.getuid() != 0:
        unshare[1:1] = ["--user", "--map-root-user"]
    inside = subprocess.Popen(
        [*unshare, sys.executable, "-c", INSIDE, comm],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
    )
    with inside:
        assert inside.stdin is not None and inside.stdout is not None

        def spawn(more: int) -> str:
            assert inside.stdin is not None and inside.stdout is not None
            print(more, file=inside.stdin, flush=True)
            return inside.stdout.readline()

        assert spawn(3) == "True 3\n"
        [child] = Path(f"/proc/{inside.pid}/task/{inside.pid}/children").read_text().split()
        outside = scanner(f"/proc/{child}/root/proc", Selector("sidekiq", comm=[comm]))
        assert outside.scan().visible
        assert busy(outside) == (3, 3)
        for total in (4, 5, 6):
            assert spawn(1) == f"True {total}\n"
            assert busy(outside) == (total, total)
        inside.stdin.close()
