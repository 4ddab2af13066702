"""What one scan finds in a tree: which processes count, which do not, and which only appear as a number."""

import subprocess
import sys
from pathlib import Path

import pytest

from agent._scan import Counts, Scanner, Selector
from tests.farm import sidekiq_title
from tests.real.parts import until
from tests.scarce import descriptors_left
from tests.tree import Tree, scanner

RECHECK_DEADLINE_S = 10.0


def counts(of: Scanner) -> Counts:
    [pool] = of.scan().pools
    return pool


def busy(of: Scanner) -> tuple[int, int]:
    """Busy processes, of how many workers."""
    now = counts(of)
    return now.busy_processes, now.workers


def test_processes_and_threads_add_up(tree: Tree) -> None:
    for pid, title in {100: b"[3 of 10 busy]", 101: b"[0 of 5 busy]", 102: b"[5 of 5 busy] stopping"}.items():
        tree.add(pid, b"sidekiq 7.3.0 shop " + title)
    now = counts(scanner(tree))
    assert (now.workers, now.readable, now.busy_processes, now.stopping) == (3, 3, 2, 1)
    assert (now.busy_threads, now.total_threads, now.oldest_ms) == (8, 20, 0)


def test_a_host_without_workers_is_seen_and_idle(tree: Tree) -> None:
    snapshot = scanner(tree).scan()
    assert snapshot.visible
    assert (snapshot.processes, snapshot.discovery, snapshot.pools[0].workers) == (1, "sweep", 0)


def test_a_title_rewritten_in_place_is_seen_by_the_next_scan(tree: Tree) -> None:
    [pid] = tree.workers(busy=0, idle=1)
    scan = scanner(tree)
    for n in (0, 1, 9, 0):
        tree.retitle(pid, sidekiq_title(n))
        assert counts(scan).busy_threads == n


@pytest.mark.parametrize("kept_max", [0, 1, 1000])
def test_it_makes_no_difference_how_many_files_are_kept_open(tree: Tree, kept_max: int) -> None:
    pids = tree.workers(busy=3, idle=3)
    scan = scanner(tree, kept_max=kept_max)
    assert busy(scan) == (3, 6)
    tree.retitle(pids[5], sidekiq_title(2))
    tree.remove(pids[0])
    tree.add(900, sidekiq_title(4))
    scan.scan()
    assert busy(scan) == (4, 6)


def test_a_comm_that_is_not_listed_is_not_read(tree: Tree) -> None:
    tree.add(100, sidekiq_title(1), comm="vim")
    tree.forbid(100)
    snapshot = scanner(tree).scan()
    assert (snapshot.pools[0].workers, snapshot.unreadable) == (0, 0)


@pytest.mark.parametrize("comm", ["sidekiq", "ruby", "ruby3.1", "bundle", "sidekiqswarm"])
def test_sidekiqs_names_are_known(tree: Tree, comm: str) -> None:
    tree.add(100, sidekiq_title(1), comm=comm)
    assert busy(scanner(tree)) == (1, 1)


def test_all_names_may_be_admitted(tree: Tree) -> None:
    tree.add(100, sidekiq_title(1), comm="odd) name")
    assert busy(scanner(tree, Selector("sidekiq", comm=["*"]))) == (1, 1)


def test_forked_copies_are_no_workers_whatever_is_left_of_their_family(tree: Tree) -> None:
    tree.add(100, sidekiq_title(1))
    tree.add(101, sidekiq_title(1), ppid=100)
    tree.add(102, sidekiq_title(1), ppid=101)
    scan = scanner(tree)
    now = counts(scan)
    assert (now.workers, now.busy_processes, now.copies) == (1, 1, 2)
    tree.remove(100)
    scan.scan()
    now = counts(scan)
    assert (now.workers, now.copies) == (0, 2)


def test_a_worker_below_another_program_is_a_worker(tree: Tree) -> None:
    tree.add(100, b"sidekiqswarm, managing 2 processes", comm="sidekiqswarm")
    tree.add(101, sidekiq_title(1), ppid=100)
    tree.add(102, sidekiq_title(0), ppid=100)
    assert busy(scanner(tree)) == (1, 2)


def test_without_a_stat_file_the_parent_is_taken_from_status(tree: Tree) -> None:
    tree.add(100, sidekiq_title(1))
    tree.add(101, sidekiq_title(1), ppid=100)
    (tree.root / "101/stat").unlink()
    assert counts(scanner(tree)).copies == 1


