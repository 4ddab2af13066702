"""PURE. How often HAProxy asks, from what was seen of its polls, against the times of the configuration and what
scans cost.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from agent.config import values
from agent.config.schema import Config
from agent.tools.doctor.finding import Finding, listed


@dataclass(slots=True)
class Seen:
    """One poller under watch, which is known not to have polled from ``since_s`` until the first
    of its ``moments``: (when, polls so far), at each change."""

    polls: int
    since_s: float
    moments: list[tuple[float, int]] = field(default_factory=list)
    until_s: float = 0.0

    def look(self, now_s: float, last_s: float, polls: int) -> None:
        """By now it has made so many polls, the last one so long ago."""
        self.until_s = now_s
        if polls != self.polls:
            self.moments.append((now_s - last_s, polls))
            self.polls = polls

    @property
    def gap_s(self) -> float | None:
        """Seconds between two polls, on average; None before there were two."""
        if len(self.moments) < 2:
            return None
        (from_s, before), (to_s, after) = self.moments[0], self.moments[-1]
        return (to_s - from_s) / (after - before)

    @property
    def quiet_s(self) -> float:
        """The longest time without a poll, which its gap cannot be less than."""
        times = [self.since_s, *(at_s for at_s, _ in self.moments), self.until_s]
        return max(after - before for before, after in pairwise(times))


@dataclass(frozen=True, slots=True)
class PollPace:
    """How often HAProxy asks. ``gap_s`` is from one poll to the next, whoever makes it, and
    ``inter_s`` is agent-inter: ``known``, or the least that it can be. ``measured`` is False
    where somebody polls so seldom that even the gap is only the least that it can be."""

    what: str
    gap_s: float
    inter_s: float
    known: bool
    measured: bool


def pace_of(seen: dict[str, Seen], lines: int | None) -> PollPace:
    """The pace of those who were seen to poll. ``lines`` is how many server lines one HAProxy has for this
    agent, if it was asked: a single agent-inter is as many times the gap between two polls."""
    gaps = {address: gap_s for address, one in seen.items() if (gap_s := one.gap_s)}
    quiet = {address: one.quiet_s for address, one in seen.items() if address not in gaps}
    known = lines is not None and len(gaps) == 1 and not quiet
    least_s = max([*gaps.values(), *quiet.values()]) * (lines if lines and known else 1)
    paces = [f"{address} every {gap_s:.2g} s" for address, gap_s in gaps.items()]
    paces += [f"{address} not once in {quiet_s:.2g} s" for address, quiet_s in quiet.items()]
    about = "about" if known else "at least"
    return PollPace(
        f"polls: {listed(paces)}; so agent-inter is {about} {least_s:.2g} s",
        1 / sum(1 / each_s for each_s in [*gaps.values(), *quiet.values()]),
        least_s,
        known,
        not quiet,
    )


def judge(config: Config, pace: PollPace) -> Iterator[Finding]:
    """The pace against the times of the configuration."""
    scan, reply = config.scan, config.reply
    what, show = pace.what, values.show_duration
    faults = False
    if pace.gap_s >= scan.give_up_after:
        faults = True
        remedy = f"make scan.give_up_after ({show(scan.give_up_after)}) longer than agent-inter"
        yield Finding("fail", "agent-inter", f"{what}; every sample expires before the next poll", remedy)
    if reply.on_stop == "release" and reply.release_for < 2 * pace.inter_s:
        faults = True
        remedy = f"make reply.release_for ({show(reply.release_for)}) longer than two agent-inter"
        yield Finding("warn", "agent-inter", f"{what}; a stopping agent may be gone before the next poll", remedy)
    if pace.known and scan.wait_at_most >= pace.inter_s:
        faults = True
        remedy = f"make scan.wait_at_most ({show(scan.wait_at_most)}) shorter, or agent-inter longer"
        yield Finding("warn", "agent-inter", f"{what}; a reply may come too late", remedy)
    if pace.known and scan.fresh_for >= pace.inter_s:
        faults = True
        remedy = f"make scan.fresh_for ({show(scan.fresh_for)}) half of agent-inter, or agent-inter longer"
        yield Finding(
            "warn", "agent-inter", f"{what}; polls are answered from a scan that an earlier poll started", remedy
        )
    fits = f"give_up_after {show(scan.give_up_after)} and release_for {show(reply.release_for)}"
    if not faults and pace.measured:
        yield Finding("ok", "agent-inter", f"{what}; fresh_for {show(scan.fresh_for)}, {fits} are fine")
    elif not faults:
        remedy = (
            "make give_up_after longer than agent-inter, and release_for longer than two agent-inter: see haproxy.cfg"
        )
        yield Finding("warn", "agent-inter", f"{what}; unknown whether {fits} are long enough", remedy)


def afford(config: Config, status: Mapping[str, Any], pace: PollPace) -> Iterator[Finding]:
    """Whether max_duty permits a scan for each poll that wants one, by what the agent tells of its scans."""
    sample, ended = status.get("sample"), status.get("scanner", {}).get("ended")
    if not sample or not ended or not ended["done"] or not pace.measured:
        return
    scan, way = config.scan, sample["discovery"]
    # The first scan and those that re-check cost more, and the newest may be one of them.
    cost_s = min(sample["cost_ms"] / 1000, ended["cost_s"] / ended["done"])
    apart_s, wanted_s = 100 * cost_s / scan.max_duty, max(pace.gap_s, scan.fresh_for / 2, scan.min_gap)
    what = f"a scan by {way} takes {1000 * cost_s:.2g} ms of CPU, {100 * cost_s / wanted_s:.2g}% of a core at this pace"
    if apart_s <= wanted_s:
        yield Finding("ok", "scan cost", what)
        return
    what += f"; scan.max_duty ({scan.max_duty:g}%) permits one every {apart_s:.2g} s, so replies can be that old"
    remedy = "raise scan.max_duty or make agent-inter longer"
    if way == "sweep":
        remedy = f"permit eBPF (systemd/ebpf.conf) or set workers.cgroups, so that only workers are read; or {remedy}"
    yield Finding("warn", "scan cost", what, remedy)
