"""The agent only answers: it opens no connections, and sends only to clients that connected to it."""

import re
import signal
import sys
from pathlib import Path

from tests.missing import need
from tests.real.parts import free_port, until
from tests.tree import TreeAgent

from .running import AT_ONCE, DEADLINE_S, Notified

# What the trace must see, or it proves nothing: a thread that connects, in the process that then becomes the agent.
WITNESS = """
import os, socket, sys, threading
witness = threading.Thread(target=socket.socket().connect_ex, args=[("127.0.0.1", int(sys.argv[1]))])
witness.start()
witness.join()
os.execv(sys.argv[2], sys.argv[2:])
"""


def test_it_connects_to_nobody(tmp_path: Path, agent: TreeAgent, notified: Notified) -> None:
    trace, nobody = tmp_path / "trace", free_port()
    calls = "trace=connect,sendto,sendmsg,sendmmsg"
    strace = [need("strace", "strace"), "-D", "-f", "-e", calls, "-o", str(trace)]
    argv = [*strace, sys.executable, "-c", WITNESS, str(nobody), *agent.argv()]
    agent.argv = lambda: argv  # type: ignore[method-assign]
    with agent:
        notified.until("READY=1")
        assert [agent.ask() for _ in range(20)] == [b"up 75% #6/24 busy\n"] * 20
        agent.order("drain")
        assert agent.ask().startswith(b"drain up ")
        agent.write_config(AT_ONCE + "[weight]\ncapacity = 12\n")
        agent.send(signal.SIGHUP)
        notified.until("READY=1")
        agent.order("ready")
        agent.wait_answer(b"ready up 50% #6/12 busy\n")
    until(lambda: re.search(rf"^{agent.pid} +\+\+\+", trace.read_text(), re.M), "the trace is whole", DEADLINE_S)
    told = re.findall(r"(\w+)\(.*sa_family=(AF_\w+)(?:, sin_port=htons\((\d+)\))?", trace.read_text())
    # The service manager is told by datagrams, and the C library may ask nscd for a user's name: both on this host.
    assert ("sendmsg", "AF_UNIX", "") in told
    assert [call for call in told if call[1] != "AF_UNIX"] == [("connect", "AF_INET", str(nobody))]
