"""WORLD. The last reply of an agent that cannot start, on the sockets that systemd kept or passes.

HAProxy may still have the weight of a previous agent, and nothing would correct it: for example after a crash, with
an error in the configuration. So for a while every poll gets the release of the weight and nothing else: health and
overrides stay as they are. It knows no configuration, so every poller gets the same reply.
"""

import asyncio

from agent._scan import Answerer
from agent.serve.server import Server
from agent.serve.signals import Signals
from agent.serve.systemd import Notifier, passed_sockets

WORD = b"100%\n"
FOR_S = 5.0
LINE_WITHIN_S = 1.0
CONNECTIONS_MAX = 256


async def say() -> None:
    """Sends it until a stop signal comes or the time is over. Does nothing if no socket is passed."""
    sockets = [listener for _, listener in passed_sockets()]
    if not sockets:
        return
    signals = Signals()
    notify = Notifier()
    notify.status(f"cannot start; replying {WORD.decode().strip()} for {FOR_S:g} s")
    answerer = Answerer([])
    answerer.set_replies(WORD, [])
    server = Server(
        answerer, lambda: False, wait_at_most_s=0.0, deadline_s=LINE_WITHIN_S, awaiting_line_max=CONNECTIONS_MAX
    )
    for listener in sockets:
        server.add(listener)
    await signals.wait(asyncio.Event(), FOR_S)
    server.close()
    notify.close()
