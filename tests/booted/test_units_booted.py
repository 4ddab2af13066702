"""What systemd does with the units, a dummy in the agent's place: signals, sockets, failures, hardening."""

from __future__ import annotations

import pytest

from .balancer import HERE, Polls
from .host import wait_until
from .machine import Machine
from .software import COMMAND

SERVICE, SOCKET = "busyweight.service", "busyweight.socket"


@pytest.fixture
def units(booted: Machine) -> Machine:
    """The socket is up and the service will start with the first poll."""
    booted.run("systemctl", "stop", SOCKET, SERVICE)
    booted.install_script(HERE / "dummy_agent.py", COMMAND)
    booted.run("systemctl", "start", SOCKET)
    assert booted.show(SERVICE, "ActiveState") == "inactive"
    return booted


def signals(machine: Machine) -> list[str]:
    """The numbers of the signals that the dummy has got so far."""
    return [line.split()[-1] for line in machine.journal(SERVICE).splitlines() if "]: got " in line]


def main_pid(machine: Machine) -> int:
    return int(machine.show(SERVICE, "MainPID"))


def test_restart_and_stop_are_told_apart_by_their_signal(units: Machine) -> None:
    units.run("systemctl", "start", SERVICE)
    before = len(signals(units))
    units.run("systemctl", "restart", SERVICE)
    assert signals(units)[before:] == ["10"]  # SIGUSR1
    units.run("systemctl", "stop", SERVICE, SOCKET)
    assert signals(units)[before:] == ["10", "15"]


def test_shutdown_is_a_stop() -> None:
    with Machine() as short_lived:
        record = "[Service]\nStandardError=append:/root/said\n"
        short_lived.write(f"/etc/systemd/system/{SERVICE}.d/record.conf", record)
        short_lived.install_units()
        short_lived.install_script(HERE / "dummy_agent.py", COMMAND)
        short_lived.run("systemctl", "start", SOCKET, SERVICE)
        said = short_lived.path("/root/said").open()
        short_lived.poweroff()
        assert said.read() == "got 15\n"
        said.close()


def test_no_poll_is_lost_or_refused_by_restarts_under_the_socket(units: Machine) -> None:
    with Polls(units) as polls:
        for _ in range(5):
            units.run("systemctl", "restart", SERVICE)
    assert polls.heard == {"up 40% #dummy"}


def test_without_the_socket_a_restart_does_refuse_polls(units: Machine) -> None:
    units.run("systemctl", "stop", SOCKET)
    units.run("systemctl", "restart", SERVICE)
    with Polls(units) as polls:
        units.run("systemctl", "restart", SERVICE)
    assert "(ConnectionRefusedError)" in polls.failures


def test_an_agent_that_cannot_start(
    units: Machine,
) -> None:
    """Neither the service nor the socket stays down after many failed starts."""
    units.write(COMMAND, "#!/bin/sh\nexit 2\n", 0o755)
    with units.drop_in(SERVICE, "[Service]\nRestartSec=10ms\n"), Polls(units) as polls:
        # Far more than systemd's own limits allow: 5 starts, and 20 triggers by the socket.
        wait_until(lambda: int(units.show(SERVICE, "NRestarts")) > 30, "30 restarts")
        units.install_script(HERE / "dummy_agent.py", COMMAND)
        units.wait_for_state(SERVICE, "active")
    assert polls.heard == {"up 40% #dummy"}, f"{polls.runs}\n{units.journal(SOCKET)}\n{units.journal(SERVICE)[-4000:]}"


def test_stopped_process_is_killed_by_the_watchdog_and_replaced(units: Machine) -> None:
    with units.drop_in(SERVICE, "[Service]\nWatchdogSec=500ms\n"):
        units.run("systemctl", "start", SERVICE)
        stuck = main_pid(units)
        units.run("kill", "-STOP", str(stuck))
        wait_until(lambda: main_pid(units) not in (0, stuck), "another process has taken over")
    assert "Watchdog timeout" in units.journal(SERVICE)


def test_service_runs_without_privileges_and_sees_every_process(units: Machine) -> None:
    units.run("systemctl", "start", SERVICE)
    status = dict(
        line.split(":\t", 1) for line in units.run("cat", f"/proc/{main_pid(units)}/status").stdout.splitlines()
    )
    assert {status[name] for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")} == {"0" * 16}
    assert (status["Seccomp"], status["NoNewPrivs"]) == ("2", "1")
    assert "0" not in status["Uid"].split()
    # In its own view of /proc others are visible, and owners are who they are.
    inside = ("nsenter", f"--target={main_pid(units)}", "--mount")
    assert units.run(*inside, "cat", "/proc/1/comm").stdout == "systemd\n"
    assert (
        units.run("readlink", f"/proc/{main_pid(units)}/ns/user").stdout
        == units.run("readlink", "/proc/1/ns/user").stdout
    )
