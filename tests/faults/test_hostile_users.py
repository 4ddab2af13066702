"""What any local user can do with titles and processes: the count of other users' workers stays right, and no poll
waits."""

import json
import os
import random
import shutil
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from agent._scan import HUNG_READERS_MAX, Counts, Scanner, Selector
from tests.cgroups import cgroup, controlled, limit
from tests.farm import Farm, room_for, sidekiq_title
from tests.faults import SOAK, amount
from tests.faults.hostile import holdings, hostile, let_go
from tests.real.parts import Agent, until
from tests.tree import scanner

pytestmark = pytest.mark.root("other users' processes and namespaces are made")

ROOT = Path(__file__).parents[2]
DEADLINE_S = 20.0

MORE_THAN_READERS = HUNG_READERS_MAX + 4

NOBODY = 65534
_names = count()

# As an unprivileged user, but for reading the tests' own interpreter wherever it lies.
UNPRIVILEGED = [
    "setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", "--bounding-set=-all,+dac_read_search",
    "--inh-caps=-all,+dac_read_search", "--ambient-caps=-all,+dac_read_search",
]  # fmt: skip


@pytest.fixture
def comm() -> str:
    """A name that no other process has."""
    return f"bwf{os.getpid() % 100_000}x{next(_names)}"


@pytest.fixture
def farm() -> Iterator[Farm]:
    with Farm() as farm:
        yield farm


def counts(of: Scanner) -> Counts:
    [pool] = of.scan().pools
    return pool


def agent_for(home: Path, workers: str, scan: str = "", *, capacity: int = 10) -> Agent:
    """An agent that scans for every poll, and counts jobs."""
    return Agent(
        home,
        f'{workers}\n[scan]\nfresh_for = "100ms"\nmin_gap = "0ms"\nmax_duty = "100%"\nwait_at_most = "900ms"\n{scan}\n'
        f'[weight]\ncount = "threads"\ncapacity = {capacity}\n[reply]\non_stop = "keep"\n',
    )


# Titles.


def test_filters_hold_whatever_a_stranger_calls_itself_and_without_them_it_counts(farm: Farm, comm: str) -> None:
    with cgroup("busyweight-ours") as ours, Farm() as other_farm:
        (ours / "cgroup.procs").write_text(str(farm.pid))
        farm.spawn(3, comm=comm, title=sidekiq_title(1))
        for title in (sidekiq_title(10), sidekiq_title(0), b"sidekiq 7.3.0 x [busy]"):
            other_farm.spawn(20, comm=comm, title=title, uid=NOBODY)
            other_farm.spawn(5, comm="x" + comm[:10], title=title)
        selectors = [
            Selector("sidekiq", comm=[comm]),
            Selector("sidekiq", comm=[comm], users=[0]),
            Selector("sidekiq", comm=[comm], cgroups=[f"/{ours.name}"]),
        ]
        unfiltered, users, cgroups = scanner("/proc", *selectors).scan().pools
        assert (users.workers, users.busy_threads, users.unparsable) == (3, 3, 0)
        assert (cgroups.workers, cgroups.busy_threads, cgroups.unparsable) == (3, 3, 0)
        assert (unfiltered.workers, unfiltered.busy_threads) == (43, 203)
        farm.close()


def test_a_program_with_its_owners_rights_is_still_the_one_who_started_it(farm: Farm, comm: str) -> None:
    farm.spawn(3, comm=comm, title=sidekiq_title(1))
    with TemporaryDirectory() as place:
        Path(place).chmod(0o755)
        program = Path(place) / comm
        shutil.copy("/bin/sleep", program)
        program.chmod(0o4755)
        stranger = subprocess.Popen([sidekiq_title(9), "600"], executable=program, user=NOBODY)
        try:
            status = Path(f"/proc/{stranger.pid}/status")
            until(lambda: f"Uid:\t{NOBODY}\t0\t" in status.read_text(), "it has root's rights", DEADLINE_S)
            selectors = [Selector("sidekiq", comm=[comm], users=users) for users in ([0], [NOBODY], [0, NOBODY], [])]
            ours, theirs, both, anyones = scanner("/proc", *selectors).scan().pools
            assert [pool.workers for pool in (ours, theirs, both, anyones)] == [3, 0, 4, 4]
        finally:
            stranger.kill()
            stranger.wait()


