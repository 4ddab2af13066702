"""Machines without resources, clocks that jump, and ends without warning, watched by a real HAProxy.

Full, read-only and damaged disks are in tests/operate.
"""

import json
import random
import resource
import shutil
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from agent.tools import client
from tests.cgroups import controlled, limit
from tests.farm import compile_c, sidekiq_title
from tests.faults import amount
from tests.faults.hostile import holdings
from tests.faults.watch import Watch
from tests.real.parts import until
from tests.serve.flood import flood
from tests.serve.running import thread_names
from tests.tree import Tree, TreeAgent

HERE = Path(__file__).parent
DEADLINE_S = 30.0
CAPACITY = 10

CONFIG = f"""
[scan]
fresh_for = "100ms"
min_gap = "0ms"
max_duty = "100%"
[weight]
capacity = {CAPACITY}
[reply]
release_for = "500ms"
"""


@pytest.fixture
def tree(tree: Tree) -> Tree:
    tree.workers(busy=4, idle=6)
    return tree


def make(tree: Tree, busy: int) -> int:
    """So many of the ten workers have a job; returns the right weight."""
    for n in range(10):
        tree.retitle(100 + n, sidekiq_title(int(n < busy)))
    return 100 - 10 * busy


def preloaded(name: str, place: Path) -> Path:
    """A library for LD_PRELOAD, in whose words the checkout's own path may have no blank."""
    shim = compile_c(name, [HERE / f"{name}.c"], static=False, more=["-shared", "-fPIC"])
    return Path(shutil.copy(shim, place))


def answer(busy: int) -> bytes:
    return b"up %d%% #%d/10 busy\n" % (100 - 10 * busy, busy)


@contextmanager
def limited(agent: TreeAgent, controller: str, **values: str) -> Iterator[Path]:
    """The agent, which is not started yet, will live under these limits."""
    with controlled(controller, f"busyweight-{controller}") as group:
        limit(group, **values)
        argv = ["sh", "-c", 'echo $$ > "$1/cgroup.procs"; shift; exec "$@"', "sh", str(group), *agent.argv()]
        agent.argv = lambda: argv  # type: ignore[method-assign]
        yield group


# Ends without warning.

INTER_S = 0.5

# What the test's own looks, and a busy machine's bad moments, may add to two checks: less than a third one takes.
SLACK_S = 0.3

# A `ready` is told for longer than two checks, as docs/control.md wants it.
PATIENT = CONFIG.replace("500ms", "1500ms")

IN_FORCE: dict[str | None, tuple[str, int | None]] = {
    "drain": ("DRAIN", None),
    "maint": ("MAINT", None),
    "weight": ("UP", 30),
}


def first_answer_s(agent: TreeAgent) -> float:
    """When the agent that has just been started was seen to answer."""

    def answers() -> bool:
        try:
            return bool(agent.ask())
        except ConnectionError:
            return False

    agent.until(answers, "answering", DEADLINE_S)
    return time.monotonic()


@pytest.mark.timeout(900)
def test_killed_at_random_moments(tree: Tree, tmp_path: Path) -> None:
    """Under load, weights and overrides are right two agent-checks after the agent is back."""
    dice = random.Random(7)
    agent = TreeAgent(tmp_path, tree, PATIENT)
    with Watch(tmp_path, agent, servers=3, inter_ms=int(INTER_S * 1000)) as watch, agent, flood(agent.port, at_once=8):
        watch.wait_weights(60)
        for _ in range(int(amount(6, 50))):
            order = dice.choice([None, None, "drain", "maint", "ready", "weight"])
            if order:
                agent.order(order, *(["30"] if order == "weight" else []))
            # Somewhere in its life: while it serves, and sometimes while it is starting.
            for kills in range(dice.randint(1, 2)):
                if kills:
                    agent.start()
                threading.Event().wait(dice.random() * 0.5)
                agent.send(signal.SIGKILL)
                agent.wait_exit(DEADLINE_S)
            # A weight that is right from now on: the former one cannot have told it.
            busy = dice.randint(0, 10)
            weight = make(tree, busy)
            agent.start()
            right_by_s = first_answer_s(agent) + 2 * INTER_S + SLACK_S
            watch.wait_shown(*IN_FORCE.get(order, ("UP", weight)), right_by_s - time.monotonic())
            if order in IN_FORCE:
                agent.order("ready")
                watch.wait_weights(weight, 2 * INTER_S + SLACK_S)
            # What was ordered is taken back, and then every answer is the sample's alone.
            agent.wait_answer(answer(busy), DEADLINE_S)
        said = {agent.ask() for _ in range(20)}
        assert said == {answer(busy)}
    assert "Traceback" not in agent.log_text()


