"""The agent as installed: started by its socket, polled by a real HAProxy, restarted, reloaded, stopped, stuck."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from tests.cgroups import controlled, limit

from .balancer import BACKENDS, Balancer, Polls
from .host import wait_until
from .machine import HOST_PROC, UNITS, Machine
from .software import COMMAND

SERVICE, SOCKET = "busyweight.service", "busyweight.socket"
CONFIG = "/etc/busyweight/busyweight.toml"
WORKERS = 3


def configure(machine: Machine, capacity: int, scan: str = "") -> None:
    """Write a configuration under which the workers are a share of this capacity, and samples are fresh."""
    machine.write(
        CONFIG,
        f"""\
[scan]
fresh_for = "50ms"
min_gap = "0ms"
max_duty = "100%"
{scan}
[weight]
capacity = {capacity}
[reply]
release_for = "2s"
""",
    )


def start_worker(machine: Machine, unit: str) -> None:
    """A Sidekiq with a job."""
    worker = 'exec -a "sidekiq 7.3.0 shop [2 of 2 busy]" /opt/ruby infinity'
    machine.run("systemd-run", f"--unit={unit}", "bash", "-c", worker)


@contextmanager
def one_more_worker(machine: Machine) -> Iterator[None]:
    start_worker(machine, "late-worker")
    try:
        yield
    finally:
        machine.run("systemctl", "stop", "late-worker")


@pytest.fixture(scope="module")
def host(with_agent: Machine) -> Iterator[Machine]:
    """A host with three Sidekiqs, each with a job; the agent is installed and has not been started yet."""
    with_agent.run("cp", "/bin/sleep", "/opt/ruby")
    for number in range(WORKERS):
        start_worker(with_agent, f"worker{number}")
    yield with_agent
    assert "Traceback" not in with_agent.journal(SERVICE)


@pytest.fixture
def agent(host: Machine) -> Machine:
    """The same with the socket up, the service as yet inactive, and a quarter of the host free."""
    # By force: the release is of interest to few tests.
    host.run("systemctl", "kill", "--signal=KILL", SERVICE, check=False)
    host.run("systemctl", "stop", SOCKET, SERVICE)
    host.run("systemctl", "reset-failed")
    host.run("systemctl", "clean", "--what=state", SERVICE)
    configure(host, capacity=4)
    host.run("systemctl", "start", SOCKET)
    assert host.show(SERVICE, "ActiveState") == "inactive"
    return host


def main_pid(machine: Machine) -> int:
    return int(machine.show(SERVICE, "MainPID"))


def status_of(machine: Machine) -> dict[str, str]:
    """The fields of the agent's /proc/PID/status."""
    text = machine.run("cat", f"/proc/{main_pid(machine)}/status").stdout
    return dict(line.split(":\t", 1) for line in text.splitlines())


def statuses_of_threads(machine: Machine) -> list[dict[str, str]]:
    """The fields of the status of each thread of the agent."""
    text = machine.run("sh", "-c", f"cat /proc/{main_pid(machine)}/task/*/status").stdout
    each = ("Name:" + one for one in text.split("Name:")[1:])
    return [dict(line.split(":\t", 1) for line in one.splitlines()) for one in each]


def killed_for_memory(group: Path) -> int:
    """How many processes the kernel has killed because this cgroup's limit of memory was reached."""
    [file] = [group / name for name in ("memory.events", "memory.oom_control") if (group / name).exists()]
    [count] = re.findall(r"^oom_kill (\d+)$", file.read_text(), re.MULTILINE)
    return int(count)


def busyweight(machine: Machine, *arguments: str) -> str:
    """What the operator's command says."""
    return machine.run(COMMAND, *arguments).stdout


def wait_for_every_server(balancer: Balancer, rule: Callable[[dict[str, str]], bool], what: str) -> None:
    wait_until(lambda: all(map(rule, balancer.servers())), f"{what} in each of {', '.join(BACKENDS)}")