def test_processes_that_cannot_be_read_are_numbers_and_spoil_nothing(tree: Tree) -> None:
    tree.workers(busy=1)
    tree.forbid(tree.add(200, b""))
    tree.forbid(tree.add(201, b""), "comm")
    tree.add(300, b"sidekiq 6.4.1 a-rather-long-application-tag-name [0 of 1")
    (tree.root / str(tree.add(400, b"")) / "cmdline").unlink()
    (tree.root / "500").mkdir()
    snapshot = scanner(tree).scan()
    now = snapshot.pools[0]
    assert (now.workers, now.busy_processes, now.readable) == (1, 1, 1)
    assert (snapshot.unreadable, now.unparsable, snapshot.vanished) == (2, 1, 2)


def test_a_hidden_proc_is_not_visible_and_one_that_shows_again_is(tree: Tree) -> None:
    tree.workers(busy=1)
    scan = scanner(tree)
    assert scan.scan().visible
    tree.hide()
    assert not scan.scan().visible
    tree.show()
    snapshot = scan.scan()
    assert (snapshot.visible, snapshot.pools[0].workers) == (True, 1)


def test_a_proc_that_is_hidden_from_the_start_is_not_visible(tree: Tree) -> None:
    tree.workers(busy=1)
    tree.hide()
    assert not scanner(tree).scan().visible


def test_a_root_that_is_replaced_under_its_path_is_followed(tree: Tree) -> None:
    tree.workers(busy=1)
    scan = scanner(tree)
    scan.scan()
    tree.root.rename(tree.root.with_name("old"))
    (tree.root.with_name("old") / "1/comm").unlink()
    Tree(tree.root).workers(busy=2, first=500)
    scan.scan()
    assert busy(scan) == (2, 2)


def test_a_root_that_is_not_there_is_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(OSError, match=f"procfs root {tmp_path}/none: no such file or directory"):
        scanner(f"{tmp_path}/none")


def test_a_pid_absent_from_two_listings_is_dropped(tree: Tree) -> None:
    pids = tree.workers(busy=2)
    scan = scanner(tree)
    assert busy(scan) == (2, 2)
    tree.remove(pids[0])
    assert busy(scan) == (2, 2), "one missed sighting drops nobody"
    assert busy(scan) == (1, 1)


def test_a_worker_that_is_empty_once_stays_and_twice_is_none(tree: Tree) -> None:
    [pid] = tree.workers(busy=1)
    scan = scanner(tree)
    scan.scan()
    cmdline = tree.root / str(pid) / "cmdline"
    cmdline.write_bytes(b"")
    assert busy(scan) == (1, 1)
    assert busy(scan) == (0, 0)


def test_a_candidate_that_becomes_a_worker_is_found_by_its_next_recheck(tree: Tree) -> None:
    tree.add(100, b"ruby\0bin/sidekiq\0")
    tree.add(101, b"sh", comm="sh")
    scan = scanner(tree)
    assert busy(scan) == (0, 0)
    tree.retitle(100, sidekiq_title(1))
    tree.retitle(101, sidekiq_title(2))
    tree.rename(101, "ruby")
    until(lambda: busy(scan) == (2, 2), "both are workers", RECHECK_DEADLINE_S)


def test_a_worker_that_becomes_something_else_counts_no_more(tree: Tree) -> None:
    [pid] = tree.workers(busy=1)
    scan = scanner(tree)
    scan.scan()
    tree.retitle(pid, b"irb")
    assert busy(scan) == (0, 0)


def test_only_the_users_asked_for_count(tree: Tree) -> None:
    for pid, uid in ((100, 0), (101, 1000), (102, 1001)):
        tree.add(pid, sidekiq_title(1), uid=uid)
    users = scanner(tree, Selector("sidekiq", users=[1000, 1001]), Selector("sidekiq", users=[0]), Selector("sidekiq"))
    assert [pool.workers for pool in users.scan().pools] == [2, 1, 3]


def test_only_processes_below_the_cgroups_asked_for_count(tree: Tree) -> None:
    for pid, cgroup in ((100, "/jobs.slice"), (101, "/jobs.slice/a.service"), (102, "/jobs.slice2"), (103, "/")):
        tree.add(pid, sidekiq_title(1), cgroup=cgroup)
    asked = ["/jobs.slice", "jobs.slice/a.service/", "/none", "/"]
    scan = scanner(tree, *(Selector("sidekiq", cgroups=[cgroup]) for cgroup in asked))
    assert [pool.workers for pool in scan.scan().pools] == [2, 1, 0, 4]


