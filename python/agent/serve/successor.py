"""WORLD. Whether another agent could start in place of this one now, and would listen on the same addresses.

A restart does not release the weight, because another agent follows at once. If none can, HAProxy would keep the last
weight for ever. So this is checked first, by reading what a start would read. It changes nothing, and keeps nothing
open.
"""

import asyncio
import logging
from collections.abc import Callable, Mapping
from dataclasses import replace
from socket import socket

from agent.config.schema import Config
from agent.config.toml import ConfigError
from agent.config.values import show_address
from agent.operate.threads import NoThreadError, run_in_thread
from agent.serve.server import Address, ListenError, open_listeners
from agent.serve.startup import StartError, load_whole, open_scanner

log = logging.getLogger("busyweight")

# For this check; well within the unit's TimeoutStopSec=.
CHECK_WITHIN_S = 5.0


async def why_release(load: Callable[[], Config], sockets: Mapping[Address, socket] | None) -> str:
    """The description of the last reply if no other agent can follow here; empty if one can. Logs why."""
    try:
        found, left = await asyncio.wait_for(run_in_thread(lambda: faults(load, sockets)), CHECK_WITHIN_S)
    except (TimeoutError, NoThreadError):
        # The name service is slow, or the host is short of threads: the next agent will have to wait too.
        return ""
    for fault in found:
        log.error("%s", fault)
    for address in left:
        log.warning("the next agent will not listen on %s, so the weight is released there", show_address(address))
    if found:
        return "stopping, and cannot start again"
    return "stopping here" if left else ""


def faults(load: Callable[[], Config], sockets: Mapping[Address, socket] | None) -> tuple[list[str], list[Address]]:
    """Why another agent could not take over, one line per error, none if it could; and the addresses on which it
    would not listen. ``sockets`` are this agent's by address, None if systemd passes them to the next one too. Call
    it on a thread.
    """
    try:
        config = load_whole(load).config
        # Every discovery reads the same root for the same workers; this one touches nothing else.
        open_scanner(replace(config, scan=replace(config.scan, discovery="sweep")))
        if sockets is None:
            return [], []
        for listener in open_listeners(config.listen, None, have=sockets).values():
            listener.close()
    except ConfigError as error:
        return error.faults, []
    except (ListenError, StartError) as error:
        return [str(error)], []
    except Exception as error:
        # Whatever it is, another agent would fail in the same way.
        return [f"the agent failed: {error!r}"], []
    return [], [address for address in sockets if not _covered(address, config.listen)]


def _covered(address: Address, listen: tuple[Address, ...]) -> bool:
    """Whether an agent that listens on these answers polls at this address."""
    host, port = address
    everywhere = {("::", port)} if ":" in host else {("0.0.0.0", port), ("::", port)}
    return not ({address} | everywhere).isdisjoint(listen)
