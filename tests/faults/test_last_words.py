"""Restarts, stops, crashes, reloads, commands and configuration errors in any order: HAProxy never keeps a wrong reply.

hypothesis generates the sequences; a model of the agent's life runs beside a real agent and a balancer that keeps the
last reply as HAProxy does. There is no time in it: a release lasts until the balancer has got it.
"""

import re
import signal
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    precondition,
    rule,
    run_state_machine_as_test,
)

from agent.tools import client
from tests.farm import sidekiq_title
from tests.faults import SOAK, amount
from tests.real.parts import until
from tests.tree import Tree, TreeAgent

# A busy machine may take its time; nothing here waits for long where all is well.
DEADLINE_S = 30.0

EAGER = '[scan]\nfresh_for = "0ms"\nmin_gap = "0ms"\nmax_duty = "100%"\nwait_at_most = "900ms"\n'
UNTIL_TOLD = '[reply]\nrelease_for = "1h"\n'
FAULTS = ("weight = 3\n", "not toml", "[scan]\nprocfs = '/none'\n", "[workers]\nusers = ['nobody-of-that-name']\n")

# The first workers have a job: so many of ten.
BUSY = st.integers(0, 10)


class Balancer:
    """Keeps the agent's last reply, as HAProxy does: see docs/protocol.md."""

    def __init__(self) -> None:
        self.weight, self.admin = 100, "ready"
        self.heard: list[str] = []

    def poll(self, agent: TreeAgent) -> bool:
        """Returns whether an agent answered; if none did, nothing changes."""
        try:
            line = agent.ask().decode()
        except OSError:
            return False
        self.heard.append(line)
        words = line.partition("#")[0].split()
        for word in words:
            if word in ("ready", "drain", "maint"):
                self.admin = word
            elif found := re.fullmatch(r"(\d+)%", word):
                self.weight = int(found[1])
        return True

    def keeps(self) -> tuple[str, int]:
        """The server's state in HAProxy. In maintenance or drained, its weight does not matter."""
        return self.admin, self.weight if self.admin == "ready" else 0


