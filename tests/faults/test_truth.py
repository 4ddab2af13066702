"""Every reply of a long run is explained by the true state of the workers within its allowed age.

A farm of real workers changes all the time and keeps a journal; a poller records the replies and their times. A reply
is explained if its count is between the lowest and the highest that a scan could have found within the time that the
freshness rule allows. Now and then the farm rests: then exactly one count is true. Some workers use CPU while their
titles say idle: such a worker has a job from soon after it began until it has rested for a while.
"""

import bisect
import contextlib
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

# A worker's CPU time is judged over what lies between two scans: at least 0.2 s (rust/effort.rs), and about so much at
# most. One that begins may be noticed by the next window alone, and one that ends may have begun its last with work;
# that it has no job any more is believed when it has rested for so long.
WINDOW_S = 0.35
NOTICED_S = WINDOW_S
FORGOTTEN_S = WINDOW_S + 0.4

# Of those that burn at one time; each takes so many hundredths of a core.
BURNERS_MAX = 2
BURN_PERCENT = 30

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
    """A reply, the times between which it came, and its count; None if it had none."""

    asked_s: float
    had_s: float
    reply: bytes
    busy: int | None
    untitled: int


@dataclass(frozen=True)
class Rest:
    """From then to then one count was true of every sample that may be used."""

    began_s: float
    ended_s: float
    busy: int
    untitled: int

    def over(self, heard: list[Heard]) -> list[Heard]:
        """Those who asked and were answered meanwhile."""
        return [each for each in heard if self.began_s <= each.asked_s and each.had_s <= self.ended_s]


@dataclass
class Journal:
    """What was true: each step's lowest and highest count, from the moment it began."""

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
        """The replies that nothing explains; or that nothing would explain, had they reported so much less or come so
        much later."""
        return [
            each
            for each in heard
            if each.busy is None
            or not self.explains(each.busy - less, each.asked_s - ALLOWED_AGE_S + later_s, each.had_s + later_s)
        ]


@dataclass
class Effort:
    """Since when a worker burns, or has rested; and since when its title has said idle."""

    burns_s: float | None
    rested_s: float
    idle_s: float

    def threads(self) -> tuple[int, int]:
        """The least and the most that it may count for while its title says idle."""
        if self.burns_s is None:
            return 0, int(now() - self.rested_s < FORGOTTEN_S)
        return int(now() - max(self.burns_s, self.idle_s) > NOTICED_S), 1


