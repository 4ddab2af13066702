"""HAProxy sends a line with its agent-checks, and the replies must reach it all the same, even over a bad network.

Closing a socket with unread bytes, or bytes that arrive after the close, reset the connection, and a reset can overtake
the reply. On a perfect network HAProxy's log shows that. On a bad one checks also fail for other reasons, so there the
test reads the agent's kernel counters of connections aborted for either reason.
"""

import json
import os
import re
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.missing import need, need_root
from tests.tree import Tree, TreeAgent

from .parts import HAProxy

HERE = Path(__file__).parent
PATIENT = """
[weight]
capacity = 24
[limits]
deadline = "60s"
[reply]
on_stop = "keep"
"""
POOL = "[pools.mail]\ncapacity = 12\n"
SERVERS = 1000
AGENT_INTER_MS = 500
DEADLINE_S = 120.0


@dataclass(frozen=True)
class Place:
    """Where a part runs: a network namespace, and its address there; none: here."""

    address: str = "127.0.0.1"
    namespace: str = ""

    def inside(self, argv: list[str]) -> list[str]:
        return ["ip", "netns", "exec", self.namespace, *argv] if self.namespace else argv


class FarAgent(TreeAgent):
    """The agent in a place of its own, 6 workers busy."""

    def __init__(self, home: Path, place: Place, config: str) -> None:
        self._place = place
        tree = Tree(home / "proc")
        tree.workers(busy=6)
        super().__init__(home, tree, config)

    def write_config(self, config: str) -> None:
        self.config_file.write_text(f'listen = ["{self._place.address}:{self.port}"]\n{config}')

    def argv(self) -> list[str]:
        return self._place.inside(super().argv())

    def ready(self) -> bool:
        return "listening on" in self.log_text()

    def aborted(self) -> int:
        """Connections of its network that were reset for bytes unread at the close, or that came after it."""
        text = subprocess.run(self._place.inside(["cat", "/proc/net/netstat"]), capture_output=True, check=True).stdout
        names, values = (line.split() for line in text.decode().splitlines() if line.startswith("TcpExt:"))
        counters = dict(zip(names, values, strict=True))
        return int(counters["TCPAbortOnClose"]) + int(counters["TCPAbortOnData"])

    def answered(self) -> int:
        return int(json.loads(self.order("status", "--json"))["polls"]["answered"])


class FarHAProxy(HAProxy):
    """HAProxy in a place of its own, checking that agent for many servers, and sending."""

    def __init__(self, home: Path, place: Place, agent: Place, port: int) -> None:
        self._place = place
        super().__init__(
            home,
            f"""
defaults
    mode tcp
    log global
    option log-health-checks
    timeout connect 5s
    timeout client 5s
    timeout server 5s
backend web
    default-server weight 100 agent-check agent-inter {AGENT_INTER_MS}ms agent-send "mail\\n"
    default-server agent-addr {agent.address} agent-port {port}
    server-template web 1-{SERVERS} {agent.address}:9
""",
        )

    def argv(self) -> list[str]:
        return self._place.inside(super().argv())

    def failed(self) -> list[str]:
        """Its log lines about failed agent-checks, except timeouts."""
        failed = re.findall(r"Agent check.* failed.*", self.log_text())
        return [words for words in failed if "timeout" not in words]


@contextmanager
def lossy_wire(home: Path) -> Iterator[tuple[Place, Place]]:
    """Two hosts, and between them a wire that loses packets."""
    need_root("network namespaces are made")
    wanted = {"ip": "iproute2", "tc": "iproute2", "clang": "clang"}
    ip, tc, clang = (need(program, package) for program, package in wanted.items())
    program = home / "lossy.o"
    subprocess.run([clang, "-O2", "-target", "bpf", "-c", str(HERE / "lossy.bpf.c"), "-o", str(program)], check=True)
    ends = [Place(f"10.203.0.{n}", f"busyweight-{os.getpid()}-{n}") for n in (1, 2)]

    def run(*words: str) -> None:
        subprocess.run(words, check=True)

    with ExitStack() as stack:
        for end in ends:
            run(ip, "netns", "add", end.namespace)
            stack.callback(run, ip, "netns", "del", end.namespace)
            run(ip, "-n", end.namespace, "link", "set", "lo", "up")
        near, far = (end.namespace for end in ends)
        run(ip, "-n", near, "link", "add", "wire", "type", "veth", "peer", "name", "wire", "netns", far)
        for end in ends:
            run(ip, "-n", end.namespace, "address", "add", f"{end.address}/24", "dev", "wire")
            run(ip, "-n", end.namespace, "link", "set", "wire", "up")
            run(tc, "-n", end.namespace, "qdisc", "add", "dev", "wire", "clsact")
            classify = ["bpf", "direct-action", "object-file", str(program), "section", "classifier"]
            run(tc, "-n", end.namespace, "filter", "add", "dev", "wire", "egress", *classify)
        yield ends[0], ends[1]


@contextmanager
def polled(agent: FarAgent, haproxy: FarHAProxy, polls: int) -> Iterator[None]:
    """After so many polls, all of which had the right answer."""
    with agent, haproxy:
        agent.until(lambda: agent.answered() >= polls, f"polled {polls} times", DEADLINE_S)
        rows = haproxy.servers("web").values()
        weights = {row["weight"] for row in rows if "L7OK" in row["agent_status"]}
        assert weights == {"50" if "pools" in agent.config_file.read_text() else "75"}
        yield


@pytest.mark.parametrize("config", [PATIENT, PATIENT + POOL], ids=["default", "pool"])
def test_no_reply_is_lost_to_a_reset_where_haproxy_sends(tmp_path: Path, config: str) -> None:
    agent = FarAgent(tmp_path, Place(), config)
    haproxy = FarHAProxy(tmp_path, Place(), Place(), agent.port)
    with polled(agent, haproxy, 20_000):
        assert haproxy.failed() == []


def test_no_reply_is_lost_to_a_reset_on_a_wire_that_loses_packets(tmp_path: Path) -> None:
    with lossy_wire(tmp_path) as (here, there):
        agent = FarAgent(tmp_path, here, PATIENT + POOL)
        haproxy = FarHAProxy(tmp_path, there, here, agent.port)
        with polled(agent, haproxy, 5_000):
            assert agent.aborted() == 0
            # A lost packet may cost a check its time; a lost reply would cost it its meaning.
            assert haproxy.failed() == []
