"""What every real part of these tests has in common: a process that is started, watched and ended.

Nothing here may wait by sleeping for a while and hoping: every wait is for a condition, has a
deadline, and says on failure what it saw. Processes are ended by their own pid alone.
"""

import os
import random
import signal
import socket
import subprocess
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import ClassVar, Self, TypeVar

import pytest

from tests.matrix.trees import Tree
from tests.missing import need

T = TypeVar("T")

POLL_S = 0.02


def until(condition: Callable[[], T], what: str, deadline_s: float, evidence: Callable[[], str] = str) -> T:
    """The first true result of `condition`; past the deadline the test fails with the evidence."""
    end = time.monotonic() + deadline_s
    while True:
        late = time.monotonic() > end  # asked before the last look: a slow look is still a look
        result = condition()
        if result:
            return result
        if late:
            pytest.fail(f"not so within {deadline_s:g} s: {what}\n{evidence()}")
        time.sleep(POLL_S)


@contextmanager
def watching(look: Callable[[], Iterable[T]]) -> Iterator[list[T]]:
    """All that looks find meanwhile, each thing once, in its order."""
    seen: list[T] = []
    stop = threading.Event()

    def watch() -> None:
        while not stop.wait(0.01):
            for found in look():
                if found not in seen:
                    seen.append(found)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield seen
    finally:
        stop.set()
        thread.join()


PORTS = range(20000, 30000)
# Those that others of this process were given, and may not use yet.
_given: deque[int] = deque(maxlen=len(PORTS) // 2)


def free_port() -> int:
    """A loopback TCP port that nobody uses, below the range from which outgoing connections take theirs."""
    # Not by the seed that hypothesis gives to every process alike.
    for port in random.SystemRandom().sample(sorted(set(PORTS) - set(_given)), 100):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            _given.append(port)
            return port
    pytest.fail("100 ports tried on 127.0.0.1, none free")


class Part:
    """One process with a directory and a log of its own; used as a context manager, or by
    `start` and `wait_ready` apart where several shall start side by side.
    """

    READY_DEADLINE_S = 20.0
    # How the process is asked to end: signal after signal, and how long each is given.
    STOP: ClassVar[tuple[tuple[signal.Signals, float], ...]] = ((signal.SIGTERM, 5.0), (signal.SIGKILL, 5.0))

    def __init__(self, name: str, home: Path, debian: Tree | None = None) -> None:
        """With a tree of a Debian the part is of that one, and else of this machine."""
        self.name = name
        self.debian = debian
        self.home = home / name
        self.home.mkdir(parents=True, exist_ok=True)
        self.log = self.home / "log"
        self.process: subprocess.Popen[bytes] | None = None

    def need(self, name: str, package: str) -> str:
        """The path of a program where this part is of; as `need`."""
        return self.debian.program(name) if self.debian else need(name, package)

    def argv(self) -> list[str]:
        """The command to start."""
        raise NotImplementedError

    def ready(self) -> bool:
        """Whether the part, once started, is at work."""
        raise NotImplementedError

    def environment(self) -> dict[str, str]:
        return dict(os.environ)

    @property
    def pid(self) -> int:
        assert self.process is not None, f"{self.name} was not started"
        return self.process.pid

    @property
    def running(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def spawn(self, *more: str) -> subprocess.Popen[bytes]:
        """A process of this part, its output appended to the log."""
        with self.log.open("ab") as log:
            return subprocess.Popen(
                self.placed(*self.argv(), *more),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=self.environment(),
                cwd=self.home,
                close_fds=False,
            )

    def call(self, *argv: str) -> subprocess.CompletedProcess[str]:
        """A command where this part is of, to its end; it may fail."""
        return subprocess.run(
            self.placed(*argv), env=self.environment(), capture_output=True, text=True, timeout=60, check=False
        )

    def placed(self, *argv: str) -> list[str]:
        """The command as it is started from here: a tree gets of the environment what is the part's own."""
        if self.debian is None:
            return list(argv)
        own = dict(self.environment().items() - os.environ.items())
        return self.debian.argv(argv, env=own, cwd=self.home)

    def start(self) -> None:
        self.process = self.spawn()

    def wait_ready(self) -> None:
        self.until(self.ready, "ready", self.READY_DEADLINE_S)

    def until(self, condition: Callable[[], T], what: str, deadline_s: float) -> T:
        """As `until`, but fails at once when the process has ended, and always with the log's tail."""

        def alive_and_so() -> T:
            if not self.running:
                pytest.fail(f"waiting for {self.name} to be {what}, but it is not running\n{self.evidence()}")
            return condition()

        return until(alive_and_so, f"{self.name} {what}", deadline_s, self.evidence)

    def evidence(self) -> str:
        """What a failure message shows of this part."""
        state = "not started" if self.process is None else f"pid {self.pid}, exit {self.process.poll()}"
        return f"--- {self.name} ({state}), end of {self.log}\n{self.tail()}"

    def tail(self, lines: int = 20) -> str:
        return "\n".join(self.log_text().splitlines()[-lines:])

    def log_text(self) -> str:
        return self.log.read_text(errors="replace") if self.log.exists() else ""

    def send(self, signum: signal.Signals) -> None:
        """Signal the process itself; its children get nothing."""
        assert self.process is not None, f"{self.name} was not started"
        self.process.send_signal(signum)

    def wait_exit(self, deadline_s: float) -> int:
        """The exit status, as Popen gives it, of a process that is about to end."""
        assert self.process is not None, f"{self.name} was not started"
        try:
            return self.process.wait(deadline_s)
        except subprocess.TimeoutExpired:
            pytest.fail(f"{self.name} did not end within {deadline_s:g} s\n{self.evidence()}")

    def stop(self) -> None:
        """End the process, whatever state it is in; nothing to do where none runs."""
        if self.process is None:
            return
        for signum, patience_s in self.STOP:
            self.process.send_signal(signum)
            try:
                self.process.wait(patience_s)
            except subprocess.TimeoutExpired:
                continue
            return
        pytest.fail(f"{self.name} survived SIGKILL\n{self.evidence()}")

    def restart(self) -> None:
        self.stop()
        self.start()
        self.wait_ready()

    def __enter__(self) -> Self:
        self.start()
        try:
            self.wait_ready()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
