"""Whatever others do to the port, HAProxy's own checks all succeed meanwhile, and nothing is left behind."""

import contextlib
import random
import resource
import socket
import struct
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from agent.tools import client
from tests.faults import amount
from tests.faults.hostile import holdings
from tests.faults.watch import Watch
from tests.real.parts import until
from tests.tree import Agents, Tree, TreeAgent

ROOT = Path(__file__).parents[2]
DEADLINE_S = 20.0
ATTACKER = "127.0.0.2"
STRANGER = "127.0.0.9"

# More than may owe their line (limits.max_connections, 256); three of them are fewer than a process may have files.
CROWD = 300
# Longer than anybody may owe it (limits.deadline, 1 s).
HOLD_S = 1.5

# `mail` is HAProxy's own pool, whose name no attack says, and whose answers always have a weight.
CONFIG = """
allow = ["127.0.0.1", "127.0.0.2"]
[weight]
capacity = 4
[pools.mail]
capacity = 2
unknown = "50%"
[pools.shop]
capacity = 8
[reply]
on_stop = "keep"
"""

Attack = Callable[[int, random.Random], None]


def connect(port: int, source: str = ATTACKER) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), timeout=10, source_address=(source, 0))


@contextlib.contextmanager
def crowd(port: int) -> Iterator[list[socket.socket]]:
    """Many connections, closed at the end."""
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(connect(port)) for _ in range(CROWD)]


def send_slowly(port: int, dice: random.Random) -> None:
    """A byte now and then, of lines that never end."""
    with crowd(port) as peers:
        for _ in range(6):
            for peer in peers:
                with contextlib.suppress(OSError):  # its time is over
                    peer.send(b"x")
            time.sleep(HOLD_S / 6)


def never_read(port: int, dice: random.Random) -> None:
    with crowd(port) as peers:
        for peer in peers:
            peer.send(b"none\n")
        time.sleep(HOLD_S)


def stay_half_open(port: int, dice: random.Random) -> None:
    """Every other client half-closes its connection; the rest send nothing."""
    with crowd(port) as peers:
        for peer in peers[::2]:
            peer.shutdown(socket.SHUT_WR)
        time.sleep(HOLD_S)


def reset_at_every_moment(port: int, dice: random.Random) -> None:
    for sent in (b"", b"s", b"shop", b"shop\n", b"shop\nshop\n"):
        for reads in (0, 1, 100):
            with connect(port) as peer:
                peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # close resets
                peer.send(sent)
                if reads and b"\n" in sent:
                    peer.recv(reads)


def flood(port: int, dice: random.Random) -> None:
    with crowd(port):
        pass


def send_garbage(port: int, dice: random.Random) -> None:
    for _ in range(30):
        with connect(port) as peer:
            peer.sendall(dice.randbytes(dice.randint(1, 3000)))


def send_without_end(port: int, dice: random.Random) -> None:
    """A line that never ends, until the agent closes the connection."""
    chunk = b"x" * 65536
    with connect(port) as peer:
        for _ in range(int(amount(16 * 4, 16 * 1024))):
            peer.sendall(chunk)


def come_from_elsewhere(port: int, dice: random.Random) -> None:
    for _ in range(100):
        with connect(port, STRANGER) as peer:
            assert peer.recv(100) == b""


# With what the agent counts of each, which shows that it is what it is called.
ATTACKS: dict[Attack, set[str]] = {
    send_slowly: {"evicted", "timed_out"},
    never_read: {"default"},
    stay_half_open: {"default", "timed_out"},
    reset_at_every_moment: {"disconnected"},
    flood: {"default"},
    send_garbage: {"default"},
    send_without_end: {"default"},
    come_from_elsewhere: {"refused"},
}


@pytest.fixture
def agent(agents: Agents, tree: Tree) -> Iterator[TreeAgent]:
    tree.workers(busy=1)
    with agents.make(TreeAgent, CONFIG) as agent:
        yield agent
    assert "Exception" not in agent.log_text()