def in_use(balancer: Balancer) -> set[int]:
    """The weights of the servers, none of which is down, drained or in maintenance."""
    servers = balancer.servers()
    assert {server["status"] for server in servers} <= {"UP", "no check"}
    return {int(server["weight"]) for server in servers}


def drained(server: dict[str, str]) -> bool:
    return "DRAIN" in server["status"]


def test_first_poll_starts_the_agent_and_is_answered(agent: Machine) -> None:
    with Polls(agent) as polls:
        agent.wait_for_state(SERVICE, "active")
    assert polls.heard == {"up 25% #3/4 busy"}
    assert "up 25% #3/4 busy" in agent.show(SERVICE, "StatusText")


def test_restart_of_a_full_host_loses_no_poll_and_never_says_it_is_free(agent: Machine) -> None:
    configure(agent, capacity=WORKERS)
    with Balancer(agent) as balancer:
        balancer.wait_for_weight(0)
        with Polls(agent) as polls:
            for _ in range(3):
                agent.run("systemctl", "restart", SERVICE)
        assert polls.heard == {"up 0% #3/3 busy"}
        assert balancer.weights() == [0, 0, 0]
        assert "failed" not in balancer.log()
        # HAProxy hears the new agent, so the silence of its log means something.
        configure(agent, capacity=2 * WORKERS)
        agent.run("systemctl", "reload", SERVICE)
        balancer.wait_for_weight(50)


def test_haproxy_does_log_a_check_that_fails(agent: Machine) -> None:
    with Balancer(agent) as balancer:
        balancer.wait_for_weight(25)
        agent.run("systemctl", "stop", SOCKET, SERVICE)
        wait_until(lambda: "Agent check for server web1/app failed" in balancer.log(), "the failure is logged")


def test_without_the_socket_unit_systemd_keeps_the_port_for_the_next_agent(agent: Machine) -> None:
    agent.run("systemctl", "stop", SOCKET)
    agent.run("systemctl", "start", SERVICE)
    with Polls(agent) as polls:
        for _ in range(3):
            agent.run("systemctl", "restart", SERVICE)
    assert polls.heard == {"up 25% #3/4 busy"}
    with Polls(agent) as polls:
        before = main_pid(agent)
        agent.run("systemctl", "kill", "--signal=KILL", SERVICE)
        wait_until(lambda: main_pid(agent) not in (0, before), "another agent is there")
        agent.wait_for_state(SERVICE, "active")
    # Who was accepted at the moment of the kill goes with the agent; nobody is refused.
    assert polls.heard - {"(nothing)"} == {"up 25% #3/4 busy"}
    with Polls(agent) as polls:
        agent.run("systemctl", "stop", SERVICE)
    assert polls.runs[-1][1] == "(ConnectionRefusedError)"


def test_restart_that_no_agent_can_follow_releases_every_backend_first(agent: Machine) -> None:
    configure(agent, capacity=WORKERS)
    with Balancer(agent) as balancer:
        balancer.wait_for_weight(0)
        agent.write(CONFIG, "nonsense = true\n")
        agent.run("systemctl", "restart", "--no-block", SERVICE)
        balancer.wait_for_weight(100)
        wait_until(lambda: "nonsense" in agent.journal(SERVICE), "the fault is in the journal")
        configure(agent, capacity=WORKERS)
        balancer.wait_for_weight(0)


def test_stop_of_socket_and_service_releases_every_backend(agent: Machine) -> None:
    with Balancer(agent) as balancer:
        balancer.wait_for_weight(25)
        with Polls(agent) as polls:
            agent.run("systemctl", "stop", SERVICE, SOCKET)
        answers = [answer for _, answer in polls.runs if answer not in polls.failures]
        assert answers[-1] == "up 100% #stopping"
        assert answers.count("up 100% #stopping") == 1  # one unbroken run
        assert balancer.weights() == [100, 100, 100]
    assert agent.show(SERVICE, "Result") == "success"