class Life(RuleBasedStateMachine):
    """What is so is in `busy`, `capacity`, `fault` and `order`; what is in force in the agent, `in_force`."""

    def __init__(self) -> None:
        super().__init__()
        self.home = tempfile.TemporaryDirectory(prefix="busyweight-life-")
        self.tree = Tree(Path(self.home.name) / "proc")
        self.tree.workers(busy=0, idle=10)
        self.agent = TreeAgent(Path(self.home.name), self.tree)
        # The tree is named in the file, so that a fault in it can name another one.
        plain = [word for word in self.agent.argv() if word not in ("--procfs", str(self.tree))]
        self.agent.argv = lambda: plain  # type: ignore[method-assign]
        self.balancer = Balancer()
        self.capacity = self.in_force = 10
        self.busy = 0
        self.fault = ""
        self.order: tuple[str, int] | None = None

    @initialize(busy=BUSY)
    def begin(self, busy: int) -> None:
        self.work(busy)
        self.write()
        self.start()

    # What is so.

    def write(self) -> None:
        sound = f"{EAGER}procfs = '{self.tree}'\n[weight]\ncapacity = {self.capacity}\n{UNTIL_TOLD}"
        self.agent.write_config(self.fault or sound)

    @property
    def serving(self) -> bool:
        return self.agent.running

    def measured(self) -> tuple[str, int]:
        return self.order or ("ready", max(0, round(100 * (1 - self.busy / self.in_force))))

    def settle(self, right: tuple[str, int], why: str) -> None:
        """Polls until the balancer has the right state."""
        right = (right[0], right[1] if right[0] == "ready" else 0)

        def kept() -> bool:
            return self.balancer.poll(self.agent) and self.balancer.keeps() == right

        self.wait(kept, f"{right} {why}")

    def wait(self, condition: Callable[[], object], what: str) -> None:
        def evidence() -> str:
            return f"keeps {self.balancer.keeps()}, heard {self.balancer.heard[-5:]}\n{self.agent.evidence()}"

        until(condition, what, DEADLINE_S, evidence)

    # What may happen.

    @rule(busy=BUSY)
    def work(self, busy: int) -> None:
        self.busy = busy
        for n in range(10):
            self.tree.retitle(100 + n, sidekiq_title(int(n < busy)))
        if self.serving:
            self.settle(self.measured(), "after jobs began and ended")

    @rule(fault=st.sampled_from(FAULTS))
    def break_the_file(self, fault: str) -> None:
        self.fault = fault
        self.write()

    @rule(capacity=st.sampled_from([5, 10, 20]))
    def mend_the_file(self, capacity: int) -> None:
        self.fault, self.capacity = "", capacity
        self.write()

    @precondition(lambda self: not self.serving)
    @rule()
    def start(self) -> None:
        self.agent.start()
        if self.fault:
            self.wait(lambda: not self.agent.running, "ended by the fault")
            return
        self.in_force = self.capacity
        self.settle(self.measured(), "after the start")

    @precondition(lambda self: not self.serving)
    @rule()
    def start_and_stop_at_once(self) -> None:
        self.agent.start()
        self.wait(lambda: not self.agent.running or holds_or_heeds(self.agent.pid), "holding signals back")
        if self.agent.running:
            self.agent.send(signal.SIGTERM)
        if self.fault:
            self.wait(lambda: not self.agent.running, "ended")
        else:
            self.in_force = self.capacity
            self.end_by_the_release()

    @precondition(lambda self: self.serving)
    @rule()
    def stop(self) -> None:
        self.agent.send(signal.SIGTERM)
        self.end_by_the_release()

    def end_by_the_release(self, comment: str = "stopping") -> None:
        self.settle(self.order or ("ready", 100), "as the last word")

        def releases() -> bool:
            """It may still say what it said before, where that is the same: the log and the reply's comment tell."""
            if "stopping: replying" not in self.agent.tail(1) or not self.balancer.poll(self.agent):
                return False
            return bool(self.order) or comment in self.balancer.heard[-1]

        self.wait(lambda: releases() or not self.agent.running, "releasing")
        self.agent.send(signal.SIGTERM)
        self.wait(lambda: not self.agent.running, "ended")

    @precondition(lambda self: self.serving)
    @rule()
    def restart(self) -> None:
        """As systemd does it."""
        self.balancer.heard.clear()
        self.agent.send(signal.SIGUSR1)
        if self.fault:
            self.end_by_the_release("cannot start again")
            assert self.order or "cannot start again" in self.balancer.heard[-1]
            return
        self.wait(lambda: not self.balancer.poll(self.agent) and not self.agent.running, "ended")
        assert not any("stopping" in line for line in self.balancer.heard)
        self.start()

    @precondition(lambda self: self.serving)
    @rule()
    def crash(self) -> None:
        self.agent.send(signal.SIGKILL)
        self.wait(lambda: not self.agent.running, "dead")
        # What is kept now may be wrong, until there is an agent again.

    @precondition(lambda self: self.serving)
    @rule()
    def reload(self) -> None:
        def reloads() -> int:
            return sum(self.agent.log_text().count(end) for end in ("reloaded the configuration", "reload failed"))

        before = reloads()
        self.agent.send(signal.SIGHUP)
        self.wait(lambda: reloads() > before, "done with the reload")
        if not self.fault:
            self.in_force = self.capacity
        self.settle(self.measured(), "after the reload")

    @precondition(lambda self: self.serving)
    @rule(kind=st.sampled_from(["drain", "maint", "weight", "ready"]), percent=st.integers(0, 100))
    def command(self, kind: str, percent: int) -> None:
        weight = f"{percent}%" if kind == "weight" else None
        client.ask(self.agent.control, kind, weight=weight)
        self.order = {"ready": None, "weight": ("ready", percent)}.get(kind, (kind, 0))
        self.settle(self.measured(), f"after {kind}")

    def teardown(self) -> None:
        """Whatever happened: with an agent, all is right; without one, no balancer keeps a bad reply of an agent that
        was told to stop. The configuration is repaired, as it will be in the end."""
        try:
            self.mend_the_file(10)
            if not self.serving:
                self.start()
            self.reload()
            self.stop()
            assert "Traceback" not in self.agent.log_text(), self.agent.evidence()
        finally:
            if self.agent.running:
                self.agent.send(signal.SIGKILL)
                self.agent.wait_exit(DEADLINE_S)
            self.home.cleanup()


def holds_or_heeds(pid: int) -> bool:
    """Whether a signal that ends the agent would be handled, now or later."""
    masks = re.findall(r"^Sig(?:Blk|Cgt):\t(\w+)$", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    return any(int(mask, 16) >> (signal.SIGTERM - 1) & 1 for mask in masks)


# Two thousand in all take a quarter of an hour; fifty, on a machine that has other work, some minutes.
SHARES = int(amount(1, 4))


@pytest.mark.timeout(amount(900, 3 * 3600))
@pytest.mark.parametrize("share", range(SHARES))
def test_no_sequence_leaves_a_wrong_word_behind(share: int) -> None:
    """Each share makes up sequences of its own: what the soak plays is different each time."""
    run_state_machine_as_test(
        Life,
        settings=settings(
            max_examples=int(amount(50, 2000)) // SHARES,
            stateful_step_count=6,
            deadline=None,
            derandomize=not SOAK,
            suppress_health_check=list(HealthCheck),
            database=None,
            # A sequence takes seconds, so what fails is shown as it is.
            phases=[Phase.generate],
        ),
    )
