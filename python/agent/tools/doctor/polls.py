"""WORLD. Who polls the agent, and whether `allow` permits it. Watches polls for up to half a minute; `pace` judges how
often they come.
"""

import time
from collections.abc import Iterator

from agent.config import values
from agent.tools import client
from agent.tools.doctor.agent import reached
from agent.tools.doctor.context import CheckContext
from agent.tools.doctor.finding import Finding, listed
from agent.tools.doctor.pace import Seen, afford, judge, pace_of

# Long enough for three polls at HAProxy's default agent-inter, 2 s.
WATCH_S = 7.0
POLLS_WANTED = 3
# Pollers that poll less often are watched for longer, up to this.
RARE_S = 30.0
# People and doctor poll from this host too; an address with this many polls is a balancer's.
BALANCERS_POLLS = 5
LOOK_S = 0.1
# Addresses that polled within this time are watched.
RECENT_S = 60.0
LOOPBACK = ("127.", "[::1]")


def allow(context: CheckContext) -> Iterator[Finding]:
    """Which networks may poll, and which addresses did."""
    if context.status is None:
        return
    pollers = context.status["polls"]["pollers"]
    refused = [poller["address"] for poller in pollers if not poller["allowed"]]
    welcome = [poller["address"] for poller in pollers if poller["allowed"]]
    if refused:
        what = f"refused: {listed(refused)}; allowed: {listed(context.config.allow)}"
        yield Finding("warn", "allow", what, "if these are your balancers, add them to allow and reload")
    elif context.config.allow:
        yield Finding("ok", "allow", f"{listed(context.config.allow)}; no poll was refused")
    else:
        yield Finding("ok", "allow", "empty: anyone who can reach the port may poll")
    if welcome:
        yield Finding("ok", "pollers", f"{listed(welcome)}")
    elif all(address.startswith(LOOPBACK) for address in context.status["polls"]["listening"]):
        what = "none so far, and only this host can reach the agent"
        yield Finding("warn", "pollers", what, "set listen to an address that the balancers can reach")
    else:
        what = "none so far"
        yield Finding("warn", "pollers", what, "does haproxy.cfg have agent-check? See busyweight haproxy snippet")


def watch(context: CheckContext) -> dict[str, Seen]:
    """The recent pollers, except doctor, by address, after some more polls of each. Waits for rare
    pollers, but not for ever. Raises ClientError."""
    polls = context.status["polls"] if context.status else {"pollers": [], "listening": []}
    recent = {poller["address"] for poller in polls["pollers"] if poller["allowed"] and poller["last_s"] <= RECENT_S}
    # Doctor has polled from there too, so the last poll may not be a balancer's.
    own = {reached(values.address(text))[0] for text in polls["listening"]}
    seen: dict[str, Seen] = {}
    began_s = time.monotonic()
    while True:
        pollers = client.ask(context.control, "status")["status"]["polls"]["pollers"]
        now_s = time.monotonic()
        for poller in pollers:
            address, number, last_s = poller["address"], poller["polls"], poller["last_s"]
            if address in recent and address not in seen:
                at_s = now_s - last_s
                seen[address] = Seen(number, at_s, [] if address in own else [(at_s, number)])
            if address in seen:
                seen[address].look(now_s, last_s, number)
        early = now_s - began_s < WATCH_S
        wanted = POLLS_WANTED if early else 2
        awaited = [one for one in seen.values() if early or one.moments or one.polls >= BALANCERS_POLLS]
        if now_s - began_s >= RARE_S or all(len(one.moments) >= wanted for one in awaited):
            return seen
        time.sleep(LOOK_S)


def agent_inter(context: CheckContext, lines: int | None) -> Iterator[Finding]:
    """How often HAProxy polls, compared with the configured times. ``lines`` is how many server lines
    HAProxy has for this agent, if its stats socket was queried; without it the gap between polls is only a
    lower bound of agent-inter."""
    if context.status is None:
        return
    try:
        # One of this host's addresses without a poll may be listed only because doctor polls.
        seen = {address: one for address, one in watch(context).items() if one.moments}
    except client.ClientError as error:
        yield Finding("fail", "agent-inter", f"the agent stopped answering while doctor watched its polls: {error}")
        return
    if seen:
        pace = pace_of(seen, lines)
        yield from judge(context.config, pace)
        yield from afford(context.config, context.status, pace)
    elif any(poller["allowed"] for poller in context.status["polls"]["pollers"]):
        release_for = values.show_duration(context.config.reply.release_for)
        remedy = (
            f"is HAProxy still polling? If rarely, set reply.release_for ({release_for}) to more than twice agent-inter"
        )
        yield Finding("warn", "agent-inter", "unknown: no poll was seen", remedy)
