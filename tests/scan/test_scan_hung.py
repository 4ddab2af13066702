"""Readers that hang make the reading of their own process old, and nothing else."""

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent._scan import HUNG_READERS_MAX, Counts, Scanner, Selector
from tests.farm import sidekiq_title
from tests.real.parts import until
from tests.tree import Tree, scanner

RECOVERY_DEADLINE_S = 20.0


class Hung:
    """A tree in which some processes hang their readers; at the end all readers are released."""

    def __init__(self, root: Path) -> None:
        self.tree = Tree(root)
        self.pids: list[int] = []

    def add(self, count: int = 1) -> None:
        first = 200 + len(self.pids)
        self.pids += [self.tree.add_hanging(pid) for pid in range(first, first + count)]

    def heal(self, title: bytes) -> None:
        for pid in self.pids:
            self.tree.heal(pid, title)
        self.pids = []


@pytest.fixture
def hung(tmp_path: Path) -> Iterator[Hung]:
    hung = Hung(tmp_path / "proc")
    yield hung
    hung.heal(b"irb")


def threads() -> set[str]:
    """Ours, by their numbers."""
    return {task.name for task in Path("/proc/self/task").iterdir()}


def counts(of: Scanner) -> Counts:
    [pool] = of.scan().pools
    return pool


def test_a_process_that_hangs_its_reader_is_quarantined_and_all_others_are_read(hung: Hung) -> None:
    pids = hung.tree.workers(busy=1, idle=1)
    hung.add()
    later = hung.tree.add(300, sidekiq_title(1))
    scan = scanner(hung.tree)
    now = counts(scan)
    assert (now.workers, now.readable, now.busy_processes, now.quarantined, now.unread) == (3, 3, 2, 1, 1)
    assert scan.hung_readers() == 1
    hung.tree.retitle(pids[1], sidekiq_title(5))
    hung.tree.retitle(later, sidekiq_title(0))
    now = counts(scan)
    assert (now.busy_processes, now.busy_threads, now.quarantined, now.oldest_ms) == (2, 6, 1, 0)
    assert scan.hung_readers() == 1, "a process that hangs costs one reader, however often there is a scan"


def test_a_host_all_of_whose_workers_hang_their_readers_has_none_that_is_readable(hung: Hung) -> None:
    hung.add(2)
    now = counts(scanner(hung.tree))
    assert (now.workers, now.readable, now.quarantined) == (0, 0, 2)


def test_a_worker_that_begins_to_hang_keeps_its_last_reading_which_grows_old(hung: Hung) -> None:
    hung.add()
    [pid] = hung.pids
    scan = scanner(hung.tree, kept_max=0, detail=True)
    scan.scan()
    hung.tree.feed(pid, sidekiq_title(3))
    until(lambda: scan.hung_readers() == 0, "the reader is back", RECOVERY_DEADLINE_S)
    assert [w.readings for w in scan.workers()] == [[(3, 10, False)]]

    def tried_again() -> bool:
        counts(scan)
        return scan.hung_readers() == 1

    until(tried_again, "it was tried again, and hangs again", RECOVERY_DEADLINE_S)
    now = counts(scan)
    assert (now.workers, now.readable, now.busy_threads, now.quarantined, now.unread) == (1, 0, 3, 1, 0)
    assert now.oldest_ms >= 1000
    assert [w.quarantined for w in scan.workers()] == [True]


def test_a_process_that_hangs_costs_one_reader_however_often_it_is_looked_after(hung: Hung) -> None:
    hung.add()
    scan = scanner(hung.tree)
    scan.start()
    until(lambda: scan.check_deadline() and scan.hung_readers() > 0, "a reader was detached", RECOVERY_DEADLINE_S)
    for _ in range(1000):
        scan.check_deadline()
    assert scan.hung_readers() == 1
    hung.heal(sidekiq_title(1))
    until(lambda: scan.hung_readers() == 0, "the reader is back", RECOVERY_DEADLINE_S)


def test_a_worker_that_begins_to_hang_concerns_its_own_pool_alone(hung: Hung) -> None:
    hung.add()
    [pid] = hung.pids
    scan = scanner(hung.tree, Selector("sidekiq"), Selector("rq"), kept_max=0)
    scan.scan()
    hung.tree.feed(pid, sidekiq_title(3))

    def tried_again() -> bool:
        scan.scan()
        return scan.hung_readers() == 1 and scan.scan().pools[0].workers == 1

    until(tried_again, "it is a worker now, and hangs again", RECOVERY_DEADLINE_S)
    assert [pool.quarantined for pool in scan.scan().pools] == [1, 0]