@pytest.mark.parametrize("way", ["unmapped", "file", "userfaultfd"])
def test_a_title_on_memory_that_is_not_there_holds_nobody_up(way: str, farm: Farm, comm: str, tmp_path: Path) -> None:
    farm.spawn(3, comm=comm, title=sidekiq_title(1))
    with ExitStack() as stack:
        them = [stack.enter_context(hostile(way, comm, sidekiq_title(9))) for _ in range(20)]
        with agent_for(tmp_path, f'[workers]\ncomm = ["{comm}"]') as agent:
            agent.wait_answer(b"up 70% #3/10 busy\n", DEADLINE_S)
            if way == "userfaultfd":
                for process in them:
                    let_go(process)
                # Their titles can be read again, and are as true as anybody's.
                agent.wait_answer(b"up 0% #183/10 busy\n", 60.0)


@contextmanager
def holders(count: int, comm: str) -> Iterator[list[subprocess.Popen[bytes]]]:
    """Other users' processes whose memory lock is held by a file on an unresponsive server: readers of their titles
    hang until it responds."""
    with ExitStack() as stack:
        yield [stack.enter_context(hostile("fuse", comm, sidekiq_title(9))) for _ in range(count)]


def readers_that_hang(agent: Agent) -> int:
    hang = json.loads(agent.order("status", "--json"))["scanner"]["hung_readers"]
    assert isinstance(hang, int)
    return hang


def test_strangers_who_hold_readers_up_cost_one_reader_each(farm: Farm, comm: str, tmp_path: Path) -> None:
    """Whom no filter keeps out may be a worker, with as many jobs as others: three jobs of 50 leave the host free
    whatever three strangers do, and 21 do not."""
    workers = farm.spawn(3, comm=comm, title=sidekiq_title(1))
    with (
        holders(3, comm) as them,
        agent_for(tmp_path, f'[workers]\ncomm = ["{comm}"]', capacity=50) as agent,
    ):
        agent.wait_answer(b"up 94% #3/50 busy\n", DEADLINE_S)
        assert readers_that_hang(agent) == 3
        farm.retitle(dict.fromkeys(workers, sidekiq_title(6)))
        agent.wait_answer(b"up 64% #18/50 busy\n", DEADLINE_S)
        farm.retitle(dict.fromkeys(workers, sidekiq_title(7)))
        agent.wait_answer(b"up #cannot read 3 workers\n", DEADLINE_S)
        for process in them:
            let_go(process)
        agent.wait_answer(b"up 4% #48/50 busy\n", 60.0)
        assert readers_that_hang(agent) == 0


def test_where_more_strangers_hold_readers_up_than_there_are_the_answer_is_unknown(
    farm: Farm, comm: str, tmp_path: Path
) -> None:
    farm.spawn(3, comm=comm, title=sidekiq_title(1))
    with agent_for(tmp_path, f'[workers]\ncomm = ["{comm}"]', 'give_up_after = "2s"') as agent:
        agent.wait_answer(b"up 70% #3/10 busy\n", DEADLINE_S)
        with holders(MORE_THAN_READERS, comm):
            agent.wait_answer(b"up #no sample of late\n", DEADLINE_S)
        agent.wait_answer(b"up 70% #3/10 busy\n", DEADLINE_S)


def test_strangers_whom_a_filter_keeps_out_get_no_reader_to_hold_up(farm: Farm, comm: str, tmp_path: Path) -> None:
    """Neither at first sight nor when they are looked at again."""
    workers = farm.spawn(3, comm=comm, title=sidekiq_title(1))
    with (
        holders(MORE_THAN_READERS, comm),
        agent_for(tmp_path, f'[workers]\ncomm = ["{comm}"]\nusers = ["root"]') as agent,
    ):
        for busy in (1, 2, 0, 1):
            farm.retitle(dict.fromkeys(workers, sidekiq_title(busy)))
            agent.wait_answer(b"up %d%% #%d/10 busy\n" % (100 - 30 * busy, 3 * busy), DEADLINE_S)
            time.sleep(1.1)
        assert readers_that_hang(agent) == 0


