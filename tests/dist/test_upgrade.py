"""The package upgraded on one host after the other behind a balancer, while clients ask: three booted Debians with the
packaged agent, and a HAProxy with what the package's own snippet says."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from tests.booted.balancer import Balancer, Polls
from tests.booted.host import wait_until
from tests.booted.machine import Machine
from tests.booted.software import PYTHON as OWN_PYTHON
from tests.real.parts import watching

from .debian import deb
from .packaged import CONFIG, NEWER, PYTHON, SERVICE, install, newer

pytestmark = [pytest.mark.dist, pytest.mark.timeout(1200)]  # the first time debootstrap downloads a Debian

HERE = Path(__file__).parent
CAPACITY = 4
WEB = 8080

# Of each server what HAProxy makes of it: its status and its weight.
State = dict[str, tuple[str, str]]


class Host:
    """A Debian with the package, a web server, and workers of which some are busy, on a wire to the balancer."""

    def __init__(self, name: str, machine: Machine, balancer: Machine, number: int, busy: int) -> None:
        self.name, self.machine, self.busy = name, machine, busy
        self.address = f"10.203.{number}.2"
        wire(balancer, machine, f"wire{number}", f"10.203.{number}.1", self.address)
        install(machine, deb())
        self.configure(CAPACITY)
        machine.run("systemctl", "restart", SERVICE)
        machine.run("cp", "/bin/sleep", "/opt/ruby")
        for worker in range(CAPACITY):
            title = f"sidekiq 7.3.0 shop [{int(worker < busy)} of 1 busy]"
            machine.run("systemd-run", f"--unit=worker{worker}", "bash", "-c", f'exec -a "{title}" /opt/ruby infinity')
        machine.copy(HERE / "website.py", "/opt/website.py")
        machine.run("systemd-run", "--unit=website", PYTHON, "/opt/website.py", str(WEB), name)

    def configure(self, capacity: int) -> None:
        listen = f'listen = ["127.0.0.1:5001", "{self.address}:5001"]\n'
        self.machine.write(CONFIG, f"{listen}[weight]\ncapacity = {capacity}\n")

    def status(self) -> dict[str, dict[str, object]]:
        told: dict[str, dict[str, object]] = json.loads(self.machine.run("busyweight", "status", "--json").stdout)
        return told

    def wait_polled(self, times: int) -> None:
        """Until the agent that runs now has answered so many more polls."""

        def answered() -> int:
            return int(str(self.status()["polls"]["answered"]))

        wanted = answered() + times
        wait_until(lambda: answered() >= wanted, f"{self.name} is polled")


def wire(near: Machine, far: Machine, name: str, near_address: str, far_address: str) -> None:
    """A wire between the private networks of two machines."""
    enter = {machine: ["nsenter", f"--target={machine.leader}", "--net", "ip"] for machine in (near, far)}
    pair = ["type", "veth", "peer", "name", "wire", "netns", str(far.leader)]
    subprocess.run([*enter[near], "link", "add", name, *pair], check=True)
    for machine, end, address in ((near, name, near_address), (far, "wire", far_address)):
        subprocess.run([*enter[machine], "address", "add", f"{address}/24", "dev", end], check=True)
        subprocess.run([*enter[machine], "link", "set", end, "up"], check=True)


class Site(Balancer):
    """The HAProxy of these hosts."""

    def __init__(self, machine: Machine, hosts: list[Host]) -> None:
        servers = [f"{host.name}={host.address}:{WEB}" for host in hosts]
        super().__init__(machine, proxies=hosts[0].machine.run("busyweight", "haproxy", "snippet", *servers).stdout)

    def state(self) -> State:
        rows = [row for row in self.stat() if row["pxname"] == "web" and row["svname"] != "BACKEND"]
        return {row["svname"]: (row["status"], row["weight"]) for row in rows}

    def asked(self) -> int:
        """How many requests came so far."""
        [row] = [row for row in self.stat() if (row["pxname"], row["svname"]) == ("www", "FRONTEND")]
        return int(row["req_tot"])

    def wait_asked(self, more: int) -> None:
        wanted = self.asked() + more
        wait_until(lambda: self.asked() >= wanted, f"{more} more requests")


@contextmanager
def clients(machine: Machine) -> Iterator[dict[str, int]]:
    """They ask all the while; afterwards, how many got what."""
    machine.copy(HERE / "clients.py", "/run/clients.py")
    got: dict[str, int] = {}
    command = machine.entered(OWN_PYTHON, "/run/clients.py", "80")
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as asking:
        try:
            assert asking.stdout is not None
            assert asking.stdout.readline() == "asking\n"
            yield got
            said, _ = asking.communicate("enough\n", timeout=60)
        finally:
            asking.kill()
    for line in said.splitlines():
        count, what = line.split(" ", 1)
        got[what] = int(count)


@pytest.fixture
def balancer() -> Iterator[Machine]:
    with Machine() as machine:
        yield machine


@pytest.fixture
def hosts(tree: Path, balancer: Machine) -> Iterator[list[Host]]:
    """One that is full, one that is half full, and one that an operator drains."""
    busy = {"full": CAPACITY, "half": CAPACITY // 2, "drained": 1}
    with ExitStack() as stack:
        yield [
            Host(name, stack.enter_context(Machine(tree)), balancer, number, count)
            for number, (name, count) in enumerate(busy.items())
        ]


def test_a_rolling_upgrade_costs_no_request_no_weight_and_no_order(
    hosts: list[Host], balancer: Machine, tmp_path: Path
) -> None:
    full, half, drained = hosts
    package = newer(deb(), tmp_path)
    drained.machine.run("busyweight", "drain", "--reason", "new disks")
    right = {"full": {"up 0% #4/4 busy"}, "half": {"up 50% #2/4 busy"}}

    with Site(balancer, hosts) as site:
        wait_until(lambda: [site.state()[name][1] for name in right] == ["0", "50"], "the weights are there")
        wait_until(lambda: site.state()["drained"][0].startswith("DRAIN"), "one is drained")
        before = site.state()
        assert before["half"][0] == "UP"

        with clients(balancer) as got, watching(lambda: [site.state()]) as seen:
            site.wait_asked(40)
            for host in hosts:
                old = host.status()["agent"]
                asked = site.asked()
                with Polls(host.machine, python=PYTHON) as polls:
                    install(host.machine, package)
                assert site.asked() > asked
                agent = host.status()["agent"]
                assert (old["version"] != NEWER, agent["version"], agent["pid"] != old["pid"]) == (True, NEWER, True)
                words = polls.heard - polls.failures
                if host is drained:
                    assert all(word.startswith("drain") and "new disks" in word for word in words), words
                else:
                    assert words == right[host.name]
                host.wait_polled(4)
            site.wait_asked(40)

        # More than one host bears, so some are spilled; the drained one gets none of them.
        assert got.keys() == {"200 full", "200 half"}, got
        assert seen == [before]
        assert "DOWN" not in site.log()

        # HAProxy hears the new agents: else nothing was proved.
        for host in (full, half):
            host.configure(2 * CAPACITY)
            host.machine.run("systemctl", "reload", SERVICE)
        drained.machine.run("busyweight", "ready")
        after = {"full": ("UP", "50"), "half": ("UP", "75"), "drained": ("UP", "75")}
        wait_until(lambda: site.state() == after, f"{after}")
    for host in hosts:
        assert "Traceback" not in host.machine.journal(SERVICE)
