"""WORLD. The last word of an agent that cannot start: on the sockets that systemd kept, or passes.

HAProxy may keep what an agent before it said, and there is nobody to correct it: after a crash with a
fault in the configuration, say. So polls hear for a while that the weight is released, and nothing else:
health and orders stay as they are. It knows no configuration, so it is the same for all who ask.
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
    """Says it until a signal to end, or long enough. Does nothing where no socket is passed."""
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
