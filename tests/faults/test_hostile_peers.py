"""Whatever others do to the port, HAProxy's own checks all succeed meanwhile, and nothing is left behind."""

import contextlib
import json
import os
import random
import resource
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.faults import amount
from tests.faults.hostile import holdings
from tests.faults.watch import Watch
from tests.real.parts import until
from tests.tree import Tree, TreeAgent

ROOT = Path(__file__).parents[2]
DEADLINE_S = 20.0
STRANGER = "127.0.0.9"

CONFIG = """
allow = ["127.0.0.1"]
[weight]
capacity = 4
[pools.mail]
capacity = 2
[reply]
on_stop = "keep"
"""

Attack = Callable[[int, random.Random], None]


def connect(port: int, source: str = "127.0.0.1") -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), timeout=10, source_address=(source, 0))


@contextlib.contextmanager
def crowd(port: int, count: int) -> Iterator[list[socket.socket]]:
    """So many connections, closed at the end."""
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(connect(port)) for _ in range(count)]


def send_slowly(port: int, dice: random.Random) -> None:
    with crowd(port, 50) as peers:
        for byte in b"ma":
            for peer in peers:
                peer.send(bytes([byte]))


def never_read(port: int, dice: random.Random) -> None:
    with crowd(port, 50) as peers:
        for peer in peers:
            peer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
            peer.send(b"mail\n")


def stay_half_open(port: int, dice: random.Random) -> None:
    with crowd(port, 100) as peers:
        for peer in peers[::2]:
            peer.shutdown(socket.SHUT_WR)


def reset_at_every_moment(port: int, dice: random.Random) -> None:
    for sent in (b"", b"m", b"mail", b"mail\n", b"mail\nmail\n"):
        for reads in (0, 1, 100):
            with connect(port) as peer:
                peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # close resets
                peer.send(sent)
                if reads and b"\n" in sent:
                    peer.recv(reads)


def flood(port: int, dice: random.Random) -> None:
    with crowd(port, 300):
        pass


def send_garbage(port: int, dice: random.Random) -> None:
    for _ in range(30):
        with connect(port) as peer:
            peer.sendall(dice.randbytes(dice.randint(1, 3000)))


def send_without_end(port: int, dice: random.Random) -> None:
    """A line that never ends; the door closes on it."""
    chunk = b"x" * 65536
    with connect(port) as peer:
        for _ in range(int(amount(16 * 4, 16 * 1024))):
            peer.sendall(chunk)


def come_from_elsewhere(port: int, dice: random.Random) -> None:
    for _ in range(100):
        with connect(port, STRANGER) as peer:
            assert peer.recv(100) == b""


ATTACKS: list[Attack] = [
    send_slowly,
    never_read,
    stay_half_open,
    reset_at_every_moment,
    flood,
    send_garbage,
    send_without_end,
    come_from_elsewhere,
]


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[TreeAgent]:
    tree = Tree(tmp_path / "proc")
    tree.workers(busy=1)
    with TreeAgent(tmp_path, tree, CONFIG) as agent:
        yield agent
    assert "Traceback" not in agent.log_text()
    assert "Exception" not in agent.log_text()


@pytest.fixture
def watch(tmp_path: Path, agent: TreeAgent) -> Iterator[Watch]:
    with Watch(tmp_path, agent, send=r'agent-send "mail\n"') as watch:
        watch.wait_weights(50)
        yield watch


def polls(agent: TreeAgent) -> int:
    """How many the agent has answered."""
    answered = json.loads(agent.order("status", "--json"))["polls"]["answered"]
    assert isinstance(answered, int)
    return answered


def keep_on(attacks: list[Attack], port: int, seconds: float, threads: int = 2) -> int:
    """How many attacks there were, in so many threads at once. Doors that close on an attack are what is wanted."""
    stop = time.monotonic() + seconds
    done = [0] * threads

    def go(thread: int) -> None:
        dice = random.Random(thread)
        while time.monotonic() < stop:
            with contextlib.suppress(OSError):
                dice.choice(attacks)(port, dice)
            done[thread] += 1

    attackers = [threading.Thread(target=go, args=(thread,)) for thread in range(threads)]
    for attacker in attackers:
        attacker.start()
    for attacker in attackers:
        attacker.join()
    return sum(done)


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.__name__)
def test_no_check_of_haproxys_fails_under(attack: Attack, agent: TreeAgent, watch: Watch) -> None:
    before = polls(agent)
    assert keep_on([attack], agent.port, amount(1.5, 12)) > 0
    until(lambda: polls(agent) > before + 30, "HAProxy has polled meanwhile", DEADLINE_S)
    assert watch.failed() == []
    assert watch.weights() == {50}


@pytest.mark.timeout(900)
def test_all_of_it_at_once_leaves_nothing_behind(agent: TreeAgent, watch: Watch) -> None:
    keep_on(ATTACKS, agent.port, amount(1, 20), threads=4)
    before = holdings(agent.pid)
    keep_on(ATTACKS, agent.port, amount(3, 90), threads=4)
    assert watch.failed() == []
    assert watch.weights() == {50}
    until(lambda: holdings(agent.pid)["files"] <= before["files"] + 10, "all connections are closed", DEADLINE_S)
    after = holdings(agent.pid)
    assert after["rss_kib"] - before["rss_kib"] < 4096
    assert after["threads"] <= before["threads"]


def test_no_check_fails_while_the_agent_can_open_no_file(agent: TreeAgent, watch: Watch) -> None:
    """But for those set aside until their line comes, whom there is no descriptor to be kept for."""
    files = holdings(agent.pid)["files"]
    soft, hard = resource.prlimit(agent.pid, resource.RLIMIT_NOFILE)
    resource.prlimit(agent.pid, resource.RLIMIT_NOFILE, (files - 5, hard))
    try:
        for _ in range(int(amount(20, 2000))):
            assert agent.ask(b"mail\n").startswith(b"up ")
    finally:
        resource.prlimit(agent.pid, resource.RLIMIT_NOFILE, (soft, hard))
    watch.wait_weights(50)
    assert watch.failed() == []


@pytest.mark.skipif(os.getuid() != 0, reason="only root can make a network of its own")
def test_polls_one_after_the_other_never_run_out_of_ports(tmp_path: Path) -> None:
    """The agent opens no connection, and leaves the polling side's ports free for the next poll."""
    tree = Tree(tmp_path / "proc")
    agent = TreeAgent(tmp_path, tree)
    count = int(amount(500, 50_000))
    script = (
        "ip link set lo up && echo 40000 40029 >/proc/sys/net/ipv4/ip_local_port_range\n"
        '"$@" & agent=$!\n'
        f"until ss -Hltn | grep -q :{agent.port}; do sleep 0.1; done\n"
        f'"{sys.executable}" -m tests.faults.inside poll_from_few_ports {agent.port} {count}; status=$?\n'
        "kill -9 $agent; exit $status"
    )
    alone = ["unshare", "--net", "--pid", "--fork", "--kill-child", "sh", "-c", script, "sh", *agent.argv()]
    done = subprocess.run(alone, cwd=ROOT, capture_output=True, text=True, check=False, timeout=200)
    assert (done.returncode, done.stdout) == (0, f"answered {count}\n"), done.stderr