def test_mprotect_storms_of_many_workers_leave_the_others_right(farm: Farm, comm: str, tmp_path: Path) -> None:
    held = farm.spawn(4, comm=comm, title=sidekiq_title(1))
    [free] = farm.spawn(1, comm=comm, title=sidekiq_title(2))
    with agent_for(tmp_path, f'[workers]\ncomm = ["{comm}"]') as agent:
        agent.wait_answer(b"up 40% #6/10 busy\n", DEADLINE_S)
        for pid in held:
            farm.hold_mmap_lock(pid, mapping_mib=512)
        for busy in (0, 1, 2, 0):
            farm.retitle({free: sidekiq_title(busy)})
            agent.wait_answer(b"up %d%% #%d/10 busy\n" % (60 - 10 * busy, 4 + busy), DEADLINE_S)
        for pid in held:
            farm.release(pid)
        farm.kill(held)
        agent.wait_answer(b"up 100% #0/10 busy\n", DEADLINE_S)


def test_thousands_that_retitle_themselves_all_the_time_are_read_whole(farm: Farm, comm: str) -> None:
    """Each shows 3 of 10 or 10 of 10. Nothing keeps the kernel from copying a title while it is being written, and no
    reader can tell, so one reading in a thousand may be a mixture. One whose memory lock is held too long on a busy
    machine is quarantined, and counts with what it showed last."""
    members = int(amount(2000, 20_000))
    with room_for(members):
        pids = farm.spawn(members, comm=comm, title=sidekiq_title(3))
        scan = scanner("/proc", Selector("sidekiq", comm=[comm]), kept_max=members, detail=True)
        stop = threading.Event()

        def retitle() -> None:
            busy = 3
            while not stop.is_set():
                busy = 13 - busy
                farm.retitle(dict.fromkeys(pids, sidekiq_title(busy)))

        writer = threading.Thread(target=retitle)
        writer.start()
        try:
            read: Counter[object] = Counter()
            changes = 0
            before: dict[int, object] = {}
            for _ in range(int(amount(30, 100))):
                scan.scan()
                shown: dict[int, object] = {worker.pid: worker.readings[0] for worker in scan.workers()}
                changes += len(shown.items() - before.items()) > members // 100
                read.update(shown.values())
                before = shown
            whole = read[3, 10, False] + read[10, 10, False]
            assert whole > 0.999 * read.total() > 0.9 * members * amount(30, 100), read
            assert changes > 10, "nothing changed: nothing was tried"
        finally:
            stop.set()
            writer.join()
        farm.close()


# Processes.


@pytest.mark.timeout(900)
def test_short_lived_processes(farm: Farm, comm: str, tmp_path: Path) -> None:
    """They change neither the count nor what the agent holds in memory and descriptors."""
    wanted = int(amount(10_000, 1_000_000))
    farm.spawn(4, comm=comm, title=sidekiq_title(1))
    with agent_for(tmp_path, f'[workers]\ncomm = ["{comm}*"]') as agent, Farm() as executes, Farm() as forks:
        agent.wait_answer(b"up 60% #4/10 busy\n", DEADLINE_S)
        before = holdings(agent.pid)
        started: list[int] = []

        def churn() -> None:
            late_s = time.monotonic() + 480
            while sum(started) < wanted and time.monotonic() < late_s:
                pids = executes.churn(3000, 2, comm=f"{comm}-0"), forks.churn(6000, 2, comm=f"{comm}-1", fork_only=True)
                started.extend((executes.churned(pids[0]), forks.churned(pids[1])))

        churned = threading.Thread(target=churn)
        churned.start()
        answers = set()
        while churned.is_alive():
            answers.add(agent.ask())
        churned.join()
        assert answers == {b"up 60% #4/10 busy\n"}
        assert sum(started) >= wanted
        agent.wait_answer(b"up 60% #4/10 busy\n", DEADLINE_S)
        after = holdings(agent.pid)
    assert after["rss_kib"] - before["rss_kib"] < 8 * 1024
    assert after["threads"] <= before["threads"] + 4  # readers come when they are needed, and stay
    assert after["files"] <= before["files"] + 16


def isolated(*unshare: str) -> list[str]:
    return ["unshare", "--fork", "--kill-child", *unshare]