def test_the_first_answer_after_a_kill_is_right_or_carries_no_weight(tree: Tree, tmp_path: Path) -> None:
    agent = TreeAgent(tmp_path, tree, CONFIG)
    with agent:
        for n in range(int(amount(5, 60))):
            agent.send(signal.SIGKILL)
            agent.wait_exit(DEADLINE_S)
            make(tree, n % 11)
            agent.start()
            first: list[bytes] = []

            def answered(first: list[bytes] = first) -> bool:
                try:
                    first.append(agent.ask())
                except ConnectionError:
                    return False
                return True

            until(answered, "it answers", DEADLINE_S, agent.evidence)
            assert first[0] in (answer(n % 11), b"up #no sample yet\n")
            agent.wait_answer(answer(n % 11), DEADLINE_S)


# Clocks, and time that passes unseen.

# Two looks at one clock may be so far apart, and the end of an override may be seen so late, on a busy machine.
NEAR_S = 60.0
LATE_S = 2.0


def test_a_stopped_agent_that_goes_on_says_nothing_of_what_it_knew_before(tree: Tree, tmp_path: Path) -> None:
    """As after a suspend: whoever waits gets the current state or no weight, never the old one."""
    agent = TreeAgent(tmp_path, tree, CONFIG.replace("[scan]", '[scan]\ngive_up_after = "1s"'))
    with agent, Watch(tmp_path, agent, servers=3, inter_ms=100) as watch:
        for n in range(int(amount(3, 30))):
            busy = 3 + n % 5
            weight = make(tree, busy - 2)
            watch.wait_weights(weight)
            agent.send(signal.SIGSTOP)
            weight = make(tree, busy)
            threading.Event().wait(1.5)
            polls: list[bytes] = []
            poller = threading.Thread(target=lambda polls=polls: polls.append(agent.ask(deadline_s=30)))
            poller.start()
            agent.send(signal.SIGCONT)
            poller.join()
            assert polls[0] in (answer(busy), b"up #no sample of late\n")
            watch.wait_weights(weight)


def boot_s() -> float:
    """The clock that nobody sets, as the agent reads it."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def test_a_wall_clock_that_jumps_moves_neither_weights_nor_the_end_of_an_override(tree: Tree, tmp_path: Path) -> None:
    shim = preloaded("wallclock", tmp_path)
    offset = tmp_path / "offset"
    offset.write_text("0")
    agent = TreeAgent(tmp_path, tree, CONFIG, LD_PRELOAD=str(shim), WALLCLOCK=str(offset))
    lasts_s, before_s = 1.0, 0
    with agent:
        for jump_s in (-86_400, 86_400, -1_000_000_000, 0):
            make(tree, 4)
            agent.wait_answer(answer(4), DEADLINE_S)
            began_s = boot_s()
            since_s = client.ask(agent.control, "drain", **{"for": "1s"})["override"]["since"]
            ordered_s = boot_s()
            offset.write_text(str(jump_s))
            told_s = client.ask(agent.control, "status")["status"]["now"]
            # Both are its wall clock's: it is deceived.
            assert since_s - time.time() == pytest.approx(before_s, abs=NEAR_S)
            assert told_s - time.time() == pytest.approx(jump_s, abs=NEAR_S)
            # From right after the jump on every answer says so, until the time is over.
            agent.until(lambda: not agent.ask().startswith(b"drain up"), "drained no more", DEADLINE_S)
            assert began_s + lasts_s <= boot_s() <= ordered_s + lasts_s + LATE_S
            make(tree, 7)
            agent.wait_answer(answer(7), DEADLINE_S)
            before_s = jump_s
        assert client.ask(agent.control, "status")["status"]["override"] is None
    assert "Traceback" not in agent.log_text()


@pytest.mark.root("a namespace is made")
@pytest.mark.parametrize("offset_s", [-1, 400_000_000])
def test_a_boot_clock_of_any_age_changes_nothing(tree: Tree, tmp_path: Path, offset_s: int) -> None:
    if offset_s < 0:
        # As young as a clock can be: all but nought.
        with Path("/proc/uptime").open() as uptime:
            offset_s = -int(float(uptime.read().split()[0])) + 5
    agent = TreeAgent(tmp_path, tree, CONFIG)
    argv = ["unshare", "--time", f"--boottime={offset_s}", "--fork", "--kill-child", *agent.argv()]
    agent.argv = lambda: argv  # type: ignore[method-assign]
    with agent:
        for busy in (4, 0, 10):
            make(tree, busy)
            agent.wait_answer(answer(busy), DEADLINE_S)


# A disk that does not answer.


def test_a_hanging_disk(tree: Tree, tmp_path: Path) -> None:
    # No poll waits for it, and when it is back it has the last override.
    shim = preloaded("hungdisk", tmp_path)
    hung = tmp_path / "hung"
    agent = TreeAgent(tmp_path, tree, PATIENT, LD_PRELOAD=str(shim), HUNGDISK=str(hung))
    disk = agent.home / "state"

    def order(kind: str) -> set[bytes]:
        """What polls hear from an order's way to the disk until the agent does not wait for that any more."""
        told: list[dict[str, Any]] = []
        ordering = threading.Thread(target=lambda: told.append(client.ask(agent.control, kind)))
        ordering.start()
        heard = set()
        while ordering.is_alive():
            heard.add(agent.ask())
            ordering.join(0.02)
        assert "the disk has not responded for" in told[0]["state_file"]["write_error"]
        return heard

    def writers() -> int:
        """Threads that wait for the disk, beside the one that all the others wait for."""
        return sum(name != "reader" for name in thread_names(agent.pid)) - 1

    def write_error() -> str | None:
        told: str | None = client.ask(agent.control, "status")["status"]["state_file"]["write_error"]
        return told

    with agent, Watch(tmp_path, agent, servers=3) as watch:
        watch.wait_weights(60)
        assert writers() == 0
        for busy in range(int(amount(1, 6))):
            hung.touch()
            weight = make(tree, busy)
            watch.wait_weights(weight)
            heard = order("drain")
            assert {reply for reply in heard if not reply.startswith(b"drain up")} <= {answer(busy)}
            watch.wait_shown("DRAIN", None, DEADLINE_S)
            order("ready")
            watch.wait_weights(weight)
            agent.wait_answer(answer(busy), DEADLINE_S)
            weight = make(tree, busy + 2)
            watch.wait_weights(weight)
            order("maint")
            watch.wait_shown("MAINT", None, DEADLINE_S)
            assert writers() == 1
            assert not (disk / "override.json").exists()
            hung.unlink()
            agent.until(lambda: write_error() is None, "well again", DEADLINE_S)
            assert json.loads((disk / "override.json").read_text())["override"]["kind"] == "maint"
            agent.order("ready")
            watch.wait_weights(weight)
            agent.until(lambda: not list(disk.iterdir()), "nothing is owed on disk", DEADLINE_S)
            agent.wait_answer(answer(busy + 2), DEADLINE_S)
        assert watch.failed() == []
        agent.until(lambda: writers() == 0, "done with the disk", DEADLINE_S)
        # Asked to end, it does not wait for the disk either.
        hung.touch()
        order("drain")
        agent.send(signal.SIGTERM)
        assert agent.wait_exit(DEADLINE_S) == 0
    assert "Traceback" not in agent.log_text()