def test_release_longer_than_the_stop_timeout_is_said_in_full(agent: Machine) -> None:
    with agent.drop_in(SERVICE, "[Service]\nTimeoutStopSec=1s\n"):
        agent.run("systemctl", "start", SERVICE)
        agent.run("systemctl", "stop", SERVICE, SOCKET)
    assert agent.show(SERVICE, "Result") == "success"


def test_reload_changes_the_answer_and_loses_no_poll(agent: Machine) -> None:
    with Balancer(agent) as balancer:
        balancer.wait_for_weight(25)
        before = main_pid(agent)
        with Polls(agent) as polls:
            configure(agent, capacity=6)
            agent.run("systemctl", "reload", SERVICE)
            balancer.wait_for_weight(50)
    assert polls.heard <= {"up 25% #3/4 busy", "up 50% #3/6 busy"}
    assert polls.runs[-1][1] == "up 50% #3/6 busy"
    assert main_pid(agent) == before


def test_reload_of_a_wrong_file_changes_nothing_and_says_why(agent: Machine) -> None:
    agent.run("systemctl", "start", SERVICE)
    agent.write(CONFIG, "nonsense = true\n")
    with Polls(agent) as polls:
        agent.run("systemctl", "reload", SERVICE)
        wait_until(lambda: "nonsense" in agent.journal(SERVICE), "the fault is in the journal")
    assert polls.heard == {"up 25% #3/4 busy"}
    assert "nonsense" in busyweight(agent, "status")


def test_stopped_agent_is_killed_by_the_watchdog_and_replaced(agent: Machine) -> None:
    with agent.drop_in(SERVICE, "[Service]\nWatchdogSec=2s\n"), Balancer(agent) as balancer:
        balancer.wait_for_weight(25)
        stuck = main_pid(agent)
        agent.run("kill", "-STOP", str(stuck))
        wait_until(lambda: main_pid(agent) not in (0, stuck), "another process has taken over")
        configure(agent, capacity=6)
        agent.run("systemctl", "reload", SERVICE)
        balancer.wait_for_weight(50)
    assert "Watchdog timeout" in agent.journal(SERVICE)


def test_watchdog_leaves_an_unpolled_agent_alone(agent: Machine) -> None:
    petted: set[str] = set()

    def petted_again_and_again() -> bool:
        petted.add(agent.show(SERVICE, "WatchdogTimestampMonotonic"))
        return len(petted) > 3  # the start counts as one

    with agent.drop_in(SERVICE, "[Service]\nWatchdogSec=500ms\n"):
        agent.run("systemctl", "start", SERVICE)
        first = main_pid(agent)
        wait_until(petted_again_and_again, "the watchdog is petted")
        assert main_pid(agent) == first


def test_killed_agent_is_replaced_and_speaks_up(agent: Machine) -> None:
    with Balancer(agent) as balancer:
        balancer.wait_for_weight(25)
        agent.run("systemctl", "kill", "--signal=KILL", SERVICE)
        configure(agent, capacity=6)
        balancer.wait_for_weight(50)
        assert {server["last_agt"] for server in balancer.servers()} == {"via agent : up (3/6 busy)"}


def test_agent_out_of_memory_is_killed_and_replaced_and_leaves_no_server_down(agent: Machine) -> None:
    configure(agent, capacity=8)
    with Balancer(agent) as balancer, controlled("memory", "busyweight-memory") as group:
        balancer.wait_for_weight(62)
        limit(group, memory_max="0")
        agent.move(main_pid(agent), group)
        wait_until(lambda: killed_for_memory(group) == 1, "the kernel has killed the agent")

        def killed_again() -> bool:
            with suppress(ProcessLookupError):
                agent.move(main_pid(agent), group)  # whoever comes next starts under the limit, too
            assert in_use(balancer) <= {62, 50}
            return killed_for_memory(group) >= 3

        with one_more_worker(agent):
            wait_until(killed_again, "the kernel has killed those that came after it")
            balancer.wait_for_weight(50)
        assert in_use(balancer) <= {50, 62}
        assert "failed" not in balancer.log()
    assert int(agent.show(SERVICE, "NRestarts")) >= 3


