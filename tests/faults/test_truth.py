"""Every reply of a long run is explained by what was true of the workers within its allowed age.

A farm of real workers changes all the time and keeps a journal; a poller notes what was said, and when. A reply is
explained if its count lies between the least and the most that the workers could have shown to one scan within the
time that the freshness rule allows. Now and then the farm rests: then there is one true count and no other.
"""

import bisect
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
from tests.faults.hostile import holdings
from tests.real.agents import Agent
from tests.real.parts import until

COMM = "bwtruth"
RECHECK_S = 1.5
DEADLINE_S = 20.0
FRESH_FOR_S = 0.2

# A sample is at most fresh_for old when it is used; to that come the scan's own time, and the machine's bad moments.
ALLOWED_AGE_S = FRESH_FOR_S + 0.3

# So many replies are wanted where there is one true count.
IN_A_REST = 10

# More in the farm would only widen what explains a reply.
WORKERS_MAX = 60

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


@dataclass(frozen=True)
class Heard:
    """A reply, the moments between which it came, and its count; None if it had none."""

    asked_s: float
    had_s: float
    reply: bytes
    busy: int | None


@dataclass(frozen=True)
class Rest:
    """From then to then one count was true of every sample that may be used."""

    began_s: float
    ended_s: float
    busy: int

    def over(self, heard: list[Heard]) -> list[Heard]:
        """Those who asked and were answered meanwhile."""
        return [each for each in heard if self.began_s <= each.asked_s and each.had_s <= self.ended_s]


@dataclass
class Journal:
    """What was true: each step's least and most, from the moment it began to change things."""

    steps: list[tuple[float, int, int]] = field(default_factory=list)

    def note(self, least: int, most: int) -> None:
        self.steps.append((now(), least, most))

    def explains(self, busy: int, earliest: float, latest: float) -> bool:
        """Whether the count fits into what was true at some time between. A step lasts until the next begins; a
        scan may see half of one and half of the next."""
        first = max(0, bisect.bisect_right(self.steps, earliest, key=lambda step: step[0]) - 1)
        end = bisect.bisect_right(self.steps, latest, key=lambda step: step[0])
        for i in range(first, end):
            both = self.steps[i : min(i + 2, end)]
            if min(least for _, least, _ in both) <= busy <= max(most for _, _, most in both):
                return True
        return False

    def unexplained(self, heard: list[Heard], *, less: int = 0, later_s: float = 0.0) -> list[Heard]:
        """The replies that no truth explains; or that none would, had they said so much less, or come so much later."""
        return [
            each
            for each in heard
            if each.busy is None
            or not self.explains(each.busy - less, each.asked_s - ALLOWED_AGE_S + later_s, each.had_s + later_s)
        ]


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

    def retitle(self, new: dict[int, int]) -> None:
        titles = {pid: sidekiq_title(busy) for pid, busy in new.items()}
        self.change(self.busy | new, lambda: self.farm.retitle(titles))

    def work(self, seconds: float) -> None:
        """One step after the other."""
        ends_s = now() + seconds
        while now() < ends_s:
            self.step()
            time.sleep(self.dice.random() * 0.08)

    def rest(self, heard: list[Heard]) -> list[Rest]:
        """First until everyone must have been noticed; then everyone changes at once, and they rest again. The first
        rest finds who is missed for good, the second what is said too late."""
        time.sleep(RECHECK_S)
        first = self.stay(heard)
        few = sum(self.busy.values()) <= 5 * len(self.busy)
        self.retitle({pid: self.dice.randint(6, 10) if few else self.dice.randint(0, 4) for pid in self.busy})
        return [first, self.stay(heard)]

    def stay(self, heard: list[Heard]) -> Rest:
        least, most = self.shown(self.busy)
        assert least == most, "somebody is too young for a rest"
        self.journal.note(least, most)
        time.sleep(ALLOWED_AGE_S)
        began_s = now()
        until(lambda: sum(each.asked_s >= began_s for each in heard[-99:]) >= IN_A_REST, "it was heard", DEADLINE_S)
        return Rest(began_s, now(), most)

    def step(self) -> None:
        farm, dice = self.farm, self.dice
        choice = dice.random()
        if (choice < 0.15 and len(self.busy) < WORKERS_MAX) or not self.busy:
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
            self.retitle(new)


def poll_until(stop: threading.Event, ask: Callable[[], bytes], heard: list[Heard]) -> None:
    while not stop.is_set():
        asked_s = now()
        reply = ask()
        said = re.fullmatch(rb"up \d+% #(\d+)/1000 busy\n", reply)
        heard.append(Heard(asked_s, now(), reply, int(said[1]) if said else None))
        stop.wait(0.01)


@pytest.fixture
def below() -> Iterator[Path]:
    with cgroup("busyweight-truth") as top:
        yield top


@pytest.mark.timeout(600)
@pytest.mark.parametrize("discovery", ["sweep", "cgroup", "ebpf"])
def test_every_reply_is_explained_by_the_truth(discovery: str, below: Path, tmp_path: Path) -> None:
    journal = Journal()
    heard: list[Heard] = []
    rests: list[Rest] = []
    held: list[dict[str, int]] = []
    stop = threading.Event()
    seed = int(os.environ.get("BUSYWEIGHT_SEED", "7"))
    rounds, work_s = int(amount(2, 18)), amount(3, 8)
    with Farm() as farm:
        (below / "cgroup.procs").write_text(str(farm.pid))
        workers = Workers(farm, journal, seed)
        for _ in range(10):
            workers.step()
        farm.churn(100, int(rounds * (work_s + 4)) + 5, comm=COMM + "-x")
        agent = Agent(tmp_path, CONFIG.format(below=f"/{below.name}", discovery=discovery))
        with agent:
            assert f'"discovery": "{discovery}"' in agent.order("status", "--json")
            poller = threading.Thread(target=poll_until, args=(stop, agent.ask, heard))
            poller.start()
            try:
                for _ in range(rounds):
                    workers.work(work_s)
                    rests += workers.rest(heard)
                    # A worker's title is kept open.
                    now_held = holdings(agent.pid)
                    held.append(now_held | {"files": now_held["files"] - len(workers.busy)})
            finally:
                stop.set()
                poller.join()
    unexplained = journal.unexplained(heard)
    assert len(heard) > amount(200, 5000)
    assert not unexplained, f"{len(unexplained)} of {len(heard)}: {unexplained[:5]}"
    assert len({each.reply for each in heard}) > 20, "the workers hardly changed: nothing was tried"
    for rest in rests:
        over = rest.over(heard)
        assert len(over) >= IN_A_REST
        assert {each.busy for each in over} == {rest.busy}
        # And less would not pass, be it the job of a single thread.
        assert journal.unexplained(over, less=1) == over
    late = journal.unexplained(heard, later_s=3.0)
    assert len(late) > len(heard) / 4, "what comes late would pass"
    # Room for what a sweep knows of all the machine's other processes, some hundred bytes of each.
    assert held[-1]["rss_kib"] - held[0]["rss_kib"] < 8 * 1024
    assert held[-1]["threads"] <= held[0]["threads"] + 4
    assert held[-1]["files"] <= held[0]["files"] + 16
