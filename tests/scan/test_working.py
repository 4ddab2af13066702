"""A worker that uses CPU has a job, whatever its title said at its last heartbeat: in trees, and with real
processes."""

import os
import time
from collections.abc import Iterator

import pytest

from agent._scan import Scanner, Selector
from tests.cgroups import cgroup
from tests.farm import sidekiq_title
from tests.real.parts import until
from tests.scan.burning import WINDOW_S, Worker, looked, of
from tests.tree import Tree, scanner

DEADLINE_S = 20.0


def now(preset: str = "sidekiq", **more: object) -> Selector:
    return Selector(preset, now=True, **more)  # type: ignore[arg-type]


@pytest.fixture
def worker() -> Iterator[Worker]:
    real = Worker(sidekiq_title(0))
    yield real
    real.end()


@pytest.mark.parametrize("root", ["/proc", "/proc/self/root/proc"])
def test_a_real_worker_that_burns_has_a_job_until_it_rests(worker: Worker, root: str) -> None:
    pid = worker.process.pid
    scans = Scanner(root, "sweep", [now(comm=["*"], users=[os.getuid()])], kept_max=100, detail=True)
    scans.scan()
    looked(scans)
    assert not of(pid, scans)[0]
    worker.burn()
    until(lambda: (looked(scans), of(pid, scans)[0])[1], "it works", DEADLINE_S)
    worker.rest()
    until(lambda: (looked(scans), not of(pid, scans)[0])[1], "it rests", DEADLINE_S)


def test_a_worker_works_from_its_second_look_on_and_counts_as_untitled(tree: Tree) -> None:
    tree.workers(busy=1, idle=3)
    scans = scanner(tree, now())
    tree.work(101, 100)
    assert scans.scan().pools[0].untitled == 0, "nothing is known of what it took when"
    tree.work(101, 1000)
    counts = looked(scans)
    # As many threads as it takes cores, but no more than it has.
    assert (counts.busy_processes, counts.untitled, counts.busy_threads) == (2, 1, 1 + 10)


def test_who_says_busy_is_never_lowered_and_who_rests_is_idle_again(tree: Tree) -> None:
    tree.workers(busy=1, idle=1)
    scans = scanner(tree, now())
    scans.scan()
    tree.work(101, 1)
    assert looked(scans).busy_processes == 2
    counts = looked(scans, windows=4)
    assert (counts.busy_processes, counts.untitled) == (1, 0)


def test_a_title_that_turns_idle_ends_what_was_worked_until_then(tree: Tree) -> None:
    (pid,) = tree.workers(busy=1)
    scans = scanner(tree, now())
    scans.scan()
    tree.work(pid, 1)
    looked(scans)
    tree.work(pid, 2)
    tree.retitle(pid, sidekiq_title(0))
    assert looked(scans).busy_processes == 0
    tree.work(pid, 3)
    assert looked(scans).untitled == 1


def test_two_scans_at_nearly_one_moment_judge_nothing(tree: Tree) -> None:
    tree.workers(busy=0, idle=1)
    scans = scanner(tree, now())
    began_s = time.monotonic()
    scans.scan()
    tree.work(100, 1)
    untitled = scans.scan().pools[0].untitled
    assert untitled == 0 or time.monotonic() - began_s >= WINDOW_S


@pytest.mark.parametrize(
    ("selector", "title", "untitled"),
    [
        (Selector("sidekiq"), sidekiq_title(0), 0),
        (now("resque", comm=["*"]), b"resque-2.6.0: Waiting for low", 0),
        (now("faktory", comm=["*"]), b"faktory-worker 1.1.1 app [0 of 10 busy]", 1),
        (now(), b"sidekiq 7.3.0 shop [0 of 10 busy] stopping", 1),
        (now(users=[1]), sidekiq_title(0), 0),
    ],
    ids=["titles alone", "no heartbeat", "faktory", "stopping", "another user's"],
)
def test_who_works_counts_where_titles_come_by_a_heartbeat(
    tree: Tree, selector: Selector, title: bytes, untitled: int
) -> None:
    tree.add(100, title)
    scans = scanner(tree, selector)
    scans.scan()
    tree.work(100, 1)
    assert looked(scans).untitled == untitled


def test_a_copy_that_works_is_no_worker(tree: Tree) -> None:
    tree.add(100, sidekiq_title(0))
    tree.add(101, sidekiq_title(0), ppid=100)
    scans = scanner(tree, now())
    scans.scan()
    tree.work(101, 1, ppid=100)
    counts = looked(scans)
    assert (counts.copies, counts.untitled) == (1, 0)


def test_a_reused_pid_and_a_time_that_goes_back_begin_anew(tree: Tree) -> None:
    tree.workers(busy=0, idle=1)
    scans = scanner(tree, now())
    tree.work(100, 1000)
    scans.scan()
    tree.work(100, 1)
    assert looked(scans).untitled == 0


def test_workers_whose_time_is_not_told_are_counted_by_their_titles(tree: Tree) -> None:
    tree.workers(busy=1, idle=1)
    tree.forbid(101, "stat")
    scans = scanner(tree, now())
    scans.scan()
    snapshot = scans.scan()
    assert (snapshot.cpu_untold, snapshot.pools[0].busy_processes, snapshot.pools[0].workers) == (1, 1, 2)


def test_cores_that_workers_take_are_counted_for_any_program(tree: Tree) -> None:
    tree.add(100, b"resque-2.6.0: Waiting for low")
    scans = scanner(tree, Selector("resque", comm=["*"], cores=True))
    scans.scan()
    tree.work(100, 1000)
    assert looked(scans).cores_milli > 1000


def test_cores_that_other_cgroups_take_are_counted(tree: Tree, worker: Worker) -> None:
    tree.workers(busy=1)
    with cgroup("busyweight-others") as group:
        (group / "cgroup.procs").write_text(str(worker.process.pid))
        scans = scanner(tree, Selector("sidekiq", others=[group.name, "no-such.service"]))
        scans.scan()
        worker.burn()
        until(lambda: looked(scans).others_milli > 300, "its cores are seen", DEADLINE_S)
        worker.rest()
        until(lambda: looked(scans).others_milli < 100, "it rests", DEADLINE_S)
        worker.end()
    assert looked(scans).others_milli == 0
