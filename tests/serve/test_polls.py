"""Tens of thousands of polls: who else is served, which commands still work, and what an error costs then."""

import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

from agent.serve import server
from tests.real.parts import until
from tests.scarce import descriptors_left
from tests.serve.flood import flood
from tests.serve.serving import POOLS, Serving, connect, said
from tests.tree import TreeAgent

DEADLINE_S = 30.0
AT_ONCE = '[reply]\non_stop = "keep"\n'


def ask_from(source: str, port: int, send: bytes = b"") -> bytes:
    """One poll from that address."""
    poll = socket.create_connection(("127.0.0.1", port), DEADLINE_S, source_address=(source, 0))
    poll.sendall(send)
    return said(poll)


def test_a_flood_from_one_address_leaves_polls_from_another_answered(agent: TreeAgent) -> None:
    with agent, flood(agent.port, at_once=1000):
        answers = {ask_from("127.0.0.2", agent.port) for _ in range(200)}
    assert answers == {b"up 75% #6/24 busy\n"}


def test_hogs_do_not_block_others(agent: TreeAgent) -> None:
    """Connections that never send their line do not keep polls from another address from being answered."""
    agent.write_config(f'[weight]\ncapacity = 24\n{AT_ONCE}[limits]\ndeadline = "1h"\n[pools.mail]\ncapacity = 12\n')
    agent.start()
    agent.until(lambda: "listening on" in agent.log_text(), "listening", DEADLINE_S)
    hogs: list[socket.socket] = []

    def ask_late() -> bytes:
        """Sends its line after others have connected without sending theirs."""
        poll = socket.create_connection(("127.0.0.1", agent.port), DEADLINE_S, source_address=("127.0.0.2", 0))
        hogs.extend(socket.create_connection(("127.0.0.1", agent.port)) for _ in range(100))
        poll.sendall(b"mail\n")
        return said(poll)

    assert {ask_late() for _ in range(10)} == {b"up 50% #6/12 busy\n"}
    for hog in hogs:
        hog.close()


def test_signals_are_obeyed_under_full_load(agent: TreeAgent) -> None:
    with agent, flood(agent.port, at_once=64):
        for capacity in range(10, 20):
            agent.write_config(f"[weight]\ncapacity = {capacity}\n{AT_ONCE}")
            agent.send(signal.SIGHUP)
            agent.wait_answer(b"up %d%% #6/%d busy\n" % (round(100 - 600 / capacity), capacity), DEADLINE_S)


def test_a_listener_that_cannot_accept_is_tried_now_and_then_and_not_in_a_spin() -> None:
    with Serving(pools=POOLS) as serving:
        tries = 0

        def count() -> bool:
            nonlocal tries
            tries += 1
            return False

        serving.server.ask = count
        [listener] = server.open_listeners([("127.0.0.1", 0)], 64).values()
        polls = [connect(listener.getsockname()) for _ in range(3)]
        with descriptors_left(0):
            # The first takes the descriptor kept in reserve, and owes its line.
            began_s = time.monotonic()
            serving.do(serving.server.add, listener)
            until(lambda: tries > 5, "tried again", DEADLINE_S)
            most = (time.monotonic() - began_s) / server.STUCK_PAUSE_S + 2
            assert tries <= most
        for poll in polls:
            poll.sendall(b"mail\n")
            assert said(poll) == b"up 20%\n"


def test_the_running_agent_carries_no_openssl(agent: TreeAgent) -> None:
    with agent:
        maps = Path(f"/proc/{agent.pid}/maps").read_text()
    assert "uvloop" in maps
    assert "libssl" not in maps
    assert "libcrypto" not in maps


def test_ssl_is_itself_again_once_the_loop_is_there() -> None:
    code = "import agent.serve.loop, asyncio, uvloop, ssl; print(ssl.OPENSSL_VERSION_NUMBER > 0)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "True\n"
