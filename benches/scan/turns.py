"""The turns of the scan bench: which contestant runs when, on which host.

Every contestant runs in its own process, on the same host, in turns. A turn is two scans: the first after a pause, when
many re-checks are due, the second shortly afterwards, when few are; between them a process comes and goes. The second
is the steady state that is compared, minus the cost of its few re-checks, which the first shows. A host
grows first (first scans, in fresh processes), then ages past two minutes, then shrinks (steady state). This module
must never judge what it measures.
"""

import contextlib
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

from benches.harness import Contestant, Spread, UnavailableError, compile_c
from benches.scan.host import BUSY, WORKERS, Host, new_host

OURS = ("busyweight-sweep", "busyweight-cgroup", "busyweight-ebpf")
# Apart from each other: one that walks the whole host leaves a colder cache behind, the bigger the host is.
LISTING = ("raw-getdents", "raw-kept", "busyweight-sweep")
FLAT = ("raw-kept", "busyweight-cgroup", "busyweight-ebpf")
STEADY = ("original", "psutil", "raw-cmdline", "raw-getdents", "raw-kept", *OURS)
FIRST = ("original", "raw-cmdline", "raw-comm", "raw-getdents", *OURS)
STEADY_STATE = ("cpu_ns", "gross_cpu_ns", "user_ns", "sys_ns", "wall_ns", "rechecked", "unchanged_host_cpu_ns")
AFTER_PAUSE = ("after_pause_cpu_ns", "after_pause_rechecked")
PACED_ROUNDS = 20
PACE_S = 0.5  # two scans a second
BREATH_S = 0.003  # before a compared scan: each finds an idle CPU, as a real agent's scans do
SYSCALL_COUNTS = 9  # of scans in which no re-check was due
SYSCALL_TRIES = 60
SCANNING_THREAD = "reader"  # requesting a scan and hearing of its end take one call each
RECHECKS_THAT_TELL = 20  # with fewer, a pause says little about the cost of one
MEMORY_WORKERS = 2_000
SPAWNS = 1_000

Results = dict[str, Any]
Scan = dict[str, int]  # what a contestant answers
Item = TypeVar("Item")


class Bench:
    """One run: the contestants, what was found, and which contestants cannot run here."""

    def __init__(self, names: Sequence[str], rounds: int) -> None:
        self.names = names
        self.rounds = rounds
        self.unavailable: dict[str, str] = {}
        here = Path(__file__).parent
        self._rawscan = str(compile_c("rawscan", [here / "rawscan.c"]))
        self._forkexec = str(compile_c("forkexec", [here / "forkexec.c"]))

    def start(self, name: str, host: Host) -> Contestant | None:
        """The contestant, ready; None (and noted) if it cannot run here."""
        kind, _, way = name.partition("-")
        command = [self._rawscan, way] if kind == "raw" else [sys.executable, "-m", "benches.scan.contestants", name]
        cgroup = f"/{host.cgroup.name}" if host.cgroup else ""
        try:
            return Contestant(name, command if kind == "raw" else [*command, cgroup])
        except UnavailableError as reason:
            self.unavailable[name] = str(reason)
            return None

    def first_scans(self, host: Host) -> Results:
        """Scans by processes that have just started, and what getting ready cost."""
        samples: dict[str, list[Scan]] = {}
        for number in range(-1, self.rounds):  # the first round only warms the kernel's own caches
            for name in _rotated([name for name in FIRST if name in self.names], number):
                if name in self.unavailable or not (contestant := self.start(name, host)):
                    continue
                try:
                    with contestant:
                        scan = _checked(contestant.ask("scan"), name)
                except UnavailableError as reason:  # some only find out when they scan
                    self.unavailable[name] = str(reason)
                    continue
                if number >= 0:
                    samples.setdefault(name, []).append({**scan, "ready_cpu_ns": contestant.ready["cpu_ns"]})
        return {name: _spreads(scans, ("cpu_ns", "wall_ns", "ready_cpu_ns")) for name, scans in samples.items()}

    def in_turns(self, host: Host, contestants: Sequence[Contestant], rounds: int, pace_s: float) -> Results:
        """Turns of two scans each; a round starts no sooner than `pace_s` after the last."""
        samples: dict[str, list[Scan]] = {contestant.name: [] for contestant in contestants}
        for number in range(rounds):
            begun = time.monotonic()
            for contestant in _rotated(contestants, number):
                due = _checked(contestant.ask("scan"), contestant.name)
                host.stir()
                time.sleep(BREATH_S)
                scan = _checked(contestant.ask("scan"), contestant.name)
                scan["after_pause_cpu_ns"] = due["cpu_ns"]
                if "rechecked" in due:
                    scan["after_pause_rechecked"] = due["rechecked"]
                if contestant.name in OURS:
                    time.sleep(BREATH_S)
                    scan["unchanged_host_cpu_ns"] = contestant.ask("scan")["cpu_ns"]
                samples[contestant.name].append(scan)
            time.sleep(max(0.0, begun + pace_s - time.monotonic()))
        return {name: _steady(scans) for name, scans in samples.items()}

    def steady(self, host: Host, contestants: Sequence[Contestant]) -> Results:
        """Steady state at the host's present size: all in turns, some twice a second, system calls."""
        for contestant in contestants:  # see the host as it is now
            contestant.ask("scan")
            contestant.ask("scan")
        listing, flat = ([one for one in contestants if one.name in names] for names in (LISTING, FLAT))
        return {
            "all_in_turns": self.in_turns(host, contestants, self.rounds, PACE_S),
            "listing_twice_a_second": self.in_turns(host, listing, PACED_ROUNDS, PACE_S),
            "flat_twice_a_second": self.in_turns(host, flat, PACED_ROUNDS, PACE_S),
            "syscalls": {contestant.name: _syscalls(contestant, host) for contestant in contestants},
        }

    def age(self, contestants: Sequence[Contestant], seconds: float) -> None:
        """Lets the host's processes age, with a scan now and then."""
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            for contestant in contestants:
                contestant.ask("scan")
            time.sleep(min(5.0, left))

    def hosts(self, sizes: Sequence[int], *, threads: int, age_s: float) -> Results:
        """First scans while one host grows, steady state while it shrinks again."""
        results: Results = {}
        with new_host(max(sizes) * threads, threads=threads) as host, contextlib.ExitStack() as stack:
            for size in sizes:
                _say(f"{size} processes of {threads} thread(s): first scans")
                host.resize(size)
                results[label(size, threads)] = {
                    "processes": size,
                    "threads": threads,
                    "first": self.first_scans(host),
                }
            started = (self.start(name, host) for name in self.names if name in STEADY and name not in self.unavailable)
            contestants = [stack.enter_context(contestant) for contestant in started if contestant]
            _say(f"growing {age_s:g} s old")
            self.age(contestants, age_s)
            for size in reversed(sizes):
                _say(f"{size} processes of {threads} thread(s): steady state")
                host.resize(size)
                results[label(size, threads)]["steady"] = self.steady(host, contestants)
        return results

    def memory(self) -> Results | None:
        """Private memory of a scanner for each additional worker."""
        with new_host(WORKERS + MEMORY_WORKERS) as host:
            contestant = self.start("busyweight-sweep", host)
            if not contestant:
                return None
            with contestant:
                contestant.ask("scan")
                before = contestant.ask("memory")["private_bytes"]
                host.add_workers(MEMORY_WORKERS)
                contestant.ask("scan")
                contestant.ask("scan")
                after = contestant.ask("memory")["private_bytes"]
        return {"private_bytes": before, "bytes_per_worker": (after - before) / MEMORY_WORKERS}

    def fork_exec(self, turns: int) -> Results:
        """A process from birth to death, with the hooks attached and without, in turns: off, on, off."""
        off: list[float] = []
        again: list[float] = []
        on: list[float] = []
        with new_host(WORKERS) as host, Contestant("forkexec", [self._forkexec]) as loop:
            for _ in range(turns):
                off.append(loop.ask(str(SPAWNS))["cpu_ns"] / SPAWNS)
                if "busyweight-ebpf" not in self.unavailable and (hooks := self.start("busyweight-ebpf", host)):
                    with hooks:
                        hooks.ask("scan")
                        on.append(loop.ask(str(SPAWNS))["cpu_ns"] / SPAWNS)
                again.append(loop.ask(str(SPAWNS))["cpu_ns"] / SPAWNS)
        without = [(a + b) / 2 for a, b in zip(off, again, strict=True)]
        return {
            "without_hooks_cpu_ns": Spread.of(without),
            "with_hooks_cpu_ns": Spread.of(on) if on else None,
            "ratio": Spread.of([a / b for a, b in zip(on, without, strict=True)]) if on else None,
            "ratio_of_nothing_changed": Spread.of([b / a for a, b in zip(off, again, strict=True)]),
        }


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def label(size: int, threads: int) -> str:
    """A host's name in the results."""
    return str(size) if threads == 1 else f"{size}x{threads}"


