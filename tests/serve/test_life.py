"""How the agent ends and what it leaves behind: stops at any moment, restarts, and notifications to systemd."""

import os
import signal
import socket
import sys
from pathlib import Path

import pytest

from tests.real.parts import free_port
from tests.tree import Tree, TreeAgent

from .running import CAPACITY, DEADLINE_S, Notified, refused, thread_names


def blocks(pid: int, number: signal.Signals) -> bool:
    """Whether the process holds this signal back."""
    status = Path(f"/proc/{pid}/status").read_text()
    [mask] = [line.split()[1] for line in status.splitlines() if line.startswith("SigBlk:")]
    return bool(int(mask, 16) >> (number - 1) & 1)


def catches(pid: int, number: signal.Signals) -> bool:
    """Whether the process has a handler for this signal."""
    status = Path(f"/proc/{pid}/status").read_text()
    [mask] = [line.split()[1] for line in status.splitlines() if line.startswith("SigCgt:")]
    return bool(int(mask, 16) >> (number - 1) & 1)


def test_a_stop_before_anything_is_imported_takes_the_last_word_back(agent: TreeAgent, tmp_path: Path) -> None:
    """A previous agent may have left a weight. The import hangs until the test opens the pipe."""
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    program = f"""
import sys
from agent import __main__
class Gate:
    def find_spec(name, *_):
        if name == "agent.cli":
            open({str(gate)!r}).close()
sys.meta_path.insert(0, Gate)
sys.exit(__main__.main())
"""
    argv = [sys.executable, "-c", program, *agent.argv()[1:]]
    agent.argv = lambda: argv  # type: ignore[method-assign]
    agent.write_config(CAPACITY + '[reply]\nrelease_for = "1h"\n')
    agent.start()
    agent.until(lambda: blocks(agent.pid, signal.SIGTERM), "holding signals back", DEADLINE_S)
    agent.send(signal.SIGTERM)
    gate.write_text("")
    agent.until(lambda: not refused(agent.port), "listening", DEADLINE_S)
    assert agent.ask() == b"up 100% #stopping\n"
    agent.send(signal.SIGTERM)
    assert agent.wait_exit(DEADLINE_S) == 0


def test_a_stop_while_the_first_scan_hangs_takes_the_last_word_back(tree: Tree, agent: TreeAgent) -> None:
    hung = tree.hang_scans()
    agent.write_config(CAPACITY + '[reply]\nrelease_for = "1h"\n')
    agent.start()
    agent.until(lambda: thread_names(agent.pid).count("reader") == len(hung), "scanning", DEADLINE_S)
    agent.send(signal.SIGTERM)
    agent.until(lambda: not refused(agent.port), "listening", DEADLINE_S)
    assert agent.ask() == b"up 100% #stopping\n"
    for pid in hung:
        tree.heal(pid, b"irb")
    agent.send(signal.SIGTERM)
    assert agent.wait_exit(DEADLINE_S) == 0


def test_a_configuration_that_hangs_at_the_start_can_be_ended(agent: TreeAgent) -> None:
    agent.config_file.unlink()
    os.mkfifo(agent.config_file)
    agent.start()
    agent.until(lambda: catches(agent.pid, signal.SIGTERM), "heeding", DEADLINE_S)
    agent.send(signal.SIGTERM)
    assert agent.wait_exit(DEADLINE_S) == 0


def test_a_restart_leaves_no_last_word_where_another_agent_can_follow(agent: TreeAgent) -> None:
    agent.write_config(CAPACITY + '[reply]\nrelease_for = "1h"\n')
    with agent:
        assert agent.ask() == b"up 75% #6/24 busy\n"
        agent.send(signal.SIGUSR1)
        assert agent.wait_exit(DEADLINE_S) == 0
    assert "100%" not in agent.log_text()


