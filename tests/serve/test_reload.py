"""SIGHUP: a new configuration takes effect as a whole or not at all, and no poll is lost meanwhile."""

import json
import signal
import socket
import sys
from pathlib import Path

import pytest

from agent.serve.startup import FIRST_SAMPLE_S
from tests.farm import sidekiq_title
from tests.real.parts import free_port
from tests.tree import Tree, TreeAgent

from .running import (
    AT_ONCE,
    CAPACITY,
    DEADLINE_S,
    EAGER,
    Notified,
    begins_with,
    log_lines,
    refused,
    thread_names,
)


def test_a_reload_takes_all_that_is_new_and_moves_the_ports(agent: TreeAgent, notified: Notified) -> None:
    other = free_port()
    with agent:
        notified.until("READY=1")
        former, agent.port = agent.port, other
        agent.write_config(AT_ONCE + '[weight]\ncapacity = 12\n[workers]\ncomm = ["ruby"]\n')
        agent.send(signal.SIGHUP)
        notified.until("READY=1")
        agent.wait_answer(b"up 50% #6/12 busy\n")
        assert refused(former)
        assert "info: reloaded the configuration" in log_lines(agent)


def test_a_reload_holds_at_once_however_long_the_former_answer_was_good_for(
    agent: TreeAgent, notified: Notified
) -> None:
    agent.write_config(AT_ONCE + CAPACITY + '[scan]\nfresh_for = "1h"\n')
    with agent:
        notified.until("READY=1")
        agent.tree.retitle(100, sidekiq_title(0))
        assert agent.ask() == b"up 75% #6/24 busy\n"
        agent.write_config(AT_ONCE + CAPACITY + EAGER)
        agent.send(signal.SIGHUP)
        notified.until("READY=1")
        agent.wait_answer(b"up 79% #5/24 busy\n")


def test_a_reload_adds_a_port_and_leaves_the_one_it_keeps_alone(agent: TreeAgent) -> None:
    other = free_port()
    with agent:
        agent.config_file.write_text(
            f'listen = ["127.0.0.1:{agent.port}", "127.0.0.1:{other}"]\n{AT_ONCE}[weight]\ncapacity = 12\n'
        )
        agent.send(signal.SIGHUP)
        agent.until(lambda: not refused(other), "listening there, too", DEADLINE_S)
        agent.wait_answer(b"up 50% #6/12 busy\n")


@pytest.mark.parametrize(
    ("former", "later", "served"),
    [
        (["127.0.0.1"], ["0.0.0.0"], ["127.0.0.1", "127.0.0.2"]),
        (["0.0.0.0"], ["127.0.0.1"], ["127.0.0.1"]),
        (["127.0.0.1"], ["[::]"], ["127.0.0.1", "::1"]),
        (["[::]"], ["[::]", "0.0.0.0"], ["127.0.0.1", "::1"]),
        (["[::]", "0.0.0.0"], ["[::]"], ["127.0.0.1", "::1"]),
        (["[::]", "127.0.0.1"], ["[::]", "0.0.0.0"], ["127.0.0.1", "127.0.0.2", "::1"]),
    ],
)
def test_a_reload_widens_and_narrows_where_it_listens_without_a_moment_of_silence(
    agent: TreeAgent, former: list[str], later: list[str], served: list[str]
) -> None:
    def write(hosts: list[str], capacity: int) -> None:
        listen = ", ".join(f'"{host}:{agent.port}"' for host in hosts)
        agent.config_file.write_text(f"listen = [{listen}]\n{AT_ONCE}[weight]\ncapacity = {capacity}\n")

    def ask(host: str) -> bytes:
        with socket.create_connection((host, agent.port), DEADLINE_S) as poll:
            return poll.makefile("rb").readline()

    write(former, 24)
    with agent:
        write(later, 12)
        agent.send(signal.SIGHUP)
        agent.until(lambda: ask("127.0.0.1") == b"up 50% #6/12 busy\n", "reloaded", DEADLINE_S)
        assert {ask(host) for host in served} == {b"up 50% #6/12 busy\n"}
        with pytest.raises(OSError, match="Address already in use"):
            socket.create_server(("127.0.0.1", agent.port)).close()