def test_a_successor_leaves_the_processes_alone_at_which_its_formers_readers_hang(hung: Hung) -> None:
    hung.tree.workers(busy=2)
    hung.add(HUNG_READERS_MAX + 1)
    former = scanner(hung.tree)
    with pytest.raises(RuntimeError, match="the readers hang"):
        former.scan(give_up_s=2.0)
    for _ in range(3):
        former = Scanner(str(hung.tree), "sweep", [Selector("sidekiq")], kept_max=1000, former=former)
        now = counts(former)
        assert (now.busy_processes, now.quarantined, now.unread) == (2, HUNG_READERS_MAX + 1, HUNG_READERS_MAX + 1)
        assert former.hung_readers() == HUNG_READERS_MAX + 1, "and the one that the first one was at when it ended"
    hung.heal(sidekiq_title(1))
    until(lambda: former.hung_readers() == 0, "all readers are back", RECOVERY_DEADLINE_S)
    until(lambda: counts(former).workers == HUNG_READERS_MAX + 3, "all are read", RECOVERY_DEADLINE_S)


def test_a_process_at_which_a_formers_reader_hangs_since_costs_its_successor_none(hung: Hung) -> None:
    former = scanner(hung.tree)
    successor = Scanner(str(hung.tree), "sweep", [Selector("sidekiq")], kept_max=1000, former=former)
    hung.add()
    assert counts(former).quarantined == 1
    before = threads()
    assert counts(successor).quarantined == 1
    assert len(threads() - before) == 1, "its own, which hangs nowhere"
    hung.heal(sidekiq_title(1))
    until(lambda: counts(successor).workers == 1, "it is read", RECOVERY_DEADLINE_S)


def test_a_process_that_recovers_is_read_again(hung: Hung) -> None:
    hung.add()
    scan = scanner(hung.tree)
    assert counts(scan).quarantined == 1
    hung.heal(sidekiq_title(3))

    def recovered() -> bool:
        now = counts(scan)
        return (now.workers, now.readable, now.busy_threads, now.quarantined, now.unread) == (1, 1, 3, 0, 0)

    until(recovered, "it counts as all others do", RECOVERY_DEADLINE_S)


def test_a_process_that_is_gone_is_forgotten_though_its_reader_hung(hung: Hung) -> None:
    hung.add()
    [pid] = hung.pids
    scan = scanner(hung.tree)
    assert counts(scan).quarantined == 1
    hung.heal(b"")
    hung.tree.remove(pid)
    until(lambda: counts(scan).quarantined == 0, "it is forgotten", RECOVERY_DEADLINE_S)


def test_only_so_many_readers_are_detached_then_scans_stop_until_one_is_back(hung: Hung) -> None:
    hung.tree.workers(busy=1)
    hung.add(HUNG_READERS_MAX + 1)
    hung.tree.add(900, sidekiq_title(1))
    scan = scanner(hung.tree)
    with pytest.raises(RuntimeError, match="the readers hang"):
        scan.scan(give_up_s=2.0)
    assert scan.hung_readers() == HUNG_READERS_MAX
    hung.tree.feed(hung.pids[0], sidekiq_title(1))
    now = counts(scan)
    assert (now.busy_processes, now.quarantined) == (3, HUNG_READERS_MAX + 1)


def test_python_goes_on_while_a_scan_hangs(hung: Hung) -> None:
    hung.add(HUNG_READERS_MAX + 1)
    scan = scanner(hung.tree)
    seen: list[int] = []

    def rescue() -> None:
        until(lambda: scan.hung_readers() == HUNG_READERS_MAX, "the scan hangs", RECOVERY_DEADLINE_S)
        seen.append(scan.hung_readers())
        hung.heal(sidekiq_title(1))

    rescuer = threading.Thread(target=rescue)
    rescuer.start()
    snapshot = scan.scan(give_up_s=60.0)
    rescuer.join()
    assert seen == [HUNG_READERS_MAX]
    assert snapshot.visible


def test_no_call_but_scan_waits_for_a_reader_that_hangs(hung: Hung) -> None:
    hung.add(HUNG_READERS_MAX + 1)
    scan = scanner(hung.tree, detail=True)
    scan.start()

    def hangs() -> bool:
        scan.check_deadline()
        return scan.hung_readers() == HUNG_READERS_MAX

    until(hangs, "all readers hang", RECOVERY_DEADLINE_S)
    scan.start()
    assert (scan.take(), scan.workers(), scan.fallback()) == (None, [], None)