def _rotated(items: Sequence[Item], number: int) -> list[Item]:
    start = number % len(items) if items else 0
    return [*items[start:], *items[:start]]


def _checked(scan: Scan, name: str) -> Scan:
    """Additional busy workers may be others' on this machine; fewer than the host's own are a wrong scan."""
    if scan.get("busy", BUSY) < BUSY:
        raise SystemExit(f"{name} counts {scan['busy']} busy workers of {BUSY}: its cost means nothing")
    return scan


def _steady(scans: Sequence[Scan]) -> Results:
    """Spreads of one contestant's turns. `cpu_ns` is without re-checks, `gross_cpu_ns` with those that had fallen due
    since the scan before; `recheck_cpu_ns` is one, by the scans after a pause, which have many."""
    telling = [scan for scan in scans if scan.get("after_pause_rechecked", 0) >= RECHECKS_THAT_TELL]
    each = [
        (scan["after_pause_cpu_ns"] - scan["unchanged_host_cpu_ns"]) / scan["after_pause_rechecked"] for scan in telling
    ]
    one_ns = max(0.0, statistics.median(each)) if each else 0.0
    net = [
        {**scan, "gross_cpu_ns": scan["cpu_ns"], "cpu_ns": round(scan["cpu_ns"] - one_ns * scan.get("rechecked", 0))}
        for scan in scans
    ]
    spreads = {**_spreads(net, STEADY_STATE), **_spreads(scans, AFTER_PAUSE)}
    return {**spreads, "recheck_cpu_ns": Spread.of(each)} if each else spreads


def _spreads(scans: Sequence[Scan], keys: Sequence[str]) -> dict[str, Spread]:
    return {key: Spread.of([scan[key] for scan in scans]) for key in keys if scans and key in scans[0]}


def _syscalls(contestant: Contestant, host: Host) -> float | None:
    counts = []
    try:
        for _ in range(SYSCALL_TRIES):
            contestant.ask("scan")
            host.stir()
            calls, scan = contestant.count_syscalls(thread=SCANNING_THREAD if contestant.name in OURS else "")
            if not scan.get("rechecked"):
                counts.append(calls)
            if len(counts) == SYSCALL_COUNTS:
                break
    except UnavailableError:
        return None
    return statistics.median(counts) if counts else None