def test_a_reload_while_another_one_waits_for_its_first_sample_takes_its_place(
    tmp_path: Path, agent: TreeAgent
) -> None:
    other = Tree(tmp_path / "other")
    hung = other.hang_scans()
    plain = [argument for argument in agent.argv() if argument not in ("--procfs", str(agent.tree))]
    agent.argv = lambda: plain  # type: ignore[method-assign]
    begins_with(agent, "from agent.serve import reload; reload.FIRST_SAMPLE_S /= 10")

    def configure(tree: Tree, capacity: int) -> None:
        agent.write_config(f"{AT_ONCE}[weight]\ncapacity = {capacity}\n[scan]\nprocfs = '{tree}'\n")

    def said(line: str) -> int:
        return log_lines(agent).count(f"info: {line}")

    configure(agent.tree, 24)
    with agent:
        configure(other, 24)
        agent.send(signal.SIGHUP)
        agent.until(lambda: said("reloaded the configuration") == 1, "reloading", DEADLINE_S)
        late = (
            "warning: the new configuration still waits for its first sample; the previous one stays in use meanwhile"
        )
        agent.until(lambda: late in log_lines(agent), "late", 2 * FIRST_SAMPLE_S)
        configure(agent.tree, 12)
        agent.send(signal.SIGHUP)
        # Back where it was, it still looks anew: the other one may have changed what the kernel looks for.
        agent.until(lambda: said("finding workers by sweep") == 2, "looking anew", DEADLINE_S)
        assert agent.ask() == b"up 50% #6/12 busy\n"
        for pid in hung:
            other.heal(pid, sidekiq_title(1))
        agent.until(lambda: thread_names(agent.pid).count("reader") == 1, "rid of the other one", DEADLINE_S)
        assert agent.ask() == b"up 50% #6/12 busy\n"


def held(agent: TreeAgent) -> tuple[int, int]:
    """Its reader threads and its open files."""
    return thread_names(agent.pid).count("reader"), len(list(Path(f"/proc/{agent.pid}/fd").iterdir()))


def test_reloads_while_readers_hang_hold_and_leave_nothing_behind(agent: TreeAgent) -> None:
    def configure(n: int) -> None:
        # More than all that hang could fill.
        agent.write_config(f'{AT_ONCE}[weight]\ncapacity = {24 * n}\n[workers]\ncomm = ["ruby", "x{n}"]\n')

    def reload(n: int) -> None:
        configure(n)
        agent.send(signal.SIGHUP)
        agent.wait_answer(b"up %d%% #6/%d busy\n" % (round(100 - 25 / n), 24 * n), DEADLINE_S)

    def no_more(before: tuple[int, int]) -> bool:
        return all(now <= then for now, then in zip(held(agent), before, strict=True))

    hung = [agent.tree.add_hanging(pid) for pid in range(200, 210)]
    configure(1)
    with agent:
        reload(2)
        before = held(agent)
        for n in range(3, 10):
            reload(n)
            agent.until(lambda: no_more(before), f"as it was after the first reload: {before}", DEADLINE_S)
        for pid in hung:
            agent.tree.heal(pid, b"irb")
        agent.until(lambda: thread_names(agent.pid).count("reader") == 1, "rid of those that hung", DEADLINE_S)


def test_a_reload_that_looks_for_other_workers_lets_no_weight_fall(agent: TreeAgent) -> None:
    weight = '[weight]\ncapacity = 24\nunknown = "0%"\nrise = "0.001%/s"\n'
    agent.write_config(AT_ONCE + weight)
    with agent:
        assert agent.ask() == b"up 75% #6/24 busy\n"
        agent.write_config(AT_ONCE + weight + '[workers]\ncomm = ["ruby"]\n')
        agent.send(signal.SIGHUP)
        agent.until(lambda: log_lines(agent).count("info: finding workers by sweep") == 2, "new workers", DEADLINE_S)
        assert agent.ask() == b"up 75% #6/24 busy\n"
        assert "unknown" not in agent.log_text()


def test_a_reload_that_is_refused_leaves_the_log_as_it_was(agent: TreeAgent, notified: Notified) -> None:
    with agent, socket.create_server(("127.0.0.1", 0)) as taken:
        notified.until("READY=1")
        port = taken.getsockname()[1]
        agent.config_file.write_text(f'listen = ["127.0.0.1:{port}"]\n[log]\nformat = "json"\n')
        agent.send(signal.SIGHUP)
        notified.until("READY=1")
        assert log_lines(agent)[-1] == "error: reload failed; the previous configuration stays in use"


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ("weight = 3\n[scan]\nspeed = 1\n", ["{file}: weight: ", "{file}: scan.speed: ", "reload failed"]),
        ("[scan]\nprocfs = '/none'\n", ["procfs root /none: no such file or directory\n", "reload failed"]),
        ("not toml", ["{file}: not TOML: "]),
    ],
)
def test_a_reload_of_what_is_wrong_changes_nothing_and_names_every_fault(
    agent: TreeAgent, notified: Notified, config: str, said: list[str]
) -> None:
    plain = [argument for argument in agent.argv() if argument not in ("--procfs", str(agent.tree))]
    agent.argv = lambda: plain  # type: ignore[method-assign]
    agent.write_config(f"{CAPACITY}{AT_ONCE}[scan]\nprocfs = '{agent.tree}'\n")
    with agent:
        notified.until("READY=1")
        before = len(log_lines(agent))
        agent.write_config(config)
        agent.send(signal.SIGHUP)
        notified.until("READY=1")
        new = "\n".join(log_lines(agent)[before:])
        for words in said:
            assert words.format(file=agent.config_file) in new
        assert agent.ask() == b"up 75% #6/24 busy\n"


