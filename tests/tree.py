"""A directory that looks like /proc to the agent, for tests that decide what processes there are.

Titles are rewritten in place, as a kept-open file of the real /proc would show them. A FIFO for a `cmdline`
stands for a process whose memory lock is held: who opens it hangs until `feed`. Nothing here runs or reads
any process.
"""

import errno
import os
import shutil
import signal
from pathlib import Path
from typing import ClassVar, Self, TypeVar

from agent._scan import HUNG_READERS_MAX, Scanner, Selector
from tests.farm import sidekiq_title
from tests.real.parts import Agent, until

HANG_DEADLINE_S = 10.0


class Tree:
    """The tree; pid 1 is there from the start, so that it is visible."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.add(1, b"/sbin/init", comm="systemd", ppid=0)

    def __str__(self) -> str:
        return str(self.root)

    def add(
        self,
        pid: int,
        title: bytes,
        *,
        comm: str = "ruby",
        ppid: int = 1,
        uid: int = 0,
        cgroup: str = "/",
        threads: int = 0,
        started: int = 0,
    ) -> int:
        """One more process; 0 threads are not told. `started` is in hundredths of a second after boot."""
        home = self.root / str(pid)
        home.mkdir(parents=True)
        (home / "cmdline").write_bytes(title)
        (home / "stat").write_text(_stat(pid, comm, ppid, 0, threads=threads, started=started))
        (home / "status").write_text(f"Name:\t{comm}\nPPid:\t{ppid}\nUid:\t{uid}\t{uid}\t0\t0\n")
        (home / "cgroup").write_text(f"0::{cgroup}\n")
        # Last, so that a scan that comes meanwhile sees a whole process or one that is gone.
        (home / "comm").write_text(f"{comm}\n")
        return pid

    def workers(self, busy: int, idle: int = 0, *, first: int = 100) -> list[int]:
        """So many Sidekiqs, with one job or none; pids from `first` on."""
        counts = [1] * busy + [0] * idle
        return [self.add(first + i, sidekiq_title(n)) for i, n in enumerate(counts)]

    def retitle(self, pid: int, title: bytes) -> None:
        """In place; a reader sees the old title or the new one, whole."""
        with (self.root / str(pid) / "cmdline").open("r+b", buffering=0) as cmdline:
            cmdline.write(title + b"\0")
            cmdline.truncate()

    def work(self, pid: int, cpu_s: float, *, comm: str = "ruby", ppid: int = 1) -> None:
        """From now on it has taken so much CPU time, in seconds; a reader sees the old number or the new one."""
        with (self.root / str(pid) / "stat").open("r+b", buffering=0) as stat:
            stat.write(_stat(pid, comm, ppid, cpu_s).encode())

    def rename(self, pid: int, comm: str) -> None:
        (self.root / str(pid) / "comm").write_text(f"{comm}\n")

    def remove(self, *pids: int) -> None:
        for pid in pids:
            shutil.rmtree(self.root / str(pid))

    def hide(self) -> None:
        """As under hidepid: pid 1 cannot be read."""
        (self.root / "1/comm").unlink()

    def show(self) -> None:
        (self.root / "1/comm").write_text("systemd\n")

    def forbid(self, pid: int, name: str = "cmdline") -> None:
        """Makes a file that must not be read, even by root."""
        (self.root / str(pid) / name).unlink()
        (self.root / str(pid) / name).mkdir()

    def add_hanging(self, pid: int) -> int:
        """A process whose memory lock is held: whoever reads its title hangs."""
        os.mkfifo(self.root / f"{pid}.fifo")
        self.add(pid, b"")
        (self.root / f"{pid}.fifo").rename(self.root / str(pid) / "cmdline")
        return pid

    def hang_scans(self) -> list[int]:
        """As many such processes as it takes for a scan to hang: every reader does, and there may be no more."""
        return [self.add_hanging(200 + i) for i in range(HUNG_READERS_MAX + 1)]

    def feed(self, pid: int, title: bytes) -> None:
        """The reader that hangs there gets this title; the next one hangs again."""
        until(lambda: _write(self.root / str(pid) / "cmdline", title), f"a reader hangs at {pid}", HANG_DEADLINE_S)

    def heal(self, pid: int, title: bytes) -> None:
        """The lock is free: the reader that hangs there, and all later ones, get this title."""
        cmdline = self.root / str(pid) / "cmdline"
        healed = cmdline.with_name("healed")
        healed.write_bytes(title)
        fifo = cmdline.rename(cmdline.with_name("fifo"))
        healed.rename(cmdline)
        _write(fifo, title)


def _stat(pid: int, comm: str, ppid: int, cpu_s: float, *, threads: int = 0, started: int = 0) -> str:
    """Of one length, whatever the time: utime is the 14th field, in hundredths of a second."""
    return f"{pid} ({comm}) S {ppid}{' 0' * 9} {round(cpu_s * 100):>12}{' 0' * 5} {threads} 0 {started}\n"


def _write(fifo: Path, title: bytes) -> bool:
    """Writes it for the reader that hangs there; False if nobody does."""
    try:
        fd = os.open(fifo, os.O_WRONLY | os.O_NONBLOCK)
    except OSError as error:
        if error.errno == errno.ENXIO:
            return False
        raise
    os.write(fd, title)
    os.close(fd)
    return True


def scanner(tree: Tree | str, *selectors: Selector, kept_max: int = 1000, detail: bool = False) -> Scanner:
    """A scanner of the tree, for all Sidekiqs if nothing else is said."""
    return Scanner(str(tree), "sweep", list(selectors) or [Selector("sidekiq")], kept_max=kept_max, detail=detail)


class TreeAgent(Agent):
    """`busyweight serve` in a tree; `environ` comes on top of the test's own environment."""

    def __init__(self, home: Path, tree: Tree, config: str = "", **environ: str) -> None:
        super().__init__(home, config)
        self.tree = tree
        self.environ = environ

    def argv(self) -> list[str]:
        return [*super().argv(), "--procfs", str(self.tree)]

    def environment(self) -> dict[str, str]:
        return super().environment() | self.environ


class MortalAgent(TreeAgent):
    """Ended at once, without a last reply."""

    STOP: ClassVar = ((signal.SIGKILL, 5.0),)


A = TypeVar("A", bound=TreeAgent)


class Agents:
    """Agents in one tree. All have ended when it is over, and none may have broken."""

    def __init__(self, home: Path, tree: Tree) -> None:
        self._home, self._tree = home, tree
        self._made: list[TreeAgent] = []

    def make(self, kind: type[A], config: str) -> A:
        """One that is not started yet."""
        agent = kind(self._home, self._tree, config)
        self._made.append(agent)
        return agent

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for agent in self._made:
            agent.stop()
        for agent in self._made:
            assert "Traceback" not in agent.log_text(), agent.evidence()