def test_a_better_discovery_that_is_not_to_be_had_is_replaced_and_named(tree: Tree) -> None:
    tree.add(100, sidekiq_title(1), cgroup="/jobs.slice")
    for discovery in ("auto", "cgroup", "ebpf"):
        scan = Scanner(str(tree), discovery, [Selector("sidekiq", cgroups=["/jobs.slice"])], kept_max=10)
        assert scan.refused, discovery
        snapshot = scan.scan()
        assert (snapshot.discovery, snapshot.pools[0].workers) == ("sweep", 1)


def test_pools_share_one_scan_and_count_apart(tree: Tree) -> None:
    tree.add(100, sidekiq_title(1))
    tree.add(101, b"rq:worker:x: Processing f from q since 1", comm="rq:worker:x")
    tree.add(102, b"resque-2.6.0: Waiting for q")
    scan = scanner(tree, Selector("sidekiq"), Selector("rq"), Selector("resque"), detail=True)
    assert [(p.workers, p.busy_processes) for p in scan.scan().pools] == [(1, 1), (1, 1), (1, 0)]
    assert [w.readings for w in scan.workers()] == [
        [(1, 10, False), None, None],
        [None, (1, 1, False), None],
        [None, None, (0, 1, False)],
    ]


def test_what_a_title_holds_costs_no_more_than_that_process(tree: Tree) -> None:
    tree.workers(busy=1)
    hostile = [
        b"",
        b"\0",
        b"sidekiq 7.0.0 caf\xe9 [2 of 5 busy]",
        b"sidekiq 7.0.0 " + b"x" * 4000 + b" [2 of 5 busy]",
        b"sidekiq 7.0.0 " + b"x" * 4096 + b" [2 of 5 busy]",
        b"sidekiq 7.0.0 " + b"[9 of 9 busy]" * 300,
        b"sidekiq 7.0.0 " + b"\xff" * 100_000,
        b"\x1b[2J\nsidekiq 7.0.0 [5 of 5 busy]",
        b"sidekiq 7.0.0 [99999999999999999999 of 99999999999999999999 busy]",
    ]
    for pid, title in enumerate(hostile, 200):
        tree.add(pid, title)
    now = counts(scanner(tree))
    # The 4,096th byte is the last one that is looked at; what is cut there is unparsable, or its last whole bracket.
    assert (now.workers, now.busy_processes, now.unparsable) == (4, 4, 3)


def test_detail_shows_who_was_counted(tree: Tree) -> None:
    tree.add(100, sidekiq_title(1) + b" " + b"x" * 600, uid=1000)
    tree.add(101, b"sidekiq 7.0.0 cut [0 o", ppid=100)
    scan = scanner(tree, detail=True)
    scan.scan()
    worker, cut = scan.workers()
    assert (worker.pid, worker.uid, worker.readings, worker.copy) == (100, 1000, [(1, 10, False)], False)
    assert (len(worker.title), worker.quarantined, worker.age_ms) == (512, False, 0)
    assert (cut.readings, cut.copy, cut.title) == (["unparsable"], True, b"sidekiq 7.0.0 cut [0 o")


FEW_FDS = """
import resource, sys
from agent._scan import Scanner, Selector
resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
scanner = Scanner(sys.argv[1], "sweep", [Selector("sidekiq")], kept_max=16_384)
for _ in range(3):
    snapshot = scanner.scan()
    print(snapshot.visible, snapshot.pools[0].workers, snapshot.pools[0].busy_processes)
"""


def test_all_are_counted_though_file_descriptors_run_out(tree: Tree) -> None:
    tree.workers(busy=50, idle=150)
    told = subprocess.run([sys.executable, "-c", FEW_FDS, str(tree)], capture_output=True, text=True, check=True)
    assert told.stdout.splitlines() == ["True 200 50"] * 3


def test_who_cannot_be_read_for_want_of_any_descriptor_is_not_taken_for_idle(tree: Tree) -> None:
    tree.workers(busy=3)
    scan = scanner(tree, kept_max=0)
    assert busy(scan) == (3, 3)
    with descriptors_left(0):
        snapshot = scan.scan()
    assert not snapshot.visible
    snapshot = scan.scan()
    assert (snapshot.visible, snapshot.pools[0].workers) == (True, 3)