def test_override_outlives_a_restart_and_ready_ends_it_in_every_backend(agent: Machine) -> None:
    with Balancer(agent) as balancer:
        balancer.wait_for_weight(25)
        busyweight(agent, "drain", "--for", "30m", "--reason", "disk swap")
        wait_for_every_server(balancer, drained, "drained")
        agent.run("systemctl", "restart", SERVICE)
        with Polls(agent) as polls:
            told = json.loads(busyweight(agent, "status", "--json"))
        assert "disk swap" in json.dumps(told)
        assert all(answer.startswith("drain") and "disk swap" in answer for answer in polls.heard)
        assert all(map(drained, balancer.servers()))
        busyweight(agent, "ready")
        wait_for_every_server(balancer, lambda server: not drained(server), "back")
        balancer.wait_for_weight(25)


def test_override_in_force_is_the_last_word_of_a_stop(agent: Machine) -> None:
    agent.run("systemctl", "start", SERVICE)
    busyweight(agent, "drain", "--reason", "disk swap")
    with Balancer(agent) as balancer:
        wait_for_every_server(balancer, drained, "drained")
        with Polls(agent) as polls:
            agent.run("systemctl", "stop", SERVICE, SOCKET)
        assert all(answer.startswith("drain") for answer in polls.heard - polls.failures)
        assert all(map(drained, balancer.servers()))


def test_operator_outside_the_group_may_ask_and_not_command(agent: Machine) -> None:
    agent.run("systemctl", "start", SERVICE)
    as_nobody = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", str(COMMAND))
    refused = agent.run(*as_nobody, "drain", check=False)
    assert refused.returncode == 1
    assert "Traceback" not in refused.stderr
    assert len(refused.stderr.splitlines()) == 1
    with Polls(agent) as polls:
        pass
    assert polls.heard <= {"up 25% #3/4 busy"}


def test_agent_runs_without_privileges_under_the_filter(agent: Machine) -> None:
    agent.run("systemctl", "start", SERVICE)
    status = status_of(agent)
    assert {status[name] for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")} == {"0" * 16}
    assert (status["Seccomp"], status["NoNewPrivs"]) == ("2", "1")
    assert "0" not in status["Uid"].split()


def test_agent_without_the_socket_unit_listens_by_itself(agent: Machine) -> None:
    agent.run("systemctl", "stop", SOCKET)
    agent.run("systemctl", "start", SERVICE)
    assert agent.show(SOCKET, "ActiveState") == "inactive"
    with Polls(agent) as polls:
        agent.run("systemctl", "reload", SERVICE)
    assert polls.heard == {"up 25% #3/4 busy"}


def test_ebpf_drop_in_is_enough_for_ebpf_and_needed_for_it(agent: Machine) -> None:
    configure(agent, capacity=4, scan=f'discovery = "ebpf"\nprocfs = "{HOST_PROC}"')
    agent.run("systemctl", "start", SERVICE)
    assert "not available: ebpf" in agent.journal(SERVICE)
    agent.run("systemctl", "stop", SOCKET, SERVICE)

    since = agent.run("date", "+%s.%N").stdout.strip()
    with agent.drop_in(SERVICE, (UNITS / "ebpf.conf").read_text()):
        agent.run("systemctl", "start", SERVICE)
        agent.run("journalctl", "--sync")
        said = agent.run("journalctl", "--unit", SERVICE, f"--since=@{since}").stdout
        told = json.loads(busyweight(agent, "status", "--json"))
        threads = statuses_of_threads(agent)
    assert "finding workers by ebpf" in said
    assert "not available" not in said
    assert told["sample"]["discovery"] == "ebpf"
    # Capabilities belong to threads: the one that scans is not the one that loaded.
    assert len(threads) > 1
    for name in ("CapInh", "CapPrm", "CapEff", "CapAmb"):
        assert {status[name] for status in threads} == {"0" * 16}, name
    assert {status["CapBnd"] for status in threads} == {"000000c000000000"}  # CAP_PERFMON and CAP_BPF
