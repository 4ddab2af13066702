"""Events in a fleet while clients send requests: several balancers, reloads, a rolling restart.

Every request is answered meanwhile. Balancers are judged by their own checks, never by time. The HAProxy is this
machine's, or the first of BUSYWEIGHT_HAPROXIES (see tests/tools/test_haproxy_real.py).
"""

import http.client
import json
import os
import signal
import socket
import socketserver
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from http import HTTPStatus
from pathlib import Path

import pytest

from tests.farm import sidekiq_title
from tests.tree import Tree

from .parts import DEFAULTS, Agent, HAProxy, free_port, get, until, watching

CORES = 4
DEADLINE_S = 20.0
CLIENTS, MORE = 3, 8  # so many requests more of each client are asked in every state

# Every poll is answered by a scan of its own time, or by one that was running when it came.
EAGER = """
fresh_for = "0ms"
min_gap = "0ms"
max_duty = "100%"
wait_at_most = "5s"
"""


class Balancer(HAProxy):
    """A balancer of the HAProxy that these tests are run with, before hosts that another HAProxy plays."""

    def __init__(self, home: Path, name: str, web: int, agents: list[int], *, state: bool = False) -> None:
        self.command_line: list[str] = next(iter(json.loads(os.environ.get("BUSYWEIGHT_HAPROXIES", "[]"))), [])
        self.port, self.web, self.agents = free_port(), web, agents
        self.state = home / f"{name}.state" if state else None
        kept = f"server-state-file {self.state}\n" if state else ""
        super().__init__(home, self.configuration(), global_lines=kept, name=name)

    def configuration(self) -> str:
        servers = [
            f"    server h{i + 1} 127.0.0.1:{self.web} agent-port {port}\n" for i, port in enumerate(self.agents)
        ]
        tracking = [f"    server h{i + 1} 127.0.0.1:{self.web} track web/h{i + 1}\n" for i in range(len(self.agents))]
        return f"""{DEFAULTS}
frontend www
    bind 127.0.0.1:{self.port}
    use_backend web_all_busy if {{ be_conn_free(web) eq 0 }}
    default_backend web

backend web
    {"load-server-state-from-file global" if self.state else ""}
    balance roundrobin
    default-server check weight 100 maxconn {CORES} agent-check agent-inter 200ms
{"".join(servers)}
backend web_all_busy
    balance leastconn
    default-server weight 100
{"".join(tracking)}"""

    def argv(self) -> list[str]:
        return [*(self.command_line or [self.program]), "-db", "-f", str(self.config_file)]

    def weights(self) -> list[int]:
        return [int(row["weight"]) for row in self.servers("web").values()]

    def wait_weights(self, *percents: int) -> None:
        self.until(lambda: self.weights() == list(percents), f"at weights {percents}", DEADLINE_S)

    def save_state(self) -> None:
        """As before a reload."""
        assert self.state is not None
        self.state.write_text(self.command("show servers state") + "\n")


class Clients:
    """Clients that ask one request after the other, each on a connection of its own, all balancers in turn."""

    def __init__(self, ports: list[int]) -> None:
        self.ports = ports
        self.lost: list[str] = []
        self.answered = [0] * CLIENTS
        self.stop = threading.Event()

    def ask_on(self, client: int) -> None:
        number = client
        while not self.stop.is_set():
            try:
                status = get(self.ports[number % len(self.ports)]).status
            except (OSError, http.client.HTTPException) as failure:
                self.lost.append(repr(failure))
            else:
                self.lost += [str(status)] * (status != HTTPStatus.OK)
            self.answered[client] += 1
            number += 1

    def ask_more(self) -> None:
        """Until each client has asked so many times more."""
        wanted = [count + MORE * len(self.ports) for count in self.answered]
        until(
            lambda: all(count >= least for count, least in zip(self.answered, wanted, strict=True)),
            "clients asked more",
            DEADLINE_S,
        )

    @contextmanager
    def asking(self) -> Iterator["Clients"]:
        """Clients send requests throughout; at the end none may have been lost."""
        threads = [threading.Thread(target=self.ask_on, args=(client,)) for client in range(CLIENTS)]
        for thread in threads:
            thread.start()
        try:
            self.ask_more()
            yield self
            self.ask_more()
        finally:
            self.stop.set()
            for thread in threads:
                thread.join()
        assert self.lost == []


class Checks(socketserver.TCPServer):
    """A proxy between one balancer and an agent that records the agent's reply to each check, in the order in which
    they began."""

    allow_reuse_address = True

    def __init__(self, agent_port: int) -> None:
        self.agent_port = agent_port
        self.answers: list[bytes] = []
        super().__init__(("127.0.0.1", 0), _Check)

    @property
    def port(self) -> int:
        port: int = self.server_address[1]
        return port

    @contextmanager
    def passing(self) -> Iterator["Checks"]:
        thread = threading.Thread(target=self.serve_forever)
        thread.start()
        try:
            yield self
        finally:
            self.shutdown()
            thread.join()
            self.server_close()


