"""One system call of an agent's life fails, or hangs: what pollers hear stays true, and the agent can be ended.

The host is full, so any weight above 0 is wrong but for the release at the end. Each case takes one call, from the
event loop's beginning to the end, with an order and a reload in between; the soak takes them all in turn.
"""

import errno
import os
import platform
import random
import re
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.tools import client
from tests.farm import compile_c
from tests.faults import SOAK, amount
from tests.real.parts import until
from tests.tree import Tree, TreeAgent

HERE = Path(__file__).parent
# Far more than a call that hangs; the machine may be busy, and every call of the agent stops twice.
DEADLINE_S = 60.0
HANG_MS = 5000

CONFIG = """
[scan]
fresh_for = "50ms"
min_gap = "0ms"
max_duty = "100%"
[weight]
capacity = 10
[reply]
release_for = "200ms"
"""

pytestmark = [
    pytest.mark.skipif(platform.machine() != "x86_64", reason="the shim knows this processor's registers alone"),
    # What it takes at random differs from run to run, so a failure is a find and no regression.
    pytest.mark.skipif(not SOAK, reason="make soak"),
]

# What the kernel says of each call now and then; every other call fails by the last line's.
ERRORS = {
    "openat": ("EMFILE", "EACCES", "ENOMEM"),
    "read": ("EINTR", "EIO", "ENOMEM"),
    "pread64": ("EINTR", "EIO", "ENOMEM"),
    "write": ("EINTR", "EIO", "EAGAIN"),
    "accept4": ("EMFILE", "ENOMEM", "ECONNABORTED"),
    "epoll_wait": ("EINTR", "EINTR", "EINTR"),
    "epoll_pwait": ("EINTR", "EINTR", "EINTR"),
    "epoll_ctl": ("ENOMEM", "ENOSPC", "ENOMEM"),
    "poll": ("EINTR", "ENOMEM", "EINTR"),
    "close": ("EINTR", "EIO", "EINTR"),
    "clone3": ("EAGAIN", "ENOMEM", "EAGAIN"),
    "clone": ("EAGAIN", "ENOMEM", "EAGAIN"),
    "": ("ENOMEM", "EACCES", "EIO"),
}

Call = tuple[str, int]


class Injected(TreeAgent):
    """An agent whose `nth` call of a name fails or hangs; none where that is 0."""

    def __init__(self, home: Path, tree: Tree, name: str, nth: int, how: str) -> None:
        super().__init__(home, tree, CONFIG)
        self.report = self.home / "calls"
        self._shim = compile_c("inject", [HERE / "inject.c"])
        self._how = (name, str(nth), how)

    def argv(self) -> list[str]:
        return [str(self._shim), str(self.report), *self._how, *super().argv()]

    def calls(self) -> list[Call]:
        """All that were counted: the name, and which of that name."""
        return [(line.split()[0], int(line.split()[1])) for line in self.report.read_text().splitlines()]


class Poller(threading.Thread):
    """Polls without a pause, and keeps what it hears."""

    def __init__(self, agent: TreeAgent) -> None:
        super().__init__()
        self._agent = agent
        self.over = threading.Event()
        self.heard: list[str] = []

    def run(self) -> None:
        while not self.over.is_set():
            try:
                self.heard.append(self._agent.ask(deadline_s=DEADLINE_S).decode())
            except (ConnectionError, TimeoutError) as error:
                if isinstance(error, TimeoutError):
                    self.heard.append("silence")
                self.over.wait(0.01)


def live(home: Path, name: str, nth: int, how: str) -> tuple[list[str], Injected, bool]:
    """A whole life. Returns what pollers heard, the agent that has ended, and whether it had come to serve."""
    home.mkdir()
    tree = Tree(home / "proc")
    tree.workers(busy=10)
    agent = Injected(home, tree, name, nth, how)
    agent.start()
    poller = Poller(agent)
    poller.start()
    served = False
    try:
        until(lambda: poller.heard or not agent.running, "serving, or refusing to", DEADLINE_S, agent.evidence)
        served = bool(poller.heard)
        if served:
            for kind in ("drain", "ready"):
                command(agent, kind)
            agent.send(signal.SIGHUP)
            until(lambda: reloaded(agent) or not agent.running, "done with the reload", DEADLINE_S, agent.evidence)
            heard = len(poller.heard)
            until(lambda: len(poller.heard) > heard + 3, "serving on", DEADLINE_S, agent.evidence)
            assert agent.running, agent.evidence()
            agent.send(signal.SIGTERM)
        agent.wait_exit(DEADLINE_S)
    finally:
        poller.over.set()
        if agent.running:
            agent.send(signal.SIGKILL)
            agent.wait_exit(DEADLINE_S)
        poller.join()
    return poller.heard, agent, served


def reloaded(agent: TreeAgent) -> bool:
    return any(end in agent.log_text() for end in ("reloaded the configuration", "reload failed"))


def command(agent: Injected, kind: str) -> None:
    """An order that may fail, as its own call may: then it is told so, or the connection ends."""
    try:
        client.ask(agent.control, kind)
    except client.ClientError:
        assert agent.running, agent.evidence()


def wrong(heard: list[str]) -> list[str]:
    """What must not be said of a full host that is not being left."""
    return [line for line in heard if line == "silence" or (weight(line) and "#stopping" not in line)]


def weight(line: str) -> int:
    found = re.search(r"\b(\d+)%", line.partition("#")[0])
    return int(found[1]) if found else 0


@pytest.fixture(scope="module")
def calls(tmp_path_factory: pytest.TempPathFactory) -> list[Call]:
    """Those of a life in which nothing fails."""
    heard, agent, served = live(tmp_path_factory.mktemp("calls") / "life", "none", 0, "0")
    assert served and not wrong(heard), heard
    assert any("#stopping" in line for line in heard)
    return agent.calls()


def cases(calls: list[Call]) -> Iterator[tuple[str, int, str]]:
    for name, nth in calls:
        for error in dict.fromkeys(ERRORS.get(name, ERRORS[""])):
            yield name, nth, error
        yield name, nth, f"hang:{HANG_MS}"


def test_one_call_that_fails_or_hangs_makes_no_word_wrong(calls: list[Call], tmp_path: Path) -> None:
    every = list(cases(calls))
    chosen = every if SOAK and os.environ.get("BUSYWEIGHT_INJECT_ALL") else random.sample(every, int(amount(8, 150)))
    faults = []
    for n, (name, nth, how) in enumerate(chosen):
        heard, agent, _ = live(tmp_path / str(n), name, nth, str(getattr(errno, how, how)))
        if bad := wrong(heard):
            faults.append(f"{name} no. {nth}, {how}: {bad[:3]}")
        if "Traceback" in agent.log_text():
            faults.append(f"{name} no. {nth}, {how}: {agent.evidence()}")
    assert faults == [], "\n".join(faults)
