"""The snippet's spill, and the facts it relies on, with a real HAProxy and requests that stay in service."""

import re
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from agent.tools.haproxy import snippet
from tests.tools.balancer import Balancer, Peer, asking, bound_to, eventually, status_of, website

MAXCONN = 2


class Site:
    """A balancer with the snippet's backends, whose web servers answer once their gate opens."""

    def __init__(self, home: Path, balancer: Balancer, web: Peer, clients: ExitStack) -> None:
        self.home, self.balancer, self.web, self._clients = home, balancer, web, clients
        self.asked: list[socket.socket] = []

    def number(self, backend: str, server: str = "BACKEND", field: str = "scur") -> int:
        return int(self.balancer.stat(backend, server)[field])

    def in_service(self, pool: str = "web") -> tuple[int, int]:
        """In the pool, and spilled."""
        return self.number(pool), self.number(f"{pool}_all_busy")

    def ask(self, times: int, url: str = "/", pool: str = "web", front: int = 0) -> None:
        """Sends so many more requests, one after the other, that stay in service."""
        for _ in range(times):
            wanted = sum(self.in_service(pool)) + 1
            self.asked.append(self._clients.enter_context(asking(self.home / f"front{front}.sock", url)))
            eventually(lambda wanted=wanted: sum(self.in_service(pool)) == wanted)  # type: ignore[misc]

    def weigh(self, **weights: int) -> None:
        for name, weight in weights.items():
            self.balancer.ask(f"set weight web/{name} {weight}")

    def order(self, *words: str) -> None:
        for word in words:
            assert not self.balancer.ask(f"set server web/{word}").strip()


@contextmanager
def site(home: Path, text: str) -> Iterator[Site]:
    web = website()
    text = re.sub(r"192\.0\.2\.\d+:\d+", f"127.0.0.1:{web.port}", text)
    with Balancer(home, *bound_to(home, text)).running() as balancer, ExitStack() as clients:
        web.gate.clear()
        yield Site(home, balancer, web, clients)
        web.gate.set()


def fragment(names: str = "abc", balance: str = "roundrobin") -> str:
    """The snippet without agents: tests set the weights by hand."""
    text = snippet(5001, [(name, "192.0.2.1", 80) for name in names], maxconns={"web": MAXCONN})
    text = re.sub(r" agent-check.*", "", text)
    return text.replace("balance roundrobin", f"balance {balance}")


@pytest.mark.parametrize("pool", ["web", "shop"])
def test_spill_at_maxconn(tmp_path: Path, pool: str) -> None:
    """Requests go to all hosts while those in the pool are at their maxconn."""
    free, full = Peer(b"50%\n"), Peer(b"0%\n")
    servers = [(name, "192.0.2.1", 80) for name in ("a", "b", "c")]
    text = snippet(free.port, servers, [] if pool == "web" else [pool], agent_inter="300ms", maxconns={pool: MAXCONN})
    text = re.sub(r"(server c .*:\d+)$", rf"\1 agent-port {full.port}", text, flags=re.M)
    url = "/" if pool == "web" else f"/{pool}/"
    with site(tmp_path, text) as at:
        eventually(lambda: [at.number(pool, name, "weight") for name in ("a", "b", "c")] == [50, 50, 0])
        at.ask(6, url, pool)
        assert at.in_service(pool) == (4, 2)
        at.web.gate.set()
        eventually(lambda: at.in_service(pool) == (0, 0))
        assert status_of(tmp_path / "front0.sock", url) == 200
        assert at.number(f"{pool}_all_busy", field="stot") == 2


@pytest.mark.parametrize("balance", ["roundrobin", "leastconn"])
def test_nobody_waits_in_a_queue_and_an_almost_full_host_bears_its_part_first(tmp_path: Path, balance: str) -> None:
    with site(tmp_path, fragment(balance=balance)) as at:
        at.weigh(a=100, b=4, c=0)
        at.ask(6)
        assert [at.number("web", name) for name in ("a", "b", "c")] == [2, 2, 0]
        assert at.number("web", field="qmax") == 0
        assert at.in_service() == (4, 2)