@pytest.mark.parametrize(
    ("config", "fault"),
    [
        ("weight = 3\n", "weight: found 3"),
        ("not toml", "not TOML"),
        ("[scan]\nprocfs = '/none'\n", "procfs root /none: no such file or directory"),
        ("[workers]\nusers = ['nobody-of-that-name']\n", "no such user"),
    ],
)
def test_a_restart_releases_where_no_other_agent_could_start_and_says_why(
    agent: TreeAgent, config: str, fault: str
) -> None:
    plain = [argument for argument in agent.argv() if argument not in ("--procfs", str(agent.tree))]
    agent.argv = lambda: plain  # type: ignore[method-assign]
    agent.write_config(f"{CAPACITY}[scan]\nprocfs = '{agent.tree}'\n[reply]\nrelease_for = '1h'\n")
    with agent:
        assert agent.ask() == b"up 75% #6/24 busy\n"
        agent.write_config(config)
        agent.send(signal.SIGUSR1)
        agent.until(lambda: agent.ask() == b"up 100% #stopping, and cannot start again\n", "released", DEADLINE_S)
        assert fault in agent.log_text()
        agent.send(signal.SIGTERM)
        assert agent.wait_exit(DEADLINE_S) == 0


@pytest.mark.parametrize("taken", [True, False])
def test_a_restart_without_a_successor(agent: TreeAgent, taken: bool) -> None:
    """The weight is released at every address where the next agent would not listen."""
    agent.write_config(CAPACITY + '[reply]\nrelease_for = "1h"\n')
    with agent, socket.create_server(("127.0.0.1", 0)) as other:
        listen = [f"127.0.0.1:{other.getsockname()[1]}"] if taken else [f"127.0.0.1:{free_port()}"]
        agent.config_file.write_text(f"listen = {listen}\n")
        agent.send(signal.SIGUSR1)
        why = b"stopping, and cannot start again" if taken else b"stopping here"
        agent.until(lambda: agent.ask() == b"up 100%% #%s\n" % why, "released", DEADLINE_S)
        fault = "address already in use" if taken else f"will not listen on 127.0.0.1:{agent.port}"
        assert fault in agent.log_text()
        agent.send(signal.SIGTERM)
        assert agent.wait_exit(DEADLINE_S) == 0


def test_a_restart_to_a_wider_address_leaves_no_last_word(agent: TreeAgent) -> None:
    with agent:
        agent.config_file.write_text(f'listen = ["0.0.0.0:{agent.port}"]\n')
        agent.send(signal.SIGUSR1)
        assert agent.wait_exit(DEADLINE_S) == 0
    assert "100%" not in agent.log_text()


def test_what_the_manager_could_not_take_is_told_again_until_it_can(agent: TreeAgent, notified: Notified) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as others:
        try:
            while True:
                others.sendto(b"X=1", str(notified.path))
        except BlockingIOError:
            pass  # its queue is full
    with agent:
        assert agent.ask() == b"up 75% #6/24 busy\n"
        while (told := notified.next()) == "X=1":
            pass
        assert told == "STATUS=up 75% #6/24 busy"
        assert notified.next() == "READY=1"


def test_a_manager_that_comes_late_is_told_all_the_same(agent: TreeAgent, tmp_path: Path) -> None:
    agent.environ["NOTIFY_SOCKET"] = str(tmp_path / "notify")
    with agent:
        notified = Notified(tmp_path)
        assert notified.next() == "STATUS=up 75% #6/24 busy"
        assert notified.next() == "READY=1"
        notified.close()


def test_inherited_ways_of_treating_signals_change_nothing(agent: TreeAgent) -> None:
    """As of a parent that collects no children, or that blocks what would end it."""
    plain = agent.argv()
    statements = "signal.signal(signal.SIGCHLD, signal.SIG_IGN); signal.signal(signal.SIGTERM, signal.SIG_IGN);"
    statements += "signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGUSR1})"
    program = f"import os, signal; {statements}; os.execv({plain[0]!r}, {plain!r})"
    agent.argv = lambda: [sys.executable, "-c", program]  # type: ignore[method-assign]
    with agent:
        assert agent.ask() == b"up 75% #6/24 busy\n"
        agent.send(signal.SIGTERM)
        assert agent.wait_exit(DEADLINE_S) == 0