@pytest.fixture
def watch(tmp_path: Path, agent: TreeAgent) -> Iterator[Watch]:
    with Watch(tmp_path, agent, send=r'agent-send "mail\n"') as watch:
        watch.wait_weights(50)
        yield watch


def counted(agent: TreeAgent) -> Counter[str]:
    """Replies by pool, and the agent's other counters."""
    polls = client.ask(agent.control, "status")["status"]["polls"]
    counts = Counter({name: polls[name] for name in ("refused", "disconnected", "timed_out", "evicted", "no_fds")})
    for row in polls["replies"]:
        counts[row["pool"] or "default"] += row["replies"]
    return counts


def hold(attacks: list[Attack], agent: TreeAgent, watch: Watch, checks: int, threads: int = 2) -> None:
    """Runs attacks on so many threads until HAProxy has got so many replies. No check may fail, and no weight of
    another pool may appear: a wrong weight would stay until the server's next check."""
    wanted = counted(agent)["mail"] + checks
    enough = threading.Event()
    seen: set[int] = set()

    def go(thread: int) -> None:
        dice = random.Random(thread)
        while not enough.is_set():
            with contextlib.suppress(OSError):  # doors that close on an attack are what is wanted
                # None gets far ahead of the agent: who overruns its backlog keeps others out by the kernel's hand.
                agent.ask(b"shop\n")
                dice.choice(attacks)(agent.port, dice)

    def over() -> bool:
        seen.update(watch.weights())
        if counted(agent)["mail"] >= wanted:
            enough.set()
        return enough.is_set() and not any(attacker.is_alive() for attacker in attackers)

    attackers = [threading.Thread(target=go, args=(thread,)) for thread in range(threads)]
    for attacker in attackers:
        attacker.start()
    try:
        until(over, f"{checks} more of HAProxy's polls answered", DEADLINE_S + checks / 10, watch.evidence)
    finally:
        enough.set()
        for attacker in attackers:
            attacker.join()
    assert seen | watch.weights() == {50}
    assert watch.failed() == []


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.__name__)
def test_no_check_of_haproxys_fails_under(attack: Attack, agent: TreeAgent, watch: Watch) -> None:
    before = counted(agent)
    hold([attack], agent, watch, checks=int(amount(30, 240)))
    assert set(counted(agent) - before) >= ATTACKS[attack]


@pytest.mark.timeout(900)
def test_all_of_it_at_once_leaves_nothing_behind(agent: TreeAgent, watch: Watch) -> None:
    hold(list(ATTACKS), agent, watch, checks=int(amount(20, 400)), threads=3)
    before = holdings(agent.pid)
    hold(list(ATTACKS), agent, watch, checks=int(amount(60, 1800)), threads=3)
    until(lambda: holdings(agent.pid)["files"] <= before["files"] + 10, "all connections are closed", DEADLINE_S)
    after = holdings(agent.pid)
    assert after["rss_kib"] - before["rss_kib"] < 4096
    assert after["threads"] <= before["threads"]


def test_no_check_fails_while_the_agent_can_open_no_file(agent: TreeAgent, watch: Watch) -> None:
    """Except those whose line is still missing: there is no descriptor to keep them."""
    files = holdings(agent.pid)["files"]
    soft, hard = resource.prlimit(agent.pid, resource.RLIMIT_NOFILE)

    def healed() -> bool:
        assert agent.ask(b"shop\n").startswith(b"up ")
        seen = watch.weights()
        assert seen <= {10, 50}
        return seen == {50}

    resource.prlimit(agent.pid, resource.RLIMIT_NOFILE, (files - 5, hard))
    try:
        # Each time it takes an answer to every server's check to undo this. None may be the default pool's.
        for _ in range(int(amount(4, 60))):
            for server in watch.servers("web"):
                watch.change(f"set weight web/{server} 10%")
            until(healed, "all servers were told again", DEADLINE_S, watch.evidence)
    finally:
        resource.prlimit(agent.pid, resource.RLIMIT_NOFILE, (soft, hard))
    assert watch.failed() == []
    assert counted(agent)["no_fds"] > 0


@pytest.mark.root("a network is made")
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
