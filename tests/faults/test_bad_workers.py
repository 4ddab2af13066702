"""Workers that end, stop, or get another owner's pid between two looks, and kernels that hide CPU times: busy workers
count, and nothing else.

Each test also shows that the same worker counts while nothing is wrong with it.
"""

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent._scan import Counts, Scanner, Selector
from agent.tools.doctor import polls
from tests.cgroups import cgroup
from tests.farm import Farm, sidekiq_title
from tests.prompt import Run
from tests.real.parts import Mortal, until
from tests.scan.burning import BURNS, looked, of
from tests.tree import Tree, TreeAgent

DEADLINE_S = 20.0
NOBODY = 65534
IDLE = sidekiq_title(0)


@pytest.fixture
def farm() -> Iterator[Farm]:
    with Farm() as farm:
        yield farm


@pytest.fixture
def comm() -> str:
    """A name that no other process has."""
    return f"bwbad{os.getpid() % 1_000_000}"


def hurry(pid: int) -> None:
    """Gives it priority over the machine's other work, if permitted, so that it gets the CPU time it should use."""
    with contextlib.suppress(PermissionError):
        os.sched_setscheduler(pid, os.SCHED_RR, os.sched_param(1))


def burn(farm: Farm, pid: int) -> int:
    hurry(pid)
    farm.burn([pid], 50)
    return pid


def scanner(comm: str, *users: int) -> Scanner:
    selector = Selector("sidekiq", comm=[comm], users=list(users), now=True)
    return Scanner("/proc", "sweep", [selector], kept_max=100, detail=True)


def wait_untitled(scans: Scanner, untitled: int) -> Counts:
    """Scans until so many workers are busy by CPU time alone."""
    last: list[Counts] = []

    def so() -> bool:
        last[:] = [looked(scans)]
        return last[0].untitled == untitled

    until(so, f"{untitled} work unsaid", DEADLINE_S, lambda: str(last))
    return last[0]


@pytest.fixture
def burner(farm: Farm, comm: str) -> int:
    """A worker that uses CPU while its title says idle."""
    return burn(farm, farm.spawn(comm=comm, title=IDLE)[0])


@pytest.mark.parametrize("how", ["kill", "zombify"])
def test_worker_that_ends_while_it_works_counts_no_more(farm: Farm, comm: str, burner: int, how: str) -> None:
    scans = scanner(comm)
    wait_untitled(scans, 1)
    getattr(farm, how)([burner])
    scans.scan()  # a zombie's title is empty, and must be so twice
    counts = scans.scan().pools[0]
    assert (counts.workers, counts.untitled) == (0, 0)


@pytest.mark.root("a pid namespace is made")
def test_pid_that_another_worker_got_begins_anew(comm: str) -> None:
    own = ["unshare", "--fork", "--pid", "--mount-proc", "--kill-child"]
    command = [sys.executable, "-m", "tests.faults.inside", "reuse_a_working_pid", comm]
    done = subprocess.run([*own, *command], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "untitled 1 of itself, 0 of another\n"), done.stderr


def test_stopped_worker_rests_until_it_goes_on(farm: Farm, comm: str, burner: int) -> None:
    scans = scanner(comm)
    wait_untitled(scans, 1)
    farm.stop([burner])
    assert wait_untitled(scans, 0).workers == 1
    farm.resume([burner])
    wait_untitled(scans, 1)


def test_frozen_worker_rests_until_it_is_thawed(comm: str, burner: int) -> None:
    scans = scanner(comm)
    wait_untitled(scans, 1)
    with cgroup("busyweight-frozen") as group:
        (group / "cgroup.procs").write_text(str(burner))
        try:
            (group / "cgroup.freeze").write_text("1")
            until(lambda: "frozen 1" in (group / "cgroup.events").read_text(), "it is frozen", DEADLINE_S)
            assert wait_untitled(scans, 0).workers == 1
            (group / "cgroup.freeze").write_text("0")
            wait_untitled(scans, 1)
        finally:
            (group / "cgroup.freeze").write_text("0")
            (group.parent / "cgroup.procs").write_text(str(burner))


@pytest.fixture
def contained() -> Iterator[int]:
    """A worker that burns in a pid namespace of its own, as pid 1 of that; its pid is here."""
    own = ["unshare", "--fork", "--pid", "--mount-proc", "--kill-child"]
    with subprocess.Popen([*own, sys.executable, "-c", BURNS, IDLE], stdout=subprocess.PIPE) as outer:
        assert outer.stdout is not None
        assert outer.stdout.readline() == b"ready\n"
        pid = int(Path(f"/proc/{outer.pid}/task/{outer.pid}/children").read_text())
        hurry(pid)
        os.kill(pid, signal.SIGUSR1)
        yield pid
        outer.kill()


