"""The Debian package in each release, booted with its own systemd and its own HAProxy, without a network."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest

from tests.booted.balancer import Balancer, Polls
from tests.booted.host import missing_for_boot, wait_until
from tests.booted.machine import Machine
from tests.dist.debian import deb
from tests.dist.packaged import CONFIG, PACKAGES, PYTHON, SERVICE, SOCKET, apt, files, install

from .trees import Tree

pytestmark = [pytest.mark.matrix, pytest.mark.timeout(1200)]

WORKERS = 3


def configure(machine: Machine, capacity: int) -> None:
    """Under this, the workers are a share of this capacity, and samples are fresh."""
    fresh = '[scan]\nfresh_for = "50ms"\nmin_gap = "0ms"\nmax_duty = "100%"\n'
    machine.write(CONFIG, f'{fresh}[weight]\ncapacity = {capacity}\n[reply]\nrelease_for = "2s"\n')


@pytest.fixture(scope="module")
def host(tree: Tree) -> Iterator[Machine]:
    """The package is installed; three workers have a job each."""
    missing = missing_for_boot()
    assert missing is None, missing
    with Machine(tree.path) as machine:
        install(machine, deb())
        machine.run("cp", "/bin/sleep", "/opt/ruby")
        for number in range(WORKERS):
            worker = 'exec -a "sidekiq 7.3.0 shop [2 of 2 busy]" /opt/ruby infinity'
            machine.run("systemd-run", f"--unit=worker{number}", "bash", "-c", worker)
        yield machine
        assert "Traceback" not in machine.journal(SERVICE)


@pytest.fixture
def agent(host: Machine) -> Machine:
    """The service runs behind its socket; a quarter of the host is free."""
    configure(host, capacity=4)
    host.run("systemctl", "stop", SERVICE)
    host.run("systemctl", "start", SOCKET, SERVICE)
    return host


def main_pid(machine: Machine) -> int:
    return int(machine.show(SERVICE, "MainPID"))


@pytest.mark.cell("The package, under systemd", "installed, enabled, running and answering")
def test_installed_service_is_enabled_and_answers(host: Machine) -> None:
    assert host.run("systemctl", "is-enabled", SERVICE).stdout == "enabled\n"
    assert host.run("systemctl", "is-active", SERVICE).stdout == "active\n"

    def counts() -> bool:
        with Polls(host, python=PYTHON) as polls:
            pass
        return all(re.fullmatch(r"up \d+% #\d+/\d+ busy", answer) for answer in polls.heard)

    # Until the workers are seen: in a pid namespace of its own, no worker is not idle.
    wait_until(counts, "workers are counted")
    assert host.run("systemctl", "--failed", "--no-legend").stdout == ""


@pytest.mark.cell("The package, under systemd", "no complaint of systemd's about the units")
def test_systemd_has_nothing_to_say_about_the_units(host: Machine) -> None:
    said = host.run("systemd-analyze", "verify", "--man=no", SERVICE, SOCKET)
    assert "busyweight" not in said.stdout + said.stderr, said


@pytest.mark.cell("The package, under systemd", "restart of a full host: no poll lost, no weight released")
def test_restart_loses_no_poll(agent: Machine) -> None:
    configure(agent, capacity=WORKERS)
    agent.run("systemctl", "reload", SERVICE)
    with Balancer(agent) as balancer:
        balancer.wait_for_weight(0)
        with Polls(agent, python=PYTHON) as polls:
            for _ in range(3):
                agent.run("systemctl", "restart", SERVICE)
        assert polls.heard == {"up 0% #3/3 busy"}
        assert balancer.weights() == [0, 0, 0]
        assert "failed" not in balancer.log()
        # HAProxy hears the new agent, so the silence of its log means something.
        configure(agent, capacity=2 * WORKERS)
        agent.run("systemctl", "reload", SERVICE)
        balancer.wait_for_weight(50)


@pytest.mark.cell("The package, under systemd", "override kept over a restart, and ended")
def test_override_outlives_a_restart(agent: Machine) -> None:
    def drained() -> list[bool]:
        return ["DRAIN" in server["status"] for server in balancer.servers()]

    with Balancer(agent) as balancer:
        balancer.wait_for_weight(25)
        agent.run("busyweight", "drain", "--for", "30m", "--reason", "disk swap")
        wait_until(lambda: all(drained()), "drained in every backend")
        agent.run("systemctl", "restart", SERVICE)
        with Polls(agent, python=PYTHON) as polls:
            assert "disk swap" in agent.run("busyweight", "status", "--json").stdout
        assert all(answer.startswith("drain") and "disk swap" in answer for answer in polls.heard), polls.heard
        assert all(drained())
        agent.run("busyweight", "ready")
        wait_until(lambda: not any(drained()), "back in every backend")
        balancer.wait_for_weight(25)


@pytest.mark.cell("The package, under systemd", "stuck process replaced by the watchdog")
def test_stuck_agent_is_replaced(agent: Machine) -> None:
    with agent.drop_in(SERVICE, "[Service]\nWatchdogSec=2s\n"), Balancer(agent) as balancer:
        agent.run("systemctl", "restart", SERVICE)
        balancer.wait_for_weight(25)
        stuck = main_pid(agent)
        agent.run("kill", "-STOP", str(stuck))
        wait_until(lambda: main_pid(agent) not in (0, stuck), "another process has taken over")
        configure(agent, capacity=6)
        agent.run("systemctl", "reload", SERVICE)
        balancer.wait_for_weight(50)
    assert "Watchdog timeout" in agent.journal(SERVICE)


@pytest.mark.cell("The package, under systemd", "stop: the weight is released")
def test_stop_releases_every_backend(agent: Machine) -> None:
    with Balancer(agent) as balancer:
        balancer.wait_for_weight(25)
        agent.run("systemctl", "stop", SERVICE, SOCKET)
        assert balancer.weights() == [100, 100, 100]
    assert agent.show(SERVICE, "Result") == "success"


@pytest.mark.cell("The package, under systemd", "purged: nothing left")
def test_remove_and_purge_leave_nothing(tree: Tree) -> None:
    with Machine(tree.path) as machine:
        machine.copy(deb(), PACKAGES / deb().name)
        machine.run("systemctl", "start", "systemd-logind")  # which apt would, and which has files of its own
        before = files(machine)
        install(machine, deb())
        machine.run("busyweight", "drain", "--reason", "so that there is state to remove")
        wait_until(lambda: machine.path("/var/lib/private/busyweight").exists(), "there is state")
        apt(machine, "purge", "busyweight")
        assert sorted(before ^ files(machine)) == []
        units = machine.run("systemctl", "list-unit-files", "--no-legend", "busyweight*", check=False).stdout
        assert units == ""
        assert not machine.path("/run/busyweight").exists()
