"""WORLD. Who polls the agent, whether they may, and how often: watched for half a minute at most."""

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise

from agent.config import values
from agent.tools import client
from agent.tools.doctor.finding import Finding, Patient, listed
from agent.tools.doctor.running import reached

# Long enough for three polls at HAProxy's default agent-inter, 2 s.
WATCH_S = 7.0
POLLS_WANTED = 3
# Who polls more seldom is watched for longer, but no longer than this.
SELDOM_S = 30.0
# People and doctor poll from this host, too; who polled so often is more than that.
BALANCERS_POLLS = 5
LOOK_S = 0.1
# Who polled within this time is watched.
OF_LATE_S = 60.0
LOOPBACK = ("127.", "[::1]")


def allow(patient: Patient) -> Iterator[Finding]:
    """The networks that may poll, against those who did."""
    if patient.status is None:
        return
    pollers = patient.status["polls"]["pollers"]
    refused = [poller["address"] for poller in pollers if not poller["allowed"]]
    welcome = [poller["address"] for poller in pollers if poller["allowed"]]
    if refused:
        what = f"refused: {listed(refused)}; allowed: {listed(patient.config.allow)}"
        yield Finding("warn", "allow", what, "if these are your balancers, add them to allow and reload")
    elif patient.config.allow:
        yield Finding("ok", "allow", f"{listed(patient.config.allow)}; no poll was refused")
    else:
        yield Finding("ok", "allow", "empty: anyone who can reach the port may poll")
    if welcome:
        yield Finding("ok", "pollers", f"{listed(welcome)}")
    elif all(address.startswith(LOOPBACK) for address in patient.status["polls"]["listening"]):
        what = "none so far, and only this host can reach the agent"
        yield Finding("warn", "pollers", what, "set listen to an address that the balancers can reach")
    else:
        what = "none so far"
        yield Finding("warn", "pollers", what, "does haproxy.cfg have agent-check? See busyweight haproxy snippet")


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


def watch(patient: Patient) -> dict[str, Seen]:
    """Those who polled of late before the doctor did, by address, after some more polls. Those
    who poll seldom are waited for, but not for ever. Raises ClientError."""
    polls = patient.status["polls"] if patient.status else {"pollers": [], "listening": []}
    late = {poller["address"] for poller in polls["pollers"] if poller["allowed"] and poller["last_s"] <= OF_LATE_S}
    # The doctor has polled from there, too, so the last poll is not for sure a balancer's.
    own = {reached(values.address(text))[0] for text in polls["listening"]}
    seen: dict[str, Seen] = {}
    began_s = time.monotonic()
    while True:
        pollers = client.ask(patient.control, "status")["status"]["polls"]["pollers"]
        now_s = time.monotonic()
        for poller in pollers:
            address, number, last_s = poller["address"], poller["polls"], poller["last_s"]
            if address in late and address not in seen:
                at_s = now_s - last_s
                seen[address] = Seen(number, at_s, [] if address in own else [(at_s, number)])
            if address in seen:
                seen[address].look(now_s, last_s, number)
        early = now_s - began_s < WATCH_S
        wanted = POLLS_WANTED if early else 2
        awaited = [one for one in seen.values() if early or one.moments or one.polls >= BALANCERS_POLLS]
        if now_s - began_s >= SELDOM_S or all(len(one.moments) >= wanted for one in awaited):
            return seen
        time.sleep(LOOK_S)


@dataclass(frozen=True, slots=True)
class Pace:
    """How often HAProxy asks. ``gap_s`` is from one poll to the next, whoever makes it, and
    ``inter_s`` is agent-inter: ``known``, or the least that it can be. ``measured`` is False
    where somebody polls so seldom that even the gap is only the least that it can be."""

    what: str
    gap_s: float
    inter_s: float
    known: bool
    measured: bool


def agent_inter(patient: Patient, lines: int | None) -> Iterator[Finding]:
    """How often HAProxy asks, against the times of the configuration. ``lines`` is how many
    server lines one HAProxy has for this agent, if it was asked: a single agent-inter is as
    many times the gap between two polls. Without it the gap is the least that it can be."""
    if patient.status is None:
        return
    try:
        # An own address that was not seen to poll may be there only because doctor polls.
        seen = {address: one for address, one in watch(patient).items() if one.moments}
    except client.ClientError as error:
        yield Finding("fail", "agent-inter", f"the agent went away while its polls were watched: {error}")
        return
    if seen:
        pace = _pace(seen, lines)
        yield from _judge(patient, pace)
        yield from _afford(patient, pace)
    elif any(poller["allowed"] for poller in patient.status["polls"]["pollers"]):
        release_for = values.show_duration(patient.config.reply.release_for)
        remedy = (
            f"is HAProxy still polling? If rarely, make reply.release_for ({release_for}) longer than two agent-inter"
        )
        yield Finding("warn", "agent-inter", "unknown: no poll was seen", remedy)


def _pace(seen: dict[str, Seen], lines: int | None) -> Pace:
    gaps = {address: gap_s for address, one in seen.items() if (gap_s := one.gap_s)}
    quiet = {address: one.quiet_s for address, one in seen.items() if address not in gaps}
    known = lines is not None and len(gaps) == 1 and not quiet
    least_s = max([*gaps.values(), *quiet.values()]) * (lines if lines and known else 1)
    paces = [f"{address} every {gap_s:.2g} s" for address, gap_s in gaps.items()]
    paces += [f"{address} not once in {quiet_s:.2g} s" for address, quiet_s in quiet.items()]
    about = "about" if known else "at least"
    return Pace(
        f"polls: {listed(paces)}; so agent-inter is {about} {least_s:.2g} s",
        1 / sum(1 / each_s for each_s in [*gaps.values(), *quiet.values()]),
        least_s,
        known,
        not quiet,
    )


def _judge(patient: Patient, pace: Pace) -> Iterator[Finding]:
    scan, reply = patient.config.scan, patient.config.reply
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


def _afford(patient: Patient, pace: Pace) -> Iterator[Finding]:
    """Whether max_duty permits a scan for each poll that wants one."""
    told = patient.status or {}
    sample, ended = told.get("sample"), told.get("scanner", {}).get("ended")
    if not sample or not ended or not ended["done"] or not pace.measured:
        return
    scan, way = patient.config.scan, sample["discovery"]
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