# What systemd does for a service with a socket that it kept.
WITH_A_KEPT_SOCKET = """
import os, sys
os.dup2(int(sys.argv[1]), 3)
os.set_inheritable(3, True)
os.environ |= {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "1", "LISTEN_FDNAMES": sys.argv[2]}
os.execv(sys.argv[3], sys.argv[3:])
"""


def test_systemd_keeps_the_sockets_for_the_next_agent_and_polls_wait_there(
    agent: TreeAgent, notified: Notified
) -> None:
    with agent:
        message, kept = notified.passed()
        name = f"kept-127.0.0.1_{agent.port}"
        assert message == f"FDSTORE=1\nFDNAME={name}"
        agent.send(signal.SIGUSR1)
        assert agent.wait_exit(DEADLINE_S) == 0
    assert not any("FDSTOREREMOVE" in message for message in notified.drain())
    with kept, socket.create_connection(("127.0.0.1", agent.port), DEADLINE_S) as waiting:
        plain = agent.argv()
        kept.set_inheritable(True)
        argv = [sys.executable, "-c", WITH_A_KEPT_SOCKET, str(kept.fileno()), name, *plain]
        agent.argv = lambda: argv  # type: ignore[method-assign]
        with agent:
            assert waiting.makefile("rb").read() == b"up 75% #6/24 busy\n"
            assert not any("FDSTORE=1" in message for message in notified.drain())
            agent.config_file.write_text(f'listen = ["127.0.0.1:{(port := free_port())}"]\n' + CAPACITY)
            agent.send(signal.SIGHUP)
            notified.until(f"FDSTOREREMOVE=1\nFDNAME={name}")
            agent.port = port
            assert agent.ask() == b"up 75% #6/24 busy\n"


def test_a_kept_socket_that_is_not_wanted_any_more_is_given_back(agent: TreeAgent, notified: Notified) -> None:
    with socket.create_server(("127.0.0.1", 0)) as kept:
        name = f"kept-127.0.0.1_{kept.getsockname()[1]}"
        kept.set_inheritable(True)
        argv = [sys.executable, "-c", WITH_A_KEPT_SOCKET, str(kept.fileno()), name, *agent.argv()]
        agent.argv = lambda: argv  # type: ignore[method-assign]
        with agent:
            notified.until(f"FDSTOREREMOVE=1\nFDNAME={name}")
            assert agent.ask() == b"up 75% #6/24 busy\n"


@pytest.mark.parametrize("config", ["nonsense = 1\n", "[scan]\nprocfs = '/none'\n"])
def test_an_agent_that_cannot_start_releases_on_the_sockets_that_were_kept(agent: TreeAgent, config: str) -> None:
    """The previous agent may have crashed, and its last weight may be wrong."""
    plain = [word for word in agent.argv() if word not in ("--procfs", str(agent.tree))]
    with socket.create_server(("127.0.0.1", agent.port)) as kept:
        kept.set_inheritable(True)
        argv = [sys.executable, "-c", WITH_A_KEPT_SOCKET, str(kept.fileno()), f"kept-127.0.0.1_{agent.port}", *plain]
        agent.argv = lambda: argv  # type: ignore[method-assign]
        agent.write_config(config)
        with agent:
            assert agent.ask() == b"100%\n"
            agent.send(signal.SIGTERM)
            assert agent.wait_exit(DEADLINE_S) == (2 if "nonsense" in config else 1)
            assert "Traceback" not in agent.log_text()


def test_an_agent_that_ends_for_good_has_nothing_kept(agent: TreeAgent, notified: Notified) -> None:
    agent.write_config(CAPACITY + '[reply]\non_stop = "keep"\n')
    with agent:
        agent.send(signal.SIGTERM)
        notified.until(f"FDSTOREREMOVE=1\nFDNAME=kept-127.0.0.1_{agent.port}")