@pytest.mark.parametrize("looks_at_the_queue", [False, True])
def test_random_may_draw_a_host_that_bears_no_more_and_needs_a_look_at_the_queue(
    tmp_path: Path, looks_at_the_queue: bool
) -> None:
    text = fragment("ab", balance="random(1)")
    if looks_at_the_queue:
        text = text.replace("{ be_conn_free(web) eq 0 }", "{ be_conn_free(web) eq 0 } or { queue(web) gt 0 }")
    with site(tmp_path, text) as at:
        at.weigh(a=256, b=1)
        # b is drawn once in 257 times.
        at.ask(12)
        assert at.number("web", field="qcur") in ((1, 0) if looks_at_the_queue else range(6, 12))


def test_a_host_that_is_down_drained_or_in_maintenance_bears_nothing(tmp_path: Path) -> None:
    with site(tmp_path, fragment("abcd")) as at:
        at.order("b state drain", "c state maint", "d state maint")
        at.ask(3)
        assert at.in_service() == (2, 1)
        at.order("b state ready")
        at.ask(2)
        assert at.in_service() == (4, 1)


def test_all_frontends_and_all_streams_of_a_connection_count_together(tmp_path: Path) -> None:
    text = fragment("ab")
    front = text[text.index("frontend www") : text.index("\nbackend web\n")]
    second = front.replace("frontend www", "frontend www2")
    # An outer proxy speaks HTTP/2 to the second frontend, all requests on one connection.
    outer = (
        "frontend outer\n bind :80\n mode http\n timeout client 30s\n default_backend inner\n"
        "backend inner\n mode http\n timeout connect 5s\n timeout server 30s\n http-reuse always\n"
        f" server s unix@{tmp_path}/front1.sock proto h2\n"
    )
    second = second.replace("bind :80", "bind :80 proto h2")
    with site(tmp_path, text + second + outer) as at:
        at.ask(2, front=2)
        at.ask(1, front=0)
        at.ask(2, front=2)
        assert at.in_service() == (4, 1)
        assert at.number("www2", "FRONTEND", "conn_tot") == 1


def test_spill_without_maxconn(tmp_path: Path) -> None:
    """A spike stays in the pool; requests spill only when all hosts have left it."""
    with site(tmp_path, re.sub(r" maxconn \d+", "", fragment("ab"))) as at:
        at.ask(9)
        assert at.in_service() == (9, 0)
        at.weigh(a=0, b=0)
        at.ask(1)
        assert at.in_service() == (9, 1)


def test_one_host_serves_what_it_bears_and_what_spills_over(tmp_path: Path) -> None:
    with site(tmp_path, fragment("a")) as at:
        at.ask(3)
        assert at.in_service() == (2, 1)
        at.web.gate.set()
        eventually(lambda: at.in_service() == (0, 0))


def test_why_not_be_conn_or_queue(tmp_path: Path) -> None:
    """Why the rule is about neither: be_conn knows no weights, and a queue must first be there."""
    text = re.sub(r".*use_backend.*\n", "", fragment("ab")).replace("timeout connect 5s", "timeout connect 1s")
    facts = 'return content-type text/plain lf-string "be_conn=%[be_conn(web)] queue=%[queue(web)]" if { path /facts }'
    text = text.replace("    default_backend web", f"    http-request {facts}\n    default_backend web")
    with site(tmp_path, text) as at:
        at.ask(6)
        with asking(tmp_path / "front0.sock", "/facts") as client:
            assert client.recv(4096).endswith(b"be_conn=6 queue=2")
        at.weigh(a=0, b=0)
        at.web.gate.set()
        assert [int(client.recv(4096).split()[1]) for client in at.asked] == [200] * 4 + [503] * 2