class Workers:
    """A churning farm whose busy counts are known."""

    def __init__(self, farm: Farm, journal: Journal, seed: int) -> None:
        self.farm, self.journal, self.dice = farm, journal, random.Random(seed)
        self.busy: dict[int, int] = {}
        self.born: dict[int, float] = {}
        self.effort: dict[int, Effort] = {}

    def shown(self, busy: dict[int, int]) -> tuple[int, int]:
        """The lowest and the highest count that a scan could find. A young worker may not have been noticed yet: it may
        have been looked at before it had its title, and is looked at again a second later."""
        mature = now() - RECHECK_S
        least = sum(n or self.effort[pid].threads()[0] for pid, n in busy.items() if self.born[pid] < mature)
        return least, sum(n or self.effort[pid].threads()[1] for pid, n in busy.items())

    @property
    def untitled(self) -> int:
        """How many use CPU while their titles say idle."""
        return sum(self.busy[pid] == 0 for pid in self.burning)

    @property
    def burning(self) -> list[int]:
        return [pid for pid in sorted(self.busy) if self.effort[pid].burns_s is not None]

    def change(self, busy: dict[int, int], how: Callable[[], None]) -> None:
        """Goes over to these counts; meanwhile each worker may show the one or the other."""
        pids = self.busy.keys() | busy.keys()
        for pid in pids:
            if busy.get(pid, 0) == 0 and self.busy.get(pid, 0) > 0:
                self.effort[pid].idle_s = now()
        ways = [{pid: pick(self.busy.get(pid, 0), busy.get(pid, 0)) for pid in pids} for pick in (min, max)]
        self.journal.note(self.shown(ways[0])[0], self.shown(ways[1])[1])
        how()
        self.busy = busy
        self.journal.note(*self.shown(busy))

    def retitle(self, new: dict[int, int]) -> None:
        titles = {pid: sidekiq_title(busy) for pid, busy in new.items()}
        self.change(self.busy | new, lambda: self.farm.retitle(titles))

    def burn(self, pids: list[int]) -> None:
        for pid in pids:
            self.effort[pid].burns_s = now()
        self.journal.note(*self.shown(self.busy))
        self.farm.burn(pids, BURN_PERCENT)
        for pid in pids:
            self.effort[pid].burns_s = now()
        self.journal.note(*self.shown(self.busy))

    def end_burning(self, pids: list[int]) -> None:
        for pid in pids:
            self.effort[pid] = Effort(None, now(), self.effort[pid].idle_s)
        self.journal.note(*self.shown(self.busy))
        self.farm.rest(pids)
        for pid in pids:
            self.effort[pid].rested_s = now()
        self.journal.note(*self.shown(self.busy))

    def work(self, seconds: float) -> None:
        """One step after the other."""
        ends_s = now() + seconds
        while now() < ends_s:
            self.step()
            time.sleep(self.dice.random() * 0.08)

    def rest(self, heard: list[Heard]) -> list[Rest]:
        """Waits until every change must have been noticed; then all workers change at once, and rest again. The first
        rest finds workers that are missed for good, the second replies that are too late. In both, a worker uses CPU
        while its title says idle."""
        self.burn_unsaid()
        time.sleep(RECHECK_S)
        first = self.stay(heard)
        few = sum(self.busy.values()) <= 5 * len(self.busy)
        self.retitle({pid: self.dice.randint(6, 10) if few else self.dice.randint(0, 4) for pid in self.busy})
        self.burn_unsaid()
        return [first, self.stay(heard)]

    def burn_unsaid(self) -> None:
        """Other workers use CPU than before; the title of one of them says idle."""
        before = self.burning
        chosen = self.dice.sample(sorted(self.busy.keys() - before), BURNERS_MAX)
        self.end_burning(before)
        self.retitle({chosen[0]: 0})
        self.burn(chosen)

    def stay(self, heard: list[Heard]) -> Rest:
        until(lambda: len(set(self.shown(self.busy))) == 1, "nobody is too young for a rest", DEADLINE_S)
        least, most = self.shown(self.busy)
        self.journal.note(least, most)
        time.sleep(ALLOWED_AGE_S)
        began_s = now()
        until(lambda: sum(each.asked_s >= began_s for each in heard[-99:]) >= IN_A_REST, "it was heard", DEADLINE_S)
        return Rest(began_s, now(), most, self.untitled)

    def step(self) -> None:
        farm, dice = self.farm, self.dice
        choice = dice.random()
        if (choice < 0.15 and len(self.busy) < WORKERS_MAX) or not self.busy:
            busy, count = dice.randint(0, 10), dice.randint(1, 4)
            before, most = self.shown(self.busy)
            self.journal.note(before, most + count * busy)
            pids = farm.spawn(count, comm=COMM, title=sidekiq_title(busy))
            self.born |= dict.fromkeys(pids, now())
            self.effort |= {pid: Effort(None, -FORGOTTEN_S, now()) for pid in pids}
            self.change(self.busy | dict.fromkeys(pids, busy), lambda: None)
        elif choice < 0.25:
            gone = dice.sample(sorted(self.busy), min(2, len(self.busy)))
            self.change({p: n for p, n in self.busy.items() if p not in gone}, lambda: farm.kill(gone))
        elif choice < 0.35 and self.burning:
            self.end_burning([dice.choice(self.burning)])
        elif choice < 0.5 and len(self.burning) < BURNERS_MAX:
            chosen = dice.choice(sorted(self.busy.keys() - self.burning))
            if dice.random() < 0.7:
                self.retitle({chosen: 0})
            self.burn([chosen])
        else:
            new = {pid: dice.randint(0, 10) for pid in dice.sample(sorted(self.busy), min(6, len(self.busy)))}
            self.retitle(new)


def poll_until(stop: threading.Event, ask: Callable[[], bytes], heard: list[Heard]) -> None:
    while not stop.is_set():
        asked_s = now()
        reply = ask()
        said = re.fullmatch(rb"up \d+% #(\d+)/1000 busy(?:, (\d+) untitled)?\n", reply)
        busy, untitled = (int(said[1]), int(said[2] or 0)) if said else (None, 0)
        heard.append(Heard(asked_s, now(), reply, busy, untitled))
        stop.wait(0.01)


@pytest.fixture
def hurried() -> Iterator[None]:
    """This test and everything it starts get priority over the machine's other work, if permitted: workers get the CPU
    time they should use, and replies are as fresh as on a machine that is not overloaded."""
    with contextlib.suppress(PermissionError):
        os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(1))
    yield
    os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))


@pytest.fixture
def below() -> Iterator[Path]:
    with cgroup("busyweight-truth") as top:
        yield top


@pytest.mark.timeout(600)
@pytest.mark.parametrize("discovery", ["sweep", "cgroup", "ebpf"])
def test_every_reply_is_explained_by_the_truth(hurried: None, discovery: str, below: Path, tmp_path: Path) -> None:
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
        assert {(each.busy, each.untitled) for each in over} == {(rest.busy, rest.untitled)}
        assert rest.untitled > 0
        # And neither less nor more would pass, be it the job of a single thread.
        assert journal.unexplained(over, less=1) == over == journal.unexplained(over, less=-1)
    late = journal.unexplained(heard, later_s=3.0)
    assert len(late) > len(heard) / 4, "what comes late would pass"
    # Room for what a sweep knows of all the machine's other processes, some hundred bytes of each.
    assert held[-1]["rss_kib"] - held[0]["rss_kib"] < 8 * 1024
    assert held[-1]["threads"] <= held[0]["threads"] + 4
    assert held[-1]["files"] <= held[0]["files"] + 16
