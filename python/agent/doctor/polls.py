"""WORLD. Who polls the agent, whether they may, and how often: watched for a few seconds."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from agent import client, values
from agent.doctor.finding import Finding, Patient, listed

# Long enough for three polls at HAProxy's default agent-inter, 2 s.
WATCH_S = 7.0
LOOK_S = 0.1
POLLS_WANTED = 3
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
        what = f"turned away: {listed(refused)}; allowed are {listed(patient.config.allow)}"
        yield Finding("warn", "allow", what, "if these are your balancers, add them to allow and reload")
    elif patient.config.allow:
        yield Finding("ok", "allow", f"{listed(patient.config.allow)}; nobody was turned away")
    else:
        yield Finding("ok", "allow", "empty: anyone who can reach the port may poll")
    if welcome:
        yield Finding("ok", "pollers", f"{listed(welcome)}")
    elif all(address.startswith(LOOPBACK) for address in patient.status["polls"]["listening"]):
        what = "none so far, and only this host itself can reach the agent"
        yield Finding("warn", "pollers", what, "set listen to an address that the balancers reach")
    else:
        what = "none so far"
        yield Finding("warn", "pollers", what, "does haproxy.cfg have agent-check? See busyweight haproxy snippet")


@dataclass(slots=True)
class Seen:
    """One poller under watch: (moment, polls so far), at each change."""

    polls: int
    moments: list[tuple[float, int]] = field(default_factory=list)

    def look(self, now_s: float, polls: int) -> None:
        """It has made so many polls by now."""
        if polls != self.polls:
            self.moments.append((now_s, polls))
            self.polls = polls

    @property
    def gap_s(self) -> float | None:
        """Seconds between two polls, on average; None before there were two."""
        if len(self.moments) < 2:
            return None
        (from_s, before), (to_s, after) = self.moments[0], self.moments[-1]
        return (to_s - from_s) / (after - before)

    @property
    def enough(self) -> bool:
        return len(self.moments) >= POLLS_WANTED


def watch(patient: Patient, clock: Callable[[], float] = time.monotonic) -> dict[str, Seen]:
    """Those who polled of late before the doctor did, by address, after some more polls or some
    seconds. Raises ClientError."""
    before = patient.status["polls"]["pollers"] if patient.status else []
    late = [poller for poller in before if poller["allowed"] and poller["last_s"] <= OF_LATE_S]
    seen = {poller["address"]: Seen(poller["polls"]) for poller in late}
    end_s = clock() + WATCH_S
    while True:
        pollers = client.ask(patient.control, "status")["status"]["polls"]["pollers"]
        now_s = clock()
        for poller in pollers:
            if poller["address"] in seen:
                seen[poller["address"]].look(now_s - poller["last_s"], poller["polls"])
        if now_s >= end_s or all(one.enough for one in seen.values()):
            return seen
        time.sleep(LOOK_S)


def agent_inter(patient: Patient, lines: int | None) -> Iterator[Finding]:
    """How often HAProxy asks, against the times of the configuration. ``lines`` is how many
    server lines one HAProxy has for this agent, if it was asked: a single agent-inter is as
    many times the gap between two polls. Without it the gap is the least that it can be."""
    if patient.status is None:
        return
    try:
        seen = watch(patient)
    except client.ClientError as error:
        yield Finding("fail", "agent-inter", f"the agent went away while it was watched: {error}")
        return
    gaps = {address: gap_s for address, one in seen.items() if (gap_s := one.gap_s)}
    if not gaps:
        often = f"not two polls within {WATCH_S:g} s" if seen else f"nobody polled within {OF_LATE_S:g} s"
        yield Finding("ok", "agent-inter", f"{often}, so it cannot be told")
        return
    known = lines is not None and len(gaps) == 1
    least_s = max(gaps.values()) * (lines if lines and known else 1)
    what = listed([f"{address} every {gap_s:.2g} s" for address, gap_s in gaps.items()])
    about = "about" if known else "at least"
    yield from _judge(
        patient,
        f"polls: {what}; so it is {about} {least_s:.2g} s",
        1 / sum(1 / g for g in gaps.values()),
        least_s,
        known,
    )


def _judge(patient: Patient, what: str, gap_s: float, inter_s: float, known: bool) -> Iterator[Finding]:
    scan, reply = patient.config.scan, patient.config.reply
    show = values.show_duration
    faults = False
    if gap_s >= scan.give_up_after:
        faults = True
        remedy = f"make scan.give_up_after ({show(scan.give_up_after)}) longer than agent-inter"
        yield Finding("fail", "agent-inter", f"{what}; by the next poll every sample is too old to be believed", remedy)
    if reply.on_stop == "release" and reply.release_for < 2 * inter_s:
        faults = True
        remedy = f"make reply.release_for ({show(reply.release_for)}) longer than two agent-inter"
        yield Finding("warn", "agent-inter", f"{what}; a stopping agent may be gone before it was asked", remedy)
    if known and scan.wait_at_most >= inter_s:
        faults = True
        remedy = f"make scan.wait_at_most ({show(scan.wait_at_most)}) shorter, or agent-inter longer"
        yield Finding("warn", "agent-inter", f"{what}; an answer may come too late", remedy)
    if known and scan.fresh_for > 2 * inter_s:
        faults = True
        remedy = f"make agent-inter longer, or scan.fresh_for ({show(scan.fresh_for)}) shorter"
        yield Finding("warn", "agent-inter", f"{what}; most polls get the same answer as the one before", remedy)
    if not faults:
        fits = f"fresh_for {show(scan.fresh_for)}, give_up_after {show(scan.give_up_after)}"
        yield Finding("ok", "agent-inter", f"{what}; {fits} and release_for {show(reply.release_for)} go with it")