@pytest.mark.parametrize("emptied", [False, True])
def test_a_default_file_that_was_there_and_is_gone_or_empty_is_a_fault(
    agent: TreeAgent, notified: Notified, emptied: bool
) -> None:
    """It is probably being rewritten."""
    begins_with(
        agent,
        f"import pathlib; from agent.config import file; file.DEFAULT_FILE = pathlib.Path({str(agent.config_file)!r})",
    )
    at = (argv := agent.argv()).index("--config")
    del argv[at : at + 2]
    with agent:
        notified.until("READY=1")
        text = agent.config_file.read_text()
        if emptied:
            agent.config_file.write_text("")
        else:
            agent.config_file.unlink()
        agent.send(signal.SIGHUP)
        notified.until("READY=1")
        assert agent.ask() == b"up 75% #6/24 busy\n"
        fault = f"{agent.config_file}: {'empty' if emptied else 'no such file'}, but it had settings before"
        assert f"error: {fault}" in agent.log_text()
        agent.config_file.write_text(text.replace("capacity = 24", "capacity = 12"))
        agent.send(signal.SIGHUP)
        notified.until("READY=1")
        agent.wait_answer(b"up 50% #6/12 busy\n")


def test_cores_that_come_or_go_are_counted_at_a_reload(agent: TreeAgent, tmp_path: Path, notified: Notified) -> None:
    cpus = Cpus(tmp_path / "cpu", 24)
    begins_with(agent, cpus.instead)
    agent.write_config(AT_ONCE)
    with agent:
        notified.until("READY=1")
        assert agent.ask() == b"up 75% #6/24 busy\n"
        cpus.offline(range(12, 24))
        agent.send(signal.SIGHUP)
        notified.until("READY=1")
        agent.wait_answer(b"up 50% #6/12 busy\n")
        assert any("default pool: capacity 12 (physical cores, " in line for line in log_lines(agent))


def test_cores_that_come_or_go_are_seen_by_a_running_agent(agent: TreeAgent, tmp_path: Path) -> None:
    cpus = Cpus(tmp_path / "cpu", 24)
    begins_with(agent, f"{cpus.instead}; from agent.serve import recount; recount.EVERY_S = 0.0")
    agent.write_config(AT_ONCE + EAGER)
    with agent:
        assert agent.ask() == b"up 75% #6/24 busy\n"
        cpus.offline(range(12, 24))
        agent.wait_answer(b"up 50% #6/12 busy\n", DEADLINE_S)
        # What cannot be counted now is not taken for less, nor for more.
        (tmp_path / "cpu/cpu0/topology/core_cpus_list").unlink()
        (tmp_path / "cpu/cpu0/topology/core_cpus_list").mkdir()
        agent.until(
            lambda: "cannot determine this machine's capacity" in agent.log_text() or not agent.ask(), "told", 10
        )
        assert agent.ask() == b"up 50% #6/12 busy\n"


class Cpus:
    """A directory in place of /sys/devices/system/cpu, with so many cores of one CPU each."""

    def __init__(self, home: Path, cores: int) -> None:
        self._home = home
        self.instead = (
            f"import pathlib; from agent.sampling import capacity; capacity.cores.__defaults__ = "
            f"(pathlib.Path({str(home)!r}), pathlib.Path('/none'))"
        )
        for cpu in range(cores):
            topology = home / f"cpu{cpu}/topology"
            topology.mkdir(parents=True)
            (topology / "core_cpus_list").write_text(f"{cpu}\n")

    def offline(self, cpus: range) -> None:
        for cpu in cpus:
            (self._home / f"cpu{cpu}/topology/core_cpus_list").unlink()


