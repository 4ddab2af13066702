"""The agent's privileges and behaviour: it writes only its own files, and opens no connections."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from .balancer import Balancer, Polls
from .machine import UNITS, Machine
from .software import COMMAND, PYTHON

SERVICE, SOCKET = "busyweight.service", "busyweight.socket"
CONFIG = "/etc/busyweight/busyweight.toml"
STATE = "/var/lib/private/busyweight"
RUNTIME = "/run/busyweight"
EBPF = (UNITS / "ebpf.conf").read_text()
NO_ADDRESS = "[Service]\nIPAddressDeny=any\n"


@pytest.fixture
def agent(with_agent: Machine) -> Machine:
    with_agent.write(CONFIG, '[reply]\nrelease_for = "1s"\n')
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


# BPF_MAP_CREATE of an array of one: 321 is bpf(2) on x86-64, 280 where the table is the common one.
MAKES_A_MAP = """
import ctypes, os, struct
attributes = struct.pack("5I", 2, 4, 4, 1, 0).ljust(120, b"\\0")
number = 321 if os.uname().machine == "x86_64" else 280
if ctypes.CDLL(None, use_errno=True).syscall(number, 0, attributes, len(attributes)) < 0:
    raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
"""


@pytest.mark.parametrize(
    ("drop_in", "told"),
    [
        ("", "[Errno 1] Operation not permitted"),
        (EBPF, "done"),
        # As the agent is once its programs are loaded: only the capabilities are missing.
        (f"{EBPF}AmbientCapabilities=\n", "[Errno 1] Operation not permitted"),
    ],
    ids=["shipped", "drop-in", "drop-in, capabilities given up"],
)
def test_bpf_is_refused_without_the_capabilities(agent: Machine, drop_in: str, told: str) -> None:
    assert agent.run("cat", "/proc/sys/kernel/unprivileged_bpf_disabled").stdout != "0\n"
    assert attempt(agent, MAKES_A_MAP, drop_in) == f"{told}\n"


POLLS = """
import socket
with socket.create_connection(("127.0.0.1", 5001), 2) as polls:
    assert polls.makefile().readline().startswith("up ")
"""
SENDS = """
import socket
with socket.socket(type=socket.SOCK_DGRAM) as sends:
    sends.sendto(b"", ("127.0.0.1", 9))
"""
COMMANDS = """
import socket
with socket.socket(socket.AF_UNIX) as commands:
    commands.connect("/run/busyweight/control.sock")
"""


@pytest.mark.parametrize(
    "code",
    [
        "open('/etc/passwd').read()",
        "import subprocess; subprocess.run(['/bin/true'], check=True)",
        "open('/var/lib/probe/kept', 'w')",
        POLLS,
        SENDS,
        COMMANDS,
    ],
    ids=["reads", "executes", "keeps", "tcp", "udp", "unix"],
)
def test_who_owns_the_process_has_what_the_page_on_security_says(agent: Machine, code: str) -> None:
    assert attempt(agent, code) == "done\n"


@pytest.mark.parametrize(
    ("code", "refused"), [(POLLS, "timed out"), (SENDS, "[Errno 1] Operation not permitted")], ids=["tcp", "udp"]
)
def test_address_filter_of_the_service_leaves_no_address(agent: Machine, code: str, refused: str) -> None:
    assert attempt(agent, code, NO_ADDRESS) == f"{refused}\n"


def test_address_filter_of_the_service_does_not_concern_a_passed_socket(agent: Machine) -> None:
    with agent.drop_in(SERVICE, NO_ADDRESS):
        agent.run("systemctl", "restart", SERVICE)
        with Polls(agent) as polls:
            agent.run("systemctl", "restart", SERVICE)
        agent.run("systemctl", "stop", SOCKET, SERVICE)
        # Of a machine's own pid namespace, in which there is no worker.
        assert {answer.partition(" #")[0] for answer in polls.heard} == {"up"}


def test_address_filter_of_the_service_concerns_a_socket_of_its_own(agent: Machine) -> None:
    agent.run("systemctl", "stop", SOCKET, SERVICE)
    agent.run("systemctl", "start", SERVICE)
    with agent.drop_in(SERVICE, NO_ADDRESS):
        agent.run("systemctl", "restart", SERVICE)
        assert attempt(agent, POLLS) == "timed out\n"
    with agent.drop_in(SERVICE, f"{NO_ADDRESS}IPAddressAllow=localhost\n"):
        # Over a restart systemd keeps the listening sockets, and with them the filter under which they were made.
        agent.run("systemctl", "stop", SERVICE)
        agent.run("systemctl", "start", SERVICE)
        assert attempt(agent, POLLS) == "done\n"
    agent.run("systemctl", "stop", SERVICE)
