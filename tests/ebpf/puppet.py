"""A process under remote control: one expression per line, each answered with its value."""

import ctypes
import os
import random
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path

PR_SET_NAME = 15
SYS_EXIT = {"x86_64": 60, "aarch64": 93}[os.uname().machine]
SYS_CLONE3 = 435

libc = ctypes.CDLL(None, use_errno=True)


def name(comm: str) -> None:
    """Renames the calling thread."""
    libc.prctl(PR_SET_NAME, comm.encode(), 0, 0, 0)


def name_leader(comm: str) -> None:
    """Renames the leader, from whichever thread."""
    Path(f"/proc/self/task/{os.getpid()}/comm").write_text(comm)


def in_thread(*steps: Callable[[], object]) -> object:
    """Takes the steps in a new thread, which then stays; returns what the last one gave."""
    done = threading.Event()
    values: list[object] = []

    def run() -> None:
        values.extend(step() for step in steps)
        done.set()
        threading.Event().wait()

    threading.Thread(target=run, daemon=True).start()
    done.wait()
    return values[-1]


def fork() -> int:
    """A child that does nothing until it is ended."""
    pid = os.fork()
    if pid == 0:
        signal.pause()
    return pid


def clone3(set_tid: int = 0) -> int:
    """Like fork(), through clone3(2), with a number of one's choice."""
    number = ctypes.c_int(set_tid)
    arguments = (ctypes.c_uint64 * 11)()
    arguments[4] = signal.SIGCHLD
    if set_tid:
        arguments[8] = ctypes.addressof(number)
        arguments[9] = 1
    pid: int = libc.syscall(SYS_CLONE3, arguments, ctypes.sizeof(arguments))
    if pid == 0:
        signal.pause()
    if pid < 0:
        raise OSError(ctypes.get_errno(), "clone3")
    return pid


def vfork(path: str) -> int:
    """A child through vfork(2) and exec."""
    # Imported here because it is slow and only one test wants it.
    import subprocess

    return subprocess.Popen(["cat"], executable=path, stdin=os.pipe()[0]).pid


def spawn(path: str) -> int:
    """A child through posix_spawn(3)."""
    quiet = [(os.POSIX_SPAWN_DUP2, os.pipe()[0], 0)]
    return os.posix_spawn(path, ["cat"], os.environ, file_actions=quiet)


def end(pid: int) -> None:
    """Ends and reaps a child."""
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)


def leave_threads() -> None:
    """The leader exits alone; another thread goes on taking orders."""

    def go_on() -> None:
        stat = Path(f"/proc/self/task/{os.getpid()}/stat")
        while not stat.read_text().rpartition(")")[2].startswith(" Z"):
            time.sleep(0.001)
        print("gone", flush=True)
        take_orders()

    threading.Thread(target=go_on).start()
    libc.syscall(SYS_EXIT, 0)


def churn(rounds: int, inside: str, outside: str) -> int:
    """Forks, renames, forks again, and ends most of what it made; some stay."""
    stay = []
    for _ in range(rounds):
        name(random.choice((inside, outside)))
        read_end, write_end = os.pipe()
        pid = os.fork()
        if pid == 0:
            for _ in range(random.randrange(8)):
                name(random.choice((inside, outside)))
            grandchild = os.fork()
            if grandchild == 0:
                for _ in range(random.randrange(8)):
                    name(random.choice((inside, outside)))
                os._exit(0)
            os.waitpid(grandchild, 0)
            os.write(write_end, b".")
            signal.pause()
        os.read(read_end, 1)
        os.close(read_end)
        os.close(write_end)
        if random.random() < 0.95:
            end(pid)
        else:
            stay.append(pid)
    return len(stay)


def take_orders() -> None:
    """Until standard input ends; then the whole process group does."""
    # Unbuffered: what follows an exec is for the program exec'ed.
    with open(0, "rb", buffering=0, closefd=False) as orders:
        while line := orders.readline():
            print(eval(line), flush=True)  # noqa: S307 - the test that started it gives the orders
    os.killpg(0, signal.SIGKILL)


take_orders()
