"""Real workers that use CPU on command, and scans far enough apart to see it."""

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress

from agent._scan import Counts, Scanner

# CPU time is judged over at least this long (rust/effort.rs).
WINDOW_S = 0.2
BURNS = """
import ctypes, signal, sys, time
from setproctitle import setproctitle
setproctitle(sys.argv[1])
burning = False
def switch(number, _):
    global burning
    burning = number == signal.SIGUSR1
signal.signal(signal.SIGUSR1, switch)
signal.signal(signal.SIGUSR2, switch)
print("ready", flush=True)
while True:
    if burning:
        sum(range(10_000))
    else:
        time.sleep(0.01)
"""


def looked(of: Scanner, windows: int = 1) -> Counts:
    """What a scan finds after so many more windows: CPU shares need time, so here it must pass."""
    for _ in range(windows):
        began_s = time.monotonic()
        while time.monotonic() - began_s < 1.5 * WINDOW_S:
            time.sleep(0.01)
        counts = of.scan().pools[0]
    return counts


class Worker:
    """A real process with a worker's title, that burns and rests when it is told."""

    def __init__(self, title: bytes) -> None:
        self.process = subprocess.Popen([sys.executable, "-c", BURNS, title], stdout=subprocess.PIPE)
        with suppress(PermissionError):
            os.setpriority(os.PRIO_PROCESS, self.process.pid, -15)  # its share of a core, whatever else runs here
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == b"ready\n"

    def burn(self) -> None:
        self.process.send_signal(signal.SIGUSR1)

    def rest(self) -> None:
        self.process.send_signal(signal.SIGUSR2)

    def end(self) -> None:
        self.process.kill()
        self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()


def of(pid: int, counts: Scanner) -> tuple[bool, int]:
    """Whether a worker works, and the thousandths of a core that it takes."""
    found = next(w for w in counts.workers() if w.pid == pid)
    return found.works_for_ms > 0, found.cores_milli or 0
