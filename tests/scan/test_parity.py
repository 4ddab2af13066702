"""Every discovery, and a naive twin, see the same workers on a host that keeps changing."""

import os
import random
import time
from collections.abc import Callable, Iterator

import pytest

from agent import _scan
from tests import twin
from tests.cgroups import V1, V2, cgroup
from tests.farm import Farm, room_for, sidekiq_title
from tests.missing import missing

# Names that nobody else bears. Some pass the filter, some do not.
COMM = ["bwpar*", "bwp?r-[xy]"]
INSIDE = ["bwpar", "bwpar-ruby", "bwpAr-x"]
OUTSIDE = ["bwpa", "bwpAr-z"]

# A process younger than two minutes is looked at every second, and one that was there before the scanner within
# four seconds; more than that is a fault.
AGREED_WITHIN_S = 6.0
ROUNDS = 15

MAP_ENTRIES = 16_384  # CANDIDATES_MAX in rust/discovery/ebpf.rs


def scanner(discovery: str, below: str) -> _scan.Scanner:
    made = _scan.Scanner(
        "/proc", discovery, [_scan.Selector("sidekiq", comm=COMM, cgroups=[below])], kept_max=500, detail=True
    )
    if discovery == "ebpf" and made.refused:
        missing(f"eBPF is not to be had here: {made.refused}")
    assert not made.refused
    return made


def seen(scanner: _scan.Scanner) -> twin.Readings:
    assert scanner.scan().visible
    return {w.pid: w.readings[0] for w in scanner.workers() if not w.copy and w.readings[0] is not None}


def agree(scanners: dict[str, _scan.Scanner], below: str) -> None:
    """One look of each discovery between two equal looks of the twin must equal them."""
    deadline = time.monotonic() + AGREED_WITHIN_S
    while True:
        before = twin.look(COMM, cgroup=below)
        looks = {name: seen(scanner) for name, scanner in scanners.items()}
        if twin.look(COMM, cgroup=below) == before and all(look == before for look in looks.values()):
            return
        if time.monotonic() > deadline:
            wrong = {name: look.items() ^ before.items() for name, look in looks.items() if look != before}
            pytest.fail(f"no agreement; differing: {wrong}")
        time.sleep(0.05)


class Host:
    """A farm that changes at random.

    Left out is what the discoveries may tell later than the twin, or better: a worker that leaves the filter's
    names is noticed within 30 s, and a forked copy stays one when its parent is gone.
    """

    def __init__(self, farm: Farm, seed: int) -> None:
        self.farm = farm
        self.dice = random.Random(seed)
        self.titles: dict[int, bytes] = {}

    def title(self) -> bytes:
        total = self.dice.choice([1, 5, 25])
        titles = [
            sidekiq_title(self.dice.randint(0, total), total),
            sidekiq_title(0, total, suffix=" stopping"),
            sidekiq_title(1, 5, tag="t" * self.dice.randint(0, 900)),
            b"sidekiq 7.0.0 lost [1 of",
            b"ruby\0boot.rb",
        ]
        return self.dice.choice(titles)

    def spawn(self, count: int, comm: str) -> list[int]:
        title = self.title()
        pids = self.farm.spawn(count, comm=comm, title=title)
        self.titles |= dict.fromkeys(pids, title)
        return pids

    def end(self, pids: list[int], how: Callable[[list[int]], None]) -> None:
        how(pids)
        for pid in pids:
            del self.titles[pid]

    def retitle(self, pids: list[int]) -> None:
        new = {pid: self.title() for pid in pids}
        self.farm.retitle(new)
        self.titles |= new

    def step(self) -> None:
        farm, dice = self.farm, self.dice
        some = dice.sample(sorted(self.titles), min(len(self.titles), 6))
        match dice.randrange(7):
            case 0:
                self.spawn(dice.randint(1, 8), dice.choice(INSIDE + OUTSIDE))
            case 1:
                self.end(some, farm.kill)
            case 2:
                self.retitle(some)
            case 3:
                for pid in some:
                    if not self.titles[pid].startswith(b"sidekiq"):
                        farm.rename(pid, dice.choice(INSIDE + OUTSIDE))
            case 4:
                for pid in some[:2]:
                    self.titles[pid] = self.title()
                    farm.exec(pid, dice.choice(INSIDE), [self.titles[pid]])
            case 5:
                [parent] = self.spawn(1, dice.choice(INSIDE))
                farm.fork_copies(parent, 2)
                del self.titles[parent]
            case 6:
                self.end(some[:2], farm.zombify)