@pytest.mark.timeout(900)
def test_a_pid_used_again_is_never_taken_for_who_had_it_before(comm: str) -> None:
    rounds = int(amount(200, 10_000))
    command = [sys.executable, "-m", "tests.faults.inside", "reuse_pids", comm, str(rounds)]
    done = subprocess.run(
        [*isolated("--pid", "--mount-proc"), *command], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"reused {rounds} of {rounds}\n"


def test_a_fork_bomb_below_a_pid_limit(farm: Farm, comm: str, tmp_path: Path) -> None:
    """Polls are answered, with the true count or unknown."""
    with controlled("pids", "busyweight-bomb") as pids, cgroup("busyweight-bomb-end") as end, cgroup("bw-ours") as ours:
        limit(pids, pids_max=str(int(amount(100, 2000))))
        (ours / "cgroup.procs").write_text(str(farm.pid))
        farm.spawn(4, comm=comm, title=sidekiq_title(1))
        workers = f'[workers]\ncomm = ["{comm}"]\ncgroups = ["/{ours.name}"]'
        with agent_for(tmp_path, workers) as agent:
            agent.wait_answer(b"up 60% #4/10 busy\n", DEADLINE_S)
            with hostile("bomb", comm, sidekiq_title(9), cgroups=(pids, end)):
                try:
                    full = int(amount(80, 1900))
                    until(lambda: len((end / "cgroup.procs").read_text().split()) > full, "the bomb is off", DEADLINE_S)
                    # It takes all the processor's time there is. Who waits for that does not hang; but where two
                    # thousand want it, a sample can be long in coming.
                    said = {agent.ask() for _ in range(int(amount(50, 2000)))}
                    assert said - {b"up 60% #4/10 busy\n"} <= ({b"up #no sample of late\n"} if SOAK else set())
                finally:
                    (end / "cgroup.kill").write_text("1")
            until(lambda: not (end / "cgroup.procs").read_text(), "the bomb is gone", DEADLINE_S)
            agent.wait_answer(b"up 60% #4/10 busy\n", DEADLINE_S)
        farm.close()
        until(lambda: not (ours / "cgroup.procs").read_text(), "the workers are gone", DEADLINE_S)


def test_a_frozen_or_stopped_worker_counts_as_it_did_and_holds_nobody_up(farm: Farm, comm: str) -> None:
    with cgroup("busyweight-frozen") as frozen:
        (frozen / "cgroup.procs").write_text(str(farm.pid))
        farm.spawn(3, comm=comm, title=sidekiq_title(1))
        (frozen / "cgroup.freeze").write_text("1")
        try:
            until(lambda: "frozen 1" in (frozen / "cgroup.events").read_text(), "all are frozen", DEADLINE_S)
            now = counts(scanner("/proc", Selector("sidekiq", comm=[comm])))
            assert (now.workers, now.readable, now.busy_threads, now.quarantined) == (3, 3, 3, 0)
        finally:
            (frozen / "cgroup.freeze").write_text("0")
        farm.close()


def test_random_churn_is_counted_right(farm: Farm, comm: str) -> None:
    """Workers die, stop, freeze, fork and change their titles at random; each pause finds the right count."""
    dice = random.Random(7)
    scan = scanner("/proc", Selector("sidekiq", comm=[comm]))
    busy: dict[int, int] = {}
    stopped: set[int] = set()
    for _ in range(int(amount(150, 3000))):
        free = sorted(busy.keys() - stopped)
        choice = dice.choice(["spawn", "spawn", "kill", "stop", "resume", "retitle", "zombie", "copies"])
        if choice == "spawn" and len(busy) < 200:
            n = dice.randint(0, 10)
            busy |= dict.fromkeys(farm.spawn(dice.randint(1, 5), comm=comm, title=sidekiq_title(n)), n)
        elif choice == "resume":
            farm.resume(sorted(stopped))
            stopped.clear()
        elif free and choice in ("kill", "zombie"):
            pids = dice.sample(free, min(3, len(free)))
            if choice == "zombie":
                farm.zombify(pids)
                scan.scan()
                scan.scan()
            farm.kill(pids)
            busy = {pid: n for pid, n in busy.items() if pid not in pids}
        elif free and choice == "stop":
            stopped.add(free[0])
            farm.stop(free[:1])
        elif free and choice == "retitle":
            busy |= {pid: dice.randint(0, 10) for pid in dice.sample(free, min(5, len(free)))}
            farm.retitle({pid: sidekiq_title(n) for pid, n in busy.items() if pid not in stopped})
        elif free and choice == "copies":
            farm.kill(farm.fork_copies(free[0], 2))
        now = counts(scan)
        assert (now.workers, now.busy_threads) == (len(busy), sum(busy.values())), choice


# Blindness.


@contextmanager
def blind(options: str) -> Iterator[list[str]]:
    """The beginning of a command that runs unprivileged in a mount namespace with such a /proc."""
    mount = f"umount -l /proc; {options}" if options else "umount -l /proc"
    yield ["unshare", "--mount", "sh", "-c", f'{mount}; exec "$@"', "sh", *UNPRIVILEGED]


def check(
    prefix: list[str], config: str, *words: str, python: str = sys.executable
) -> subprocess.CompletedProcess[str]:
    command = [*prefix, python, "-m", "agent", "check", "--config", config, *words]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT / "python", timeout=60)


