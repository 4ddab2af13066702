"""Every reply of a long run is explained by what was true of the workers within its allowed age.

A farm of real workers changes all the time and keeps a journal; a poller notes what was said, and when. A reply is
explained if its count lies between the least and the most that the workers could have shown to one scan within the
time that the freshness rule allows.
"""

import os
import random
import re
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.cgroups import cgroup
from tests.farm import Farm, sidekiq_title
from tests.faults import amount
from tests.real.agents import Agent

COMM = "bwtruth"
RECHECK_S = 1.5
FRESH_FOR_S = 0.2

# A sample is at most fresh_for old when it is used; to that come the scan's own time, and the machine's bad moments.
ALLOWED_AGE_S = FRESH_FOR_S + 0.3

CONFIG = f"""
[workers]
comm = ["{COMM}*"]
cgroups = ["{{below}}"]
[scan]
discovery = "{{discovery}}"
fresh_for = "{FRESH_FOR_S * 1000:.0f}ms"
min_gap = "0ms"
max_duty = "100%"
[weight]
count = "threads"
capacity = 1000
"""

now = time.monotonic


@dataclass
class Journal:
    """What was true: each step's least and most, from the moment it began to change things."""

    steps: list[tuple[float, int, int]] = field(default_factory=list)

    def note(self, least: int, most: int) -> None:
        self.steps.append((now(), least, most))

    def explains(self, busy: int, earliest: float, latest: float) -> bool:
        """Whether the count fits into what was true at some time between. A step lasts until the next begins; a
        scan may see half of one and half of the next."""
        for i, (began, least, most) in enumerate(self.steps):
            ended = self.steps[i + 1][0] if i + 1 < len(self.steps) else float("inf")
            if ended < earliest or began > latest:
                continue
            after = self.steps[i + 1] if i + 1 < len(self.steps) else (0, least, most)
            if min(least, after[1]) <= busy <= max(most, after[2]):
                return True
        return False


class Workers:
    """A churning farm whose busy counts are known."""

    def __init__(self, farm: Farm, journal: Journal, seed: int) -> None:
        self.farm, self.journal, self.dice = farm, journal, random.Random(seed)
        self.busy: dict[int, int] = {}
        self.born: dict[int, float] = {}

    def shown(self, busy: dict[int, int]) -> tuple[int, int]:
        """The least and the most that a scan could add up. Who is young may not have been noticed yet: it may have
        been looked at before it had its title, and is looked at again a second later."""
        mature = now() - RECHECK_S
        return sum(n for pid, n in busy.items() if self.born[pid] < mature), sum(busy.values())

    def change(self, busy: dict[int, int], how: Callable[[], None]) -> None:
        """Goes over to these counts; meanwhile each worker may show the one or the other."""
        pids = self.busy.keys() | busy.keys()
        ways = [{pid: pick(self.busy.get(pid, 0), busy.get(pid, 0)) for pid in pids} for pick in (min, max)]
        self.journal.note(self.shown(ways[0])[0], self.shown(ways[1])[1])
        how()
        self.busy = busy
        self.journal.note(*self.shown(busy))

    def step(self) -> None:
        farm, dice = self.farm, self.dice
        choice = dice.random()
        if choice < 0.15 or not self.busy:
            busy, count = dice.randint(0, 10), dice.randint(1, 4)
            before, most = self.shown(self.busy)
            self.journal.note(before, most + count * busy)
            pids = farm.spawn(count, comm=COMM, title=sidekiq_title(busy))
            self.born |= dict.fromkeys(pids, now())
            self.change(self.busy | dict.fromkeys(pids, busy), lambda: None)
        elif choice < 0.25:
            gone = dice.sample(sorted(self.busy), min(2, len(self.busy)))
            self.change({p: n for p, n in self.busy.items() if p not in gone}, lambda: farm.kill(gone))
        else:
            new = {pid: dice.randint(0, 10) for pid in dice.sample(sorted(self.busy), min(6, len(self.busy)))}
            titles = {pid: sidekiq_title(busy) for pid, busy in new.items()}
            self.change(self.busy | new, lambda: farm.retitle(titles))


def poll_until(stop: threading.Event, ask: Callable[[], bytes], heard: list[tuple[float, float, bytes]]) -> None:
    while not stop.is_set():
        before = now()
        reply = ask()
        heard.append((before, now(), reply))
        stop.wait(0.01)


@pytest.fixture
def below() -> Iterator[Path]:
    with cgroup("busyweight-truth") as top:
        yield top


@pytest.mark.timeout(600)
@pytest.mark.parametrize("discovery", ["sweep", "cgroup", "ebpf"])
def test_every_reply_is_explained_by_the_truth(discovery: str, below: Path, tmp_path: Path) -> None:
    journal = Journal()
    heard: list[tuple[float, float, bytes]] = []
    stop = threading.Event()
    seed = int(os.environ.get("BUSYWEIGHT_SEED", "7"))
    with Farm() as farm:
        (below / "cgroup.procs").write_text(str(farm.pid))
        workers = Workers(farm, journal, seed)
        for _ in range(10):
            workers.step()
        farm.churn(100, int(amount(8, 210)) + 5, comm=COMM + "-x")
        agent = Agent(tmp_path, CONFIG.format(below=f"/{below.name}", discovery=discovery))
        with agent:
            assert f'"discovery": "{discovery}"' in agent.order("status", "--json")
            poller = threading.Thread(target=poll_until, args=(stop, agent.ask, heard))
            poller.start()
            try:
                until = now() + amount(8, 210)
                while now() < until:
                    workers.step()
                    time.sleep(workers.dice.random() * 0.08)
            finally:
                stop.set()
                poller.join()
    unexplained = []
    for before, after, reply in heard:
        said = re.fullmatch(rb"up \d+% #(\d+)/1000 busy\n", reply)
        if not said or not journal.explains(int(said[1]), before - ALLOWED_AGE_S, after):
            unexplained.append((before, reply))
    assert len(heard) > amount(200, 5000)
    assert not unexplained, f"{len(unexplained)} of {len(heard)}: {unexplained[:5]}"
    assert len({reply for _, _, reply in heard}) > 20, "the workers hardly changed: nothing was tried"
