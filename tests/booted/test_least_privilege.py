"""What the agent's process has, and what it does: nothing is written but its own, and nobody is called."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from .balancer import Balancer
from .machine import UNITS, Machine
from .software import COMMAND, PYTHON

SERVICE, SOCKET = "busyweight.service", "busyweight.socket"
STATE = "/var/lib/private/busyweight"
RUNTIME = "/run/busyweight"


@pytest.fixture
def agent(with_agent: Machine) -> Machine:
    with_agent.run("systemctl", "start", SOCKET, SERVICE)
    return with_agent


def pid_of(machine: Machine) -> str:
    return machine.show(SERVICE, "MainPID")


def sandboxed(machine: Machine, argv: Sequence[str], drop_in: str = "") -> str:
    """What a command prints that has the sandbox, user and capabilities of the service, with a drop-in of it."""
    unit = (UNITS / SERVICE).read_text().partition("[Install]")[0] + drop_in
    keep = (
        "Description",
        "After",
        "StartLimit",
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
    properties = [
        f"--property={line}"
        for line in unit.splitlines()
        if "=" in line and line[0] != "#" and not line.startswith(keep)
    ]
    user = ("--property=DynamicUser=yes", "--property=StateDirectory=probe")
    run = ["systemd-run", "--quiet", "--pipe", "--wait", *properties, *user]
    return machine.run(*run, *argv).stdout


def attempt(machine: Machine, code: str, drop_in: str = "") -> str:
    """What Python says there of what it was told to do: the error, or that it is done."""
    tried = f"try:\n exec({code!r})\n print('done')\nexcept OSError as error:\n print(error)"
    return sandboxed(machine, [str(PYTHON), "-c", tried], drop_in)


def test_agent_writes_its_state_and_its_socket_and_nothing_else(agent: Machine) -> None:
    with Balancer(agent) as balancer:
        balancer.servers()
        agent.run(COMMAND, "drain", "--reason", "disk swap")
        agent.run(COMMAND, "ready")
        agent.run("systemctl", "reload", SERVICE)
        agent.run(COMMAND, "drain", "--reason", "disk swap")
        uid = agent.run("stat", "--format=%u", f"/proc/{pid_of(agent)}").stdout.strip()
        # As the service sees it, on every file system: what is its own in /proc are processes.
        inside = ("nsenter", f"--target={pid_of(agent)}", "--mount")
        find = ["find", "/", "-fstype", "proc", "-prune", "-o", "-uid", uid, "-print"]
        written = set(agent.run(*inside, *find).stdout.split())
        agent.run(COMMAND, "ready")
    assert written == {STATE, f"{STATE}/override.json", RUNTIME, f"{RUNTIME}/control.sock"}


def test_nothing_else_could_be_written(agent: Machine) -> None:
    find = "find / -fstype proc -prune -o '(' -type d -o -type f ')' -writable -print 2>/dev/null || true"
    found = set(sandboxed(agent, ["sh", "-c", find]).split())
    # The temporary directories are the sandbox's own, and end with it.
    assert found == {"/tmp", "/var/tmp", "/var/lib/private/probe"}  # noqa: S108


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
        ("open('/run/lock/evil', 'w')", "Read-only file system"),
        ("open('/dev/evil', 'w')", "Read-only file system"),
        ("open('/dev/shm/evil', 'w')", "Permission denied"),
        ("open('/dev/mqueue/evil', 'w')", "Permission denied"),
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
    assert refused in attempt(agent, code)


def test_probe_runs_under_the_units_own_filter(agent: Machine) -> None:
    status = sandboxed(agent, ["cat", "/proc/self/status"])
    theirs = Path(agent.path(f"/proc/{pid_of(agent)}/status")).read_text()
    for name in ("CapEff", "CapBnd", "NoNewPrivs", "Seccomp"):
        [ours] = [line for line in theirs.splitlines() if line.startswith(f"{name}:")]
        assert ours in status