@pytest.mark.root("a pid namespace is made")
def test_worker_in_a_pid_namespace_of_its_own_is_seen_from_here_and_from_there(contained: int) -> None:
    selector = Selector("sidekiq", comm=["*"], now=True)
    here = Scanner("/proc", "sweep", [selector], kept_max=100, detail=True)
    until(lambda: (looked(here), of(contained, here)[0])[1], "it works, seen from here", DEADLINE_S)
    # There it is pid 1, which here is another process.
    there = Scanner(f"/proc/{contained}/root/proc", "sweep", [selector], kept_max=100, detail=True)
    until(lambda: (looked(there), of(1, there)[0])[1], "it works, seen from there", DEADLINE_S)
    os.kill(contained, signal.SIGUSR2)
    until(lambda: (looked(there), not of(1, there)[0])[1], "it rests, seen from there", DEADLINE_S)


@pytest.mark.root("another user's process is started")
def test_false_title_that_burns_counts_for_nobody_who_names_other_users(farm: Farm, comm: str) -> None:
    [liar] = farm.spawn(comm=comm, title=IDLE, uid=NOBODY)
    burn(farm, liar)
    users, root = scanner(comm, NOBODY), scanner(comm, 0)
    wait_untitled(users, 1)
    looked(root)
    counts = looked(root, windows=3)
    assert (counts.workers, counts.untitled, counts.cores_milli) == (0, 0, 0)


class Refused(Mortal):
    """An agent to which the kernel refuses clocks."""

    def argv(self) -> list[str]:
        return [sys.executable, "-m", "tests.faults.no_clocks", *super().argv()]

    def environment(self) -> dict[str, str]:
        return super().environment() | {"PYTHONPATH": str(Path(__file__).parents[2])}


def refused_scan(comm: str) -> str:
    """How a scanner sees CPU times if clocks are refused: how many it misses, and which workers it finds busy."""
    program = (
        "import sys; from agent._scan import Scanner, Selector; from tests.scan.burning import looked\n"
        "scans = Scanner('/proc', 'sweep', [Selector('sidekiq', comm=[sys.argv[1]], now=True)], kept_max=100)\n"
        "while not looked(scans).untitled: pass\n"
        "print(scans.scan().cpu_untold)"
    )
    command = [sys.executable, "-m", "tests.faults.no_clocks", sys.executable, "-c", program, comm]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=DEADLINE_S * 2).stdout


def test_where_clocks_are_refused_workers_are_seen_by_their_stat_files(
    tmp_path: Path, farm: Farm, comm: str, burner: int
) -> None:
    assert refused_scan(comm) == "0\n"
    config = f'[workers]\ncomm = ["{comm}"]\n[weight]\ncapacity = 2\n[scan]\nfresh_for = "200ms"\n'
    with Refused(tmp_path, config) as agent:
        agent.wait_answer(b"up 50% #1/2 busy, 1 untitled\n", DEADLINE_S)
        farm.rest([burner])
        agent.wait_answer(b"up 100% #0/2 busy\n", DEADLINE_S)
    assert "CPU time" not in agent.log_text()


def test_unreadable_cpu_time(tmp_path: Path, here: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """If CPU times cannot be read, only titles count; the log says so once, and so does doctor."""
    monkeypatch.setattr(polls, "WATCH_S", 0.3)
    monkeypatch.setattr(polls, "RARE_S", 0.3)
    tree = Tree(tmp_path / "proc")
    for pid in tree.workers(busy=1, idle=2):
        tree.forbid(pid, "stat")
    config = (
        f'[scan]\nprocfs = "{tree}"\nfresh_for = "0ms"\nmin_gap = "0ms"\nmax_duty = "100%"\n[weight]\ncapacity = 4\n'
    )
    with TreeAgent(tmp_path, tree, config) as agent:
        for _ in range(20):
            agent.wait_answer(b"up 75% #1/4 busy\n")
        assert agent.log_text().count("cannot read the CPU time of 3 workers") == 1, agent.evidence()
        told = here("doctor", "--config", agent.config_file, "--control", agent.control).out.decode()
        assert told.count("the CPU time of 3 workers cannot be read") == 1, told
        tree.retitle(101, sidekiq_title(1))
        agent.wait_answer(b"up 50% #2/4 busy\n")
    assert agent.log_text().count("CPU time") == 1
