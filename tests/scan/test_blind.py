"""What cannot be seen is never idle: pid namespaces, forbidden files, leaders that ended, copies, clocks."""

import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from agent._scan import Counts, Scanner, Selector
from tests.farm import sidekiq_title
from tests.missing import need
from tests.real.parts import until
from tests.tree import Tree, scanner

DEADLINE_S = 20.0

# The first thread ends, and the others work on; the kernel then shows no cmdline for the process.
LEADERLESS = """
import ctypes, sys, threading, time
from setproctitle import setproctitle
setproctitle(sys.argv[1])
threading.Thread(target=lambda: time.sleep(600)).start()
print("ready", flush=True)
ctypes.CDLL(None).syscall({"x86_64": 60}.get(__import__("os").uname().machine, 93), 0)
"""


def counted(of: Scanner) -> Counts:
    return of.scan().pools[0]


@pytest.mark.root("a pid namespace is made")
def test_in_a_pid_namespace_of_its_own_no_worker_is_not_idle(tmp_path: Path) -> None:
    unshare = need("unshare", "util-linux")
    inside = [unshare, "--pid", "--fork", "--mount-proc", sys.executable, "-m", "agent", "check", "--config"]
    config = tmp_path / "busyweight.toml"
    config.write_text("[weight]\ncapacity = 24\n[workers]\nnow = 'titles'\n")
    blind = subprocess.run([*inside, config], capture_output=True, text=True, check=False)
    assert (blind.stdout, blind.returncode) == ("up #sees no workers, nor the whole host\n", 1)
    config.write_text(config.read_text() + "[scan]\npid_namespace = 'any'\n")
    told = subprocess.run([*inside, config], capture_output=True, text=True, check=False)
    assert (told.stdout, told.returncode) == ("up 100% #0/24 busy\n", 0)


def test_the_whole_host_is_seen_here_and_in_a_tree_of_files(tree: Tree) -> None:
    assert Scanner("/proc", "sweep", [Selector("sidekiq")], kept_max=10).scan().whole
    assert scanner(tree).scan().whole


def test_workers_that_must_not_be_read_are_counted_where_they_may_belong(tree: Tree) -> None:
    tree.workers(busy=1, idle=3)
    tree.add(200, sidekiq_title(1), comm="other")
    tree.forbid(100)
    tree.forbid(101, "comm")
    tree.forbid(200)
    scans = scanner(tree, Selector("sidekiq"), Selector("sidekiq", users=[1]))
    snapshot = scans.scan()
    assert [pool.unread for pool in snapshot.pools] == [2, 1], "a name that is not told may be any pool's"
    assert snapshot.pools[0].workers == 2


@pytest.fixture
def leaderless() -> Iterator[int]:
    process = subprocess.Popen([sys.executable, "-c", LEADERLESS, "myworker leaderless [3/5]"], stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    until(lambda: "Z" in Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2], "it ended", DEADLINE_S)
    yield process.pid
    process.kill()
    process.wait()
    process.stdout.close()


def test_a_worker_whose_first_thread_has_ended_still_counts(leaderless: int) -> None:
    pattern = r"^myworker leaderless \[(?P<busy>\d)/(?P<total>\d)\]"
    scans = Scanner("/proc", "sweep", [Selector("custom", pattern=pattern)], kept_max=10)
    for _ in range(3):
        assert counted(scans).busy_threads == 3
    assert Path(f"/proc/{leaderless}/cmdline").read_bytes() == b""


def test_a_copy_whose_parent_is_gone_is_told_by_its_threads(tree: Tree) -> None:
    tree.add(100, sidekiq_title(1), threads=15)
    tree.add(101, sidekiq_title(1), threads=1)
    tree.add(102, sidekiq_title(1), threads=1, ppid=100)
    tree.add(103, sidekiq_title(1))
    counts = counted(scanner(tree))
    assert (counts.workers, counts.copies) == (2, 2), "how many threads 103 has is not told"


def test_a_reused_pid_is_not_the_copy_that_was_there(tree: Tree) -> None:
    tree.add(100, sidekiq_title(1), threads=15)
    tree.add(101, sidekiq_title(1), threads=1, ppid=100)
    scans = scanner(tree, kept_max=0)
    assert counted(scans).copies == 1
    tree.remove(101)
    tree.add(101, sidekiq_title(0), threads=15, started=4242)
    until(lambda: counted(scans).workers == 2, "it is looked at again", 45.0)


def within(work: Callable[[], object], seconds: float = DEADLINE_S) -> None:
    """It ends in time, on its own thread."""
    done = threading.Event()

    def run() -> None:
        work()
        done.set()

    threading.Thread(target=run, daemon=True).start()
    assert done.wait(seconds), "it waits"


def test_a_scan_that_hangs_before_it_reads_a_title_keeps_nobody_waiting(tree: Tree) -> None:
    tree.hide()
    comm = tree.root / "1/comm"
    subprocess.run([need("mkfifo", "coreutils"), comm], check=True)
    scans = [scanner(tree)]
    scans[0].start()
    within(lambda: scans[0].discovery)
    within(scans[0].check_deadline)
    successor = Scanner("/proc", "sweep", [Selector("sidekiq")], kept_max=10, former=scans[0])
    within(scans.clear)
    assert successor.scan().visible
    comm.write_text("systemd\n")  # lets the reader go