# Nothing left.


@pytest.mark.root("a cgroup is limited")
def test_a_tenth_of_a_processor_is_enough(tree: Tree, tmp_path: Path) -> None:
    agent = TreeAgent(tmp_path, tree, CONFIG)
    agent.READY_DEADLINE_S = 120.0
    with limited(agent, "cpu", cpu_max="10000 100000"), agent, Watch(tmp_path, agent, inter_ms=1000) as watch:
        for busy in range(int(amount(3, 11))):
            watch.wait_weights(make(tree, busy))
        assert watch.failed() == []


@pytest.mark.root("a cgroup is limited")
def test_thousands_of_long_titles_fit_in_memory(tree: Tree, tmp_path: Path) -> None:
    """The agent needs less than the unit's memory limit for them."""
    workers = int(amount(2000, 20_000))
    for pid in range(1000, 1000 + workers):
        tree.add(pid, sidekiq_title(0, tag="x" * 900))
    agent = TreeAgent(tmp_path, tree, CONFIG)
    with limited(agent, "memory", memory_max=str(96 << 20)), agent:
        for busy in (4, 1):
            make(tree, busy)
            agent.wait_answer(answer(busy), DEADLINE_S)
        assert holdings(agent.pid)["rss_kib"] < 96 << 10


def test_no_file_can_be_opened_and_the_answer_is_right_or_unknown(tree: Tree, tmp_path: Path) -> None:
    agent = TreeAgent(tmp_path, tree, CONFIG)
    with agent, Watch(tmp_path, agent, servers=3) as watch:
        watch.wait_weights(60)
        before = resource.prlimit(agent.pid, resource.RLIMIT_NOFILE)
        resource.prlimit(agent.pid, resource.RLIMIT_NOFILE, (holdings(agent.pid)["files"] - 3, before[1]))
        for pid in range(500, 520):
            tree.add(pid, sidekiq_title(1))
        said = {agent.ask() for _ in range(30)}
        assert said <= {answer(4), b"up #cannot see processes\n", b"up 0% #24/10 busy\n"}
        resource.prlimit(agent.pid, resource.RLIMIT_NOFILE, before)
        watch.wait_weights(0)
        assert watch.failed() == []