def test_a_reload_whose_port_is_taken_changes_nothing(agent: TreeAgent, notified: Notified) -> None:
    with agent, socket.create_server(("127.0.0.1", 0)) as taken:
        notified.until("READY=1")
        port = taken.getsockname()[1]
        agent.config_file.write_text(f'listen = ["127.0.0.1:{free_port()}", "127.0.0.1:{port}"]\n')
        agent.send(signal.SIGHUP)
        notified.until("READY=1")
        assert f"cannot listen on 127.0.0.1:{port}: address already in use" in agent.log_text()
        assert agent.ask() == b"up 75% #6/24 busy\n"


# A network that the configuration takes and the answerer refuses, and a scanner that breaks.
FAULTS_OF_OUR_OWN = """
from agent.config import values
from agent.sampling import host
object.__setattr__(values.network, "parse", str)
right = host.open_scanner
def open_scanner(config, **more):
    assert "broken" not in {pool.name for pool in config.pools}
    return right(config, **more)
host.open_scanner = open_scanner
"""


@pytest.mark.parametrize(
    ("config", "fault"),
    [('allow = ["fe80::1%eth0"]\n[pools.mail]\n', "ValueError"), ("[pools.mail]\n[pools.broken]\n", "AssertionError")],
)
def test_a_bug_during_a_reload(agent: TreeAgent, notified: Notified, config: str, fault: str) -> None:
    """The reload changes nothing, and the next one works."""
    begins_with(agent, FAULTS_OF_OUR_OWN)
    former, other = agent.port, free_port()
    agent.write_config(CAPACITY + AT_ONCE + EAGER)
    agent.start()
    notified.until("READY=1")
    agent.port = other
    agent.write_config(config + AT_ONCE)
    agent.send(signal.SIGHUP)
    notified.until("READY=1")
    told = json.loads(agent.order("status", "--json"))["config"]["reload"]
    assert (told["ok"], len(told["faults"])) == (False, 1)
    assert told["faults"][0].startswith(f"the agent failed: {fault}(")
    assert refused(other)
    agent.port = former
    assert agent.ask() == b"up 75% #6/24 busy\n"

    agent.write_config(CAPACITY + AT_ONCE + EAGER + "[pools.mail]\ncapacity = 12\n")
    agent.send(signal.SIGHUP)
    notified.until("READY=1")
    agent.until(lambda: agent.ask(b"mail\n") == b"up 50% #6/12 busy\n", "knowing the pool", DEADLINE_S)
    agent.tree.retitle(100, sidekiq_title(0))
    agent.wait_answer(b"up 79% #5/24 busy\n")
    agent.stop()
    assert agent.log_text().count("Traceback") == 1
    agent.log.write_text("")  # which no other test may leave in it


def test_a_reload_to_another_procfs(tmp_path: Path, agent: TreeAgent) -> None:
    """Replies are based on the previous one until the new one has a sample."""
    other = Tree(tmp_path / "other")
    other.workers(busy=12)
    plain = [argument for argument in agent.argv() if argument not in ("--procfs", str(agent.tree))]
    agent.argv = lambda: plain  # type: ignore[method-assign]
    agent.write_config(f"{CAPACITY}{AT_ONCE}[scan]\nprocfs = '{agent.tree}'\n")
    with agent:
        agent.write_config(f"{CAPACITY}{AT_ONCE}[scan]\nprocfs = '{other}'\n")
        agent.send(signal.SIGHUP)
        answers: list[bytes] = []

        def moved() -> bool:
            answers.append(agent.ask())
            return answers[-1] != b"up 75% #6/24 busy\n"

        agent.until(moved, "in the other tree", DEADLINE_S)
        assert answers[-1] == b"up 50% #12/24 busy\n"


# What systemd does for a service with a socket unit.
WITH_A_SOCKET = """
import os, socket, sys
listener = socket.create_server(("127.0.0.1", int(sys.argv[1])))
os.dup2(listener.fileno(), 3)
os.set_inheritable(3, True)
os.environ |= {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "1"}
os.execv(sys.argv[2], sys.argv[2:])
"""


def test_a_passed_socket_is_systemds_to_move_and_another_listen_is_warned_of(agent: TreeAgent) -> None:
    argv = [sys.executable, "-c", WITH_A_SOCKET, str(agent.port), *agent.argv()]
    agent.argv = lambda: argv  # type: ignore[method-assign]
    with agent:
        assert "override listen" not in agent.log_text()
        agent.config_file.write_text(f'listen = ["127.0.0.1:{free_port()}"]\n{AT_ONCE}[weight]\ncapacity = 12\n')
        agent.send(signal.SIGHUP)
        agent.wait_answer(b"up 50% #6/12 busy\n")
        assert "warning: the sockets passed by systemd override listen = 127.0.0.1:" in agent.log_text()
