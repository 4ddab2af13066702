"""PURE. How often HAProxy polls, estimated from its polls, and whether the configured times and the scans' cost fit."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from agent.config import values
from agent.config.schema import Config
from agent.tools.doctor.finding import Finding, listed


@dataclass(slots=True)
class Seen:
    """One watched poller. ``moments`` has (when, polls so far) for each change; from ``since_s`` to the first of them
    it is known not to have polled."""

    polls: int
    since_s: float
    moments: list[tuple[float, int]] = field(default_factory=list)
    until_s: float = 0.0

    def look(self, now_s: float, last_s: float, polls: int) -> None:
        """Takes a look: ``polls`` so far, the last one ``last_s`` ago."""
        self.until_s = now_s
        if polls != self.polls:
            self.moments.append((now_s - last_s, polls))
            self.polls = polls

    @property
    def gap_s(self) -> float | None:
        """Average seconds between two polls; None before the second one."""
        if len(self.moments) < 2:
            return None
        (from_s, before), (to_s, after) = self.moments[0], self.moments[-1]
        return (to_s - from_s) / (after - before)

    @property
    def quiet_s(self) -> float:
        """The longest time without a poll: a lower bound of the gap."""
        times = [self.since_s, *(at_s for at_s, _ in self.moments), self.until_s]
        return max(after - before for before, after in pairwise(times))


@dataclass(frozen=True, slots=True)
class PollPace:
    """How often HAProxy polls. ``gap_s`` is the time between two polls from any address. ``inter_s`` is agent-inter if
    ``known``, else its lower bound. Without ``measured`` some poller polls so rarely that ``gap_s`` is a lower bound
    too."""

    what: str
    gap_s: float
    inter_s: float
    known: bool
    measured: bool


def pace_of(seen: dict[str, Seen], lines: int | None) -> PollPace:
    """The pace of these pollers. ``lines`` is how many server lines HAProxy has for this agent, if its stats
    socket was queried: agent-inter is that many times the gap between two polls."""
    gaps = {address: gap_s for address, one in seen.items() if (gap_s := one.gap_s)}
    quiet = {address: one.quiet_s for address, one in seen.items() if address not in gaps}
    known = lines is not None and len(gaps) == 1 and not quiet
    least_s = max([*gaps.values(), *quiet.values()]) * (lines if lines and known else 1)
    paces = [f"{address} every {gap_s:.2g} s" for address, gap_s in gaps.items()]
    paces += [f"{address} no poll in {quiet_s:.2g} s" for address, quiet_s in quiet.items()]
    about = "about" if known else "at least"
    return PollPace(
        f"polls: {listed(paces)}; so agent-inter is {about} {least_s:.2g} s",
        1 / sum(1 / each_s for each_s in [*gaps.values(), *quiet.values()]),
        least_s,
        known,
        not quiet,
    )


def judge(config: Config, pace: PollPace) -> Iterator[Finding]:
    """Whether the configured times suit the pace."""
    scan, reply = config.scan, config.reply
    what, show = pace.what, values.show_duration
    faults = False
    if pace.gap_s >= scan.give_up_after:
        faults = True
        remedy = f"set scan.give_up_after ({show(scan.give_up_after)}) to more than agent-inter"
        yield Finding("fail", "agent-inter", f"{what}; every sample expires before the next poll", remedy)
    if reply.on_stop == "release" and reply.release_for < 2 * pace.inter_s:
        faults = True
        remedy = f"set reply.release_for ({show(reply.release_for)}) to more than twice agent-inter"
        yield Finding("warn", "agent-inter", f"{what}; a stopping agent may be gone before the next poll", remedy)
    if pace.known and scan.wait_at_most >= pace.inter_s:
        faults = True
        remedy = f"reduce scan.wait_at_most ({show(scan.wait_at_most)}), or increase agent-inter"
        yield Finding("warn", "agent-inter", f"{what}; a reply may come too late", remedy)
    if pace.known and scan.fresh_for >= pace.inter_s:
        faults = True
        remedy = f"set scan.fresh_for ({show(scan.fresh_for)}) to half of agent-inter, or increase agent-inter"
        yield Finding(
            "warn", "agent-inter", f"{what}; replies are based on a scan that an earlier poll started", remedy
        )
    fits = f"give_up_after {show(scan.give_up_after)} and release_for {show(reply.release_for)}"
    if not faults and pace.measured:
        yield Finding("ok", "agent-inter", f"{what}; fresh_for {show(scan.fresh_for)}, {fits} are fine")
    elif not faults:
        remedy = "set give_up_after to more than agent-inter (in haproxy.cfg) and release_for to more than twice that"
        yield Finding("warn", "agent-inter", f"{what}; unknown whether {fits} are long enough", remedy)


def afford(config: Config, status: Mapping[str, Any], pace: PollPace) -> Iterator[Finding]:
    """Whether max_duty permits a scan for each poll that needs one, by the cost of the agent's scans."""
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
    remedy = "increase scan.max_duty or agent-inter"
    if way == "sweep":
        remedy = f"permit eBPF (systemd/ebpf.conf) or set workers.cgroups, so that only workers are read; or {remedy}"
    yield Finding("warn", "scan cost", what, remedy)