@pytest.fixture
def config(tmp_path: Path, comm: str) -> str:
    path = tmp_path / "busyweight.toml"
    path.write_text(f'[workers]\ncomm = ["{comm}"]\n[weight]\ncapacity = 10\n')
    return str(path)


MOUNT = "mount -t proc -o {} proc /proc"


def test_the_same_unprivileged_user_sees_all_where_nothing_is_hidden(farm: Farm, comm: str, config: str) -> None:
    farm.spawn(3, comm=comm, title=sidekiq_title(1))
    with blind(MOUNT.format("hidepid=0")) as prefix:
        done = check(prefix, config)
    assert (done.stdout, done.returncode) == ("up 70% #3/10 busy\n", 0), done.stderr


@pytest.mark.parametrize("options", ["hidepid=1", "hidepid=2", "hidepid=ptraceable", "hidepid=2,subset=pid"])
def test_processes_that_are_hidden_are_unknown_and_never_idle(farm: Farm, comm: str, config: str, options: str) -> None:
    farm.spawn(3, comm=comm, title=sidekiq_title(1))
    with blind(MOUNT.format(options)) as prefix:
        done = check(prefix, config)
    assert (done.stdout, done.returncode) == ("up #cannot see processes\n", 1), done.stderr
    assert "Traceback" not in done.stderr


def test_proc_with_processes_alone_is_enough(farm: Farm, comm: str, config: str) -> None:
    farm.spawn(3, comm=comm, title=sidekiq_title(1))
    with blind(MOUNT.format("subset=pid")) as prefix:
        done = check(prefix, config)
    assert (done.stdout, done.returncode) == ("up 70% #3/10 busy\n", 0), done.stderr
    assert "Traceback" not in done.stderr


def test_without_proc_it_says_so_and_never_that_the_host_is_idle(farm: Farm, comm: str, config: str) -> None:
    farm.spawn(3, comm=comm, title=sidekiq_title(1))
    with blind("") as prefix:
        done = check(prefix, config)
    assert done.returncode == 1, done
    assert "%" not in done.stdout
    assert "Traceback" not in done.stderr
    assert len(done.stdout.splitlines() + done.stderr.splitlines()) <= 2, done


def test_proc_hidden_while_running(farm: Farm, comm: str, tmp_path: Path) -> None:
    """From the next scan on the state is unknown."""
    farm.spawn(3, comm=comm, title=sidekiq_title(1))
    agent = agent_for(tmp_path, f'[workers]\ncomm = ["{comm}"]')
    tmp_path.chmod(0o777)
    agent.home.chmod(0o777)
    for above in tmp_path.parents[:2]:
        above.chmod(above.stat().st_mode | 0o055)
    with blind(MOUNT.format("hidepid=0")) as prefix:
        argv = [*prefix, *agent.argv()]
    agent.argv = lambda: argv  # type: ignore[method-assign]

    def remount(options: str) -> None:
        enter = ["nsenter", f"--mount=/proc/{agent.pid}/ns/mnt", "mount", "-o", f"remount,{options}", "/proc"]
        subprocess.run(enter, check=True)

    with agent:
        agent.wait_answer(b"up 70% #3/10 busy\n", DEADLINE_S)
        remount("hidepid=2")
        agent.wait_answer(b"up #cannot see processes\n", DEADLINE_S)
        remount("hidepid=0")
        agent.wait_answer(b"up 70% #3/10 busy\n", DEADLINE_S)