@pytest.fixture
def host() -> Iterator[tuple[Host, str]]:
    with cgroup("busyweight-parity") as top, Farm() as farm:
        (top / "jobs").mkdir()
        (top / "jobs" / "cgroup.procs").write_text(str(farm.pid))
        yield Host(farm, seed=int(os.environ.get("BUSYWEIGHT_SEED", "20"))), f"/{top.name}"


@pytest.mark.timeout(240)
def test_all_ways_of_finding_processes_agree_on_a_churning_host(host: tuple[Host, str]) -> None:
    churning, below = host
    churning.spawn(20, "bwpar")
    churning.spawn(5, "bwpa")
    scanners = {name: scanner(name, below) for name in ("sweep", "cgroup", "ebpf")}
    for comm in ("sh", "bwpar-short"):
        churning.farm.churn(150, 120, comm=comm)
    agree(scanners, below)
    for _ in range(ROUNDS):
        for _ in range(churning.dice.randint(1, 4)):
            churning.step()
        agree(scanners, below)
    for name, each in scanners.items():
        assert each.fallback() is None, name


def test_a_new_worker_in_a_cgroup_counts_in_the_very_next_scan(host: tuple[Host, str]) -> None:
    churning, below = host
    [pid] = churning.farm.spawn(1, comm="bwpar", title=b"ruby\0boot.rb")
    each = scanner("cgroup", below)
    assert seen(each) == {}
    churning.farm.retitle({pid: sidekiq_title(2)})
    assert seen(each) == {pid: (2, 10, False)}


@pytest.mark.parametrize("hierarchy", [V1, V2])
def test_cgroups_that_come_and_go_are_followed(hierarchy: str) -> None:
    with cgroup("busyweight-parity", hierarchy) as top:
        each = scanner("cgroup", f"/{top.name}")
        assert seen(each) == {}
        with cgroup(f"{top.name}/later", hierarchy) as later:
            with Farm() as other:
                (later / "cgroup.procs").write_text(str(other.pid))
                [pid] = other.spawn(1, comm="bwpar", title=sidekiq_title(4))
                assert seen(each) == {pid: (4, 10, False)}
            seen(each)
            assert seen(each) == {}


@pytest.mark.timeout(120)
def test_a_full_kernel_map() -> None:
    """It is noticed, and from then on a sweep counts the same."""
    each = _scan.Scanner("/proc", "ebpf", [_scan.Selector("sidekiq", comm=["bwfull"])], kept_max=500)
    if each.refused:
        missing(f"eBPF is not to be had here: {each.refused}")
    with room_for(MAP_ENTRIES + 2_000), Farm() as farm:
        workers = farm.spawn(3, comm="bwfull", title=sidekiq_title(1))
        assert (each.scan().discovery, each.scan().pools[0].workers) == ("ebpf", 3)
        farm.spawn(MAP_ENTRIES, comm="bwfull", title=b"irb")
        found = each.scan()
        assert (found.discovery, found.pools[0].workers, each.fallback()) == (
            "sweep",
            3,
            f"ebpf failed: the kernel's map is full ({MAP_ENTRIES} candidates)",
        )
        farm.kill(workers[:1])
        assert each.scan().pools[0].workers == 2
