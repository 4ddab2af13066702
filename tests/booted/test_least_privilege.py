"""What the agent's process has, and what it does: nothing is written but its own, and nobody is called."""

from __future__ import annotations

from pathlib import Path

import pytest

from .balancer import Balancer
from .machine import Machine
from .software import COMMAND

SERVICE, SOCKET = "busyweight.service", "busyweight.socket"
STATE = "/var/lib/private/busyweight"


@pytest.fixture
def agent(with_agent: Machine) -> Machine:
    with_agent.run("systemctl", "start", SOCKET, SERVICE)
    return with_agent


def pid_of(machine: Machine) -> str:
    return machine.show(SERVICE, "MainPID")


def attempt(machine: Machine, code: str) -> str:
    """What Python prints that has the sandbox, user and capabilities of the service."""
    unit = machine.run("systemctl", "cat", SERVICE).stdout
    keep = (
        "ExecStart",
        "ExecReload",
        "Type=",
        "Restart",
        "Watchdog",
        "StateDir",
        "RuntimeDir",
        "DynamicUser",
        "Timeout",
    )
    service = unit.partition("[Service]")[2].partition("[Install]")[0].splitlines()
    properties = [
        f"--property={line}" for line in service if "=" in line and line[0] != "#" and not line.startswith(keep)
    ]
    user = ("--property=DynamicUser=yes", "--property=StateDirectory=probe")
    run = ["systemd-run", "--quiet", "--pipe", "--wait", *properties, *user]
    return machine.run(*run, "/usr/lib/busyweight/python", "-c", code).stdout


def test_agent_writes_its_state_and_its_socket_and_nothing_else(agent: Machine) -> None:
    agent.run("touch", "/run/before")
    with Balancer(agent) as balancer:
        balancer.servers()
        agent.run(COMMAND, "drain", "--reason", "disk swap")
        agent.run(COMMAND, "ready")
        agent.run("systemctl", "reload", SERVICE)
        uid = agent.run("stat", "--format=%u", f"/proc/{pid_of(agent)}").stdout.strip()
        find = ["find", "/", "-xdev", "-newer", "/run/before", "-uid", uid, "-not", "-path", "/proc/*"]
        written = set(agent.run(*find, check=False).stdout.split())
        written |= set(agent.run("find", "/run", "-uid", uid, "-type", "f").stdout.split())
    assert written <= {STATE, f"{STATE}/override.json"}, written


def test_agent_holds_no_connection_but_those_that_it_accepted(agent: Machine) -> None:
    with Balancer(agent) as balancer:
        balancer.servers()
        listed = agent.run("ss", "-Hntap").stdout.splitlines()
    ours = [line.split() for line in listed if f"pid={pid_of(agent)}," in line]
    assert any(line[0] == "LISTEN" for line in ours)
    assert [line for line in ours if line[0] != "LISTEN" and not line[3].endswith(":5001")] == []


@pytest.mark.parametrize(
    ("code", "refused"),
    [
        ("open('/etc/evil', 'w')", "Read-only file system"),
        ("open('/dev/mem')", "No such file"),
        ("import os; os.listdir('/root')", "Permission denied"),
        ("import os; os.setuid(0)", "Operation not permitted"),
        ("import os; os.kill(1, 15)", "Operation not permitted"),
        ("import os; os.chroot('/')", "Operation not permitted"),
        ("import os; os.unshare(os.CLONE_NEWUSER) if hasattr(os, 'unshare') else os.sched_setscheduler(0, 1, "
         "os.sched_param(1))", "Operation not permitted"),
        ("import socket; socket.socket(socket.AF_PACKET, socket.SOCK_RAW)", "not supported"),
        ("import ctypes; print(ctypes.CDLL(None, use_errno=True).ptrace(16, 1, 0, 0)); "
         "import os; raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))", "Operation not permitted"),
    ],
)  # fmt: skip
def test_who_owns_the_process_is_refused(agent: Machine, code: str, refused: str) -> None:
    told = attempt(agent, f"try:\n exec({code!r})\n print('done')\nexcept OSError as error:\n print(error)")
    assert refused in told


def test_probe_runs_under_the_units_own_filter(agent: Machine) -> None:
    status = attempt(agent, "print(open('/proc/self/status').read())")
    theirs = Path(agent.path(f"/proc/{pid_of(agent)}/status")).read_text()
    for name in ("CapEff", "CapBnd", "NoNewPrivs", "Seccomp"):
        [ours] = [line for line in theirs.splitlines() if line.startswith(f"{name}:")]
        assert ours in status