class _Check(socketserver.BaseRequestHandler):
    server: Checks

    def handle(self) -> None:
        self.server.answers.append(b"")
        agent = socket.create_connection(("127.0.0.1", self.server.agent_port), DEADLINE_S)
        with agent, agent.makefile("rb") as stream:
            self.server.answers[-1] = stream.read()
        self.request.sendall(self.server.answers[-1])


class Host:
    """An agent, and the workers that it sees."""

    def __init__(self, home: Path, name: str, busy: int, scan: str = "") -> None:
        self.tree = Tree(home / f"{name}-procfs")
        self.pids = self.tree.workers(busy, CORES - busy)
        config = f'[scan]\nprocfs = "{self.tree}"\n{scan}[weight]\ncapacity = {CORES}\n'
        self.agent = Agent(home, config, name=name)

    def work(self, busy: int) -> None:
        for number, pid in enumerate(self.pids):
            self.tree.retitle(pid, sidekiq_title(int(number < busy)))

    def wait_polls(self, polls: int) -> None:
        """Until the agent that runs now has answered so many."""
        until(lambda: self.answered() >= polls, f"{polls} polls answered", DEADLINE_S, self.agent.evidence)

    def answered(self) -> int:
        answered: int = json.loads(self.agent.order("status", "--json"))["polls"]["answered"]
        return answered


@contextmanager
def website(home: Path) -> Iterator[int]:
    """The web server of every host: its port."""
    port = free_port()
    text = f"{DEFAULTS}\nfrontend site\n    bind 127.0.0.1:{port}\n    http-request return status 200\n"
    with HAProxy(home, text, name="website"):
        yield port


def percent(busy: int) -> int:
    return 100 - 100 * busy // CORES


@pytest.mark.parametrize("balancers", [2, 5])
def test_every_balancer_has_the_new_weight_after_its_next_check_but_one(tmp_path: Path, balancers: int) -> None:
    host = Host(tmp_path, "agent", 0, EAGER)
    with ExitStack() as stack:
        web = stack.enter_context(website(tmp_path))
        stack.enter_context(host.agent)
        checks = [stack.enter_context(Checks(host.agent.port).passing()) for _ in range(balancers)]
        fleet = [stack.enter_context(Balancer(tmp_path, f"b{i}", web, [check.port])) for i, check in enumerate(checks)]
        for balancer in fleet:
            balancer.wait_weights(100)
        with Clients([balancer.port for balancer in fleet]).asking() as clients:
            for busy in (3, 1, 4, 2, 0):
                host.work(busy)
                begun = [len(check.answers) for check in checks]
                for balancer in fleet:
                    balancer.wait_weights(percent(busy))
                clients.ask_more()
                assert [balancer.weights() for balancer in fleet] == [[percent(busy)]] * balancers
                for check, before in zip(checks, begun, strict=True):
                    since = check.answers[before:-1]  # the last one may be under way
                    right = f"up {percent(busy)}% #{busy}/{CORES} busy\n".encode()
                    assert set(since[1:]) <= {right}, since


@pytest.mark.parametrize(("state", "kept"), [(True, [25, 50]), (False, [100, 100])])
def test_a_reload_loses_no_request_and_with_a_state_file_no_weight(
    tmp_path: Path, state: bool, kept: list[int]
) -> None:
    hosts = [Host(tmp_path, "one", 3), Host(tmp_path, "two", 2)]
    with ExitStack() as stack:
        web = stack.enter_context(website(tmp_path))
        for host in hosts:
            stack.enter_context(host.agent)
        ports = [host.agent.port for host in hosts]
        balancer = stack.enter_context(Balancer(tmp_path, "balancer", web, ports, state=state))
        balancer.wait_weights(25, 50)
        with Clients([balancer.port]).asking() as clients:
            for host in hosts:
                host.agent.send(signal.SIGSTOP)  # so that no check comes between the reload and the look
            if state:
                balancer.save_state()
            balancer.reload()
            assert balancer.weights() == kept
            clients.ask_more()
            for host in hosts:
                host.agent.send(signal.SIGCONT)
            balancer.wait_weights(25, 50)


def test_agents_restarted_one_after_the_other_cost_no_request_and_no_weight(tmp_path: Path) -> None:
    hosts = [Host(tmp_path, f"h{number}", number + 1) for number in range(3)]
    right = [percent(number + 1) for number in range(3)]
    with ExitStack() as stack:
        web = stack.enter_context(website(tmp_path))
        for host in hosts:
            stack.enter_context(host.agent)
        ports = [host.agent.port for host in hosts]
        fleet = [stack.enter_context(Balancer(tmp_path, f"b{number}", web, ports)) for number in range(2)]
        for balancer in fleet:
            balancer.wait_weights(*right)

        def weights() -> list[tuple[int, ...]]:
            return [tuple(balancer.weights()) for balancer in fleet]

        with Clients([balancer.port for balancer in fleet]).asking() as clients, watching(weights) as seen:
            for host in hosts:
                host.agent.send(signal.SIGUSR1)  # the signal of the unit's restart, and of the package's upgrade
                assert host.agent.wait_exit(DEADLINE_S) == 0
                clients.ask_more()
                host.agent.start()
                host.agent.wait_ready()
                host.wait_polls(6)  # three of each balancer, more or less
        assert seen == [tuple(right)]
