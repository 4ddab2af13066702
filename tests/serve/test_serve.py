"""`busyweight serve` as operators run it, in trees: replies, signals, errors, idleness."""

import os
import signal
import socket
from pathlib import Path

import pytest

from agent.serve.startup import FIRST_SAMPLE_S
from tests.farm import sidekiq_title
from tests.real.original import answer
from tests.real.parts import free_port, until
from tests.tree import Tree, TreeAgent

from .running import AT_ONCE, CAPACITY, DEADLINE_S, EAGER, Notified, begins_with, log_lines, refused, thread_names


@pytest.mark.parametrize("health", ["none", "up"])
def test_the_answer_is_the_formula_byte_for_byte_for_every_busy_count(tmp_path: Path, tree: Tree, health: str) -> None:
    pids = tree.workers(busy=0, idle=30)
    config = f'{EAGER}{CAPACITY}[reply]\non_stop = "keep"\nhealth = "{health}"\n'
    with TreeAgent(tmp_path, tree, config) as agent:
        for busy in range(31):
            if busy:
                tree.retitle(pids[busy - 1], sidekiq_title(1 + busy % 10))
            share = answer(busy, 24)
            expected = share if health == "none" else b"up %s #%d/24 busy\n" % (share.strip(), busy)
            assert agent.ask() == expected


def test_a_change_is_seen_and_so_is_a_worker_that_comes_or_goes(tree: Tree, agent: TreeAgent) -> None:
    agent.write_config(CAPACITY + AT_ONCE + EAGER)
    with agent:
        assert agent.ask() == b"up 75% #6/24 busy\n"
        tree.add(900, sidekiq_title(1))
        assert agent.ask() == b"up 71% #7/24 busy\n"
        tree.remove(100, 101)
        agent.wait_answer(b"up 79% #5/24 busy\n")


@pytest.mark.parametrize(
    ("unknown", "health", "expected"),
    [
        ("hold", "up", b"up #cannot see processes\n"),
        ("hold", "none", b"\n"),
        ("50%", "up", b"up 50% #cannot see processes\n"),
        ("50%", "none", b"50%\r\n"),
    ],
)
def test_a_hidden_proc_is_unknown_and_never_idle(
    tree: Tree, agent: TreeAgent, unknown: str, health: str, expected: bytes
) -> None:
    agent.write_config(
        f'{EAGER}[weight]\ncapacity = 24\nunknown = "{unknown}"\n[reply]\nhealth = "{health}"\non_stop = "keep"\n'
    )
    tree.hide()
    with agent:
        assert agent.ask() == expected
        tree.show()
        assert agent.ask() in (b"up 75% #6/24 busy\n", b"75%\r\n")
        tree.hide()
        assert agent.ask() == expected


def test_a_hanging_scan(tree: Tree, agent: TreeAgent) -> None:
    """Polls are answered meanwhile, and in the end the sample expires."""
    agent.write_config(f'{EAGER}give_up_after = "2s"\n{CAPACITY}{AT_ONCE}'.replace("900ms", "50ms"))
    with agent:
        assert agent.ask() == b"up 75% #6/24 busy\n"
        hung = tree.hang_scans()
        agent.wait_answer(b"up #no sample of late\n", DEADLINE_S)
        for pid in hung:
            tree.heal(pid, b"irb")
        agent.wait_answer(b"up 75% #6/24 busy\n", DEADLINE_S)


def test_workers_whose_first_reading_hangs_make_unknown_whether_the_host_is_full(tree: Tree, agent: TreeAgent) -> None:
    agent.write_config(f"{EAGER}{AT_ONCE}[weight]\ncapacity = 8\n")
    hung = [tree.add_hanging(200)]
    with agent:
        agent.wait_answer(b"up 25% #6/8 busy\n", DEADLINE_S)
        hung.append(tree.add_hanging(201))
        agent.wait_answer(b"up #cannot read 2 workers\n", DEADLINE_S)
        agent.write_config(f'{EAGER}{AT_ONCE}[weight]\ncapacity = 8\n[workers]\ncomm = ["ruby", "x"]\n')
        agent.send(signal.SIGHUP)
        agent.until(lambda: "reloaded the configuration" in agent.log_text(), "reloaded", DEADLINE_S)
        agent.wait_answer(b"up #cannot read 2 workers\n", DEADLINE_S)
        for pid in hung:
            tree.heal(pid, sidekiq_title(1))
        agent.wait_answer(b"up 0% #8/8 busy\n", DEADLINE_S)


def test_pools_are_chosen_by_the_line_that_haproxy_sends(tree: Tree, agent: TreeAgent) -> None:
    tree.add(800, b"rq:worker:a: Processing f from q since 1", comm="rq:worker:a")
    agent.write_config(f'{EAGER}{CAPACITY}{AT_ONCE}[pools.mail]\npreset = "rq"\ncapacity = 2\n')
    with agent:
        assert agent.ask(b"mail\n") == b"up 50% #1/2 busy\n"
        assert agent.ask(b"\n") == agent.ask(b"other\n") == b"up 75% #6/24 busy\n"


def test_a_host_that_is_free_again_is_trusted_slowly_where_so_configured(tree: Tree, agent: TreeAgent) -> None:
    agent.write_config(f'{EAGER}[weight]\ncapacity = 24\nrise = "0.001%/s"\n{AT_ONCE}')
    with agent:
        assert agent.ask() == b"up 75% #6/24 busy\n"
        tree.retitle(100, sidekiq_title(0))
        assert agent.ask() == b"up 75% #5/24 busy, rising\n"
        tree.retitle(101, sidekiq_title(0))
        tree.workers(busy=20, first=500)
        assert agent.ask() == b"up 0% #24/24 busy\n"


# Its life.


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_cleanly(agent: TreeAgent, number: signal.Signals) -> None:
    with agent:
        agent.send(number)
        assert agent.wait_exit(DEADLINE_S) == 0
        assert log_lines(agent)[-1] == "info: stopped"
        assert refused(agent.port)


def test_stopping(agent: TreeAgent) -> None:
    """A stopping agent releases the weight, and a second signal ends it at once."""
    agent.write_config(CAPACITY + '[reply]\nrelease_for = "1h"\n[pools.mail]\n')
    with agent:
        assert agent.ask(b"\n") == b"up 75% #6/24 busy\n"
        agent.send(signal.SIGTERM)
        agent.until(lambda: agent.ask(b"\n") == b"up 100% #stopping\n", "released", DEADLINE_S)
        assert agent.ask(b"mail\n") == b"up 100% #stopping\n"
        agent.send(signal.SIGTERM)
        assert agent.wait_exit(DEADLINE_S) == 0


def test_a_release_lasts_though_a_scan_ends_meanwhile(tree: Tree, agent: TreeAgent) -> None:
    agent.write_config(f'{EAGER}{CAPACITY}[reply]\nrelease_for = "1h"\n'.replace("900ms", "50ms"))
    with agent:
        hung = tree.hang_scans()
        assert agent.ask() == b"up 75% #6/24 busy\n", "the scan hangs"
        agent.send(signal.SIGTERM)
        agent.until(lambda: agent.ask() == b"up 100% #stopping\n", "released", DEADLINE_S)
        for pid in hung:
            tree.heal(pid, sidekiq_title(1))
        agent.until(lambda: thread_names(agent.pid).count("reader") == 1, "done with the scan", DEADLINE_S)
        assert agent.ask() == b"up 100% #stopping\n"


def test_a_release_ends_by_itself(agent: TreeAgent) -> None:
    agent.write_config('[reply]\nrelease_for = "100ms"\n')
    with agent:
        agent.send(signal.SIGTERM)
        assert agent.wait_exit(DEADLINE_S) == 0
        assert "info: stopping: replying 'up 100% #stopping\\n' for 100ms" in log_lines(agent)


def test_ready_means_ready(agent: TreeAgent, notified: Notified) -> None:
    """READY=1 comes after the first scan, with the port open and a sample available."""
    agent.start()
    assert notified.next() == "STATUS=up 75% #6/24 busy"
    assert notified.next() == "READY=1"
    assert agent.ask() == b"up 75% #6/24 busy\n"
    agent.send(signal.SIGTERM)
    assert notified.next().splitlines()[0] == "STOPPING=1"


def test_nothing_is_ready_before_the_first_scan(tree: Tree, agent: TreeAgent, notified: Notified) -> None:
    """No port is open and READY=1 is not sent until then, whatever signals come."""
    hung = tree.hang_scans()
    agent.start()
    agent.until(lambda: thread_names(agent.pid).count("reader") == len(hung), "scanning", DEADLINE_S)
    agent.send(signal.SIGHUP)
    assert refused(agent.port)
    for pid in hung:
        tree.heal(pid, b"irb")
    assert notified.next() == "STATUS=up 75% #6/24 busy"
    assert notified.next() == "READY=1"
    assert notified.next().startswith("RELOADING=1\nMONOTONIC_USEC=")
    assert notified.next() == "READY=1"
    assert agent.ask() == b"up 75% #6/24 busy\n"


def test_a_first_scan_that_hangs_can_be_ended(tree: Tree, agent: TreeAgent) -> None:
    hung = tree.hang_scans()
    agent.start()
    agent.until(lambda: thread_names(agent.pid).count("reader") == len(hung), "scanning", DEADLINE_S)
    agent.send(signal.SIGTERM)
    assert agent.wait_exit(DEADLINE_S) == 0
    for pid in hung:
        tree.heal(pid, b"irb")


def test_a_hanging_first_scan(tree: Tree, agent: TreeAgent) -> None:
    """The agent waits for it no longer than systemd waits for the start."""
    # How long that is, and that it is less than systemd waits, the tests of the units say.
    begins_with(agent, "from agent.serve import daemon; daemon.FIRST_SAMPLE_S /= 10")
    hung = tree.hang_scans()
    agent.start()
    agent.until(lambda: not refused(agent.port), "listening", 2 * FIRST_SAMPLE_S)
    assert agent.ask() == b"up #no sample yet\n"
    for pid in hung:
        tree.heal(pid, b"irb")
    agent.wait_answer(b"up 75% #6/24 busy\n", DEADLINE_S)


# What it says, and what it does not do.


def test_replies_that_no_longer_follow_samples(tmp_path: Path, tree: Tree) -> None:
    """The watchdog ends an agent whose replies are not based on its newest sample."""
    tree.workers(busy=6)
    notified = Notified(tmp_path)
    broken = tmp_path / "broken"
    agent = TreeAgent(tmp_path, tree, CAPACITY + AT_ONCE)
    agent.environ |= {"NOTIFY_SOCKET": str(notified.path), "WATCHDOG_USEC": "100000"}
    begins_with(
        agent,
        f"""
import pathlib
from agent.weight.pools import ReplyBuilder
speak = ReplyBuilder.build
def speak_or_fail(*args, **kwargs):
    if pathlib.Path({str(broken)!r}).exists():
        raise IndexError("broken")
    return speak(*args, **kwargs)
ReplyBuilder.build = speak_or_fail
""",
    )
    with agent:
        notified.until("WATCHDOG=1")
        broken.touch()
        tree.workers(busy=6, first=200)

        def complaints() -> int:
            return agent.log_text().count("no reply was built from it")

        agent.until(lambda: agent.ask() and complaints() > 0, "seen", DEADLINE_S)
        notified.drain()
        seen = complaints()
        agent.until(lambda: complaints() > seen + 2, "seen again", DEADLINE_S)
        assert "WATCHDOG=1" not in notified.drain()
        broken.unlink()
        agent.wait_answer(b"up 50% #12/24 busy\n", DEADLINE_S)
    notified.close()


def test_it_logs_what_it_begins_with_and_then_changes_only(tree: Tree, agent: TreeAgent) -> None:
    agent.write_config(CAPACITY + AT_ONCE + EAGER)
    with agent:
        for _ in range(50):
            agent.ask()
        tree.retitle(105, sidekiq_title(0))
        for _ in range(50):
            agent.ask()
        tree.hide()
        for _ in range(50):
            agent.ask()
        tree.show()
        assert agent.ask() == b"up 79% #5/24 busy\n"
    # What else it says at the start is the machine's.
    told = [line for line in log_lines(agent) if "default pool" in line or line == "info: stopped"]
    assert told == [
        "info: default pool: capacity 24, counting processes",
        "info: default pool: free; replying 'up 75% #6/24 busy\\n'",
        "warning: default pool: unknown: cannot see processes; replying 'up #cannot see processes\\n'",
        "info: default pool: free; replying 'up 79% #5/24 busy\\n'",
        "info: stopped",
    ]


def test_it_says_which_cores_it_counts_and_only_where_it_does(agent: TreeAgent) -> None:
    agent.write_config(AT_ONCE + "[pools.mail]\ncapacity = 3\n[pools.shop]\ncount = 'threads'\ncapacity = 'slots'\n")
    with agent:
        told = [line for line in log_lines(agent) if "capacity" in line]
    assert told[0].endswith("counting processes") and "logical" in told[0]
    assert told[1:] == [
        "info: pool mail: capacity 3, counting processes",
        "info: pool shop: capacity the sum of all threads, counting threads",
    ]


def counters(pid: int) -> dict[str, int]:
    """What a process has done so far, and what it has: switches, CPU ticks, memory, threads, files."""
    status = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    stat = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    switches = sum(
        int(line.split()[1])
        for task in Path(f"/proc/{pid}/task").iterdir()
        for line in (task / "status").read_text().splitlines()
        if line.startswith("voluntary_ctxt_switches")
    )
    return {
        "switches": switches,
        "ticks": int(stat[11]) + int(stat[12]),
        "rss_kib": int(status["VmRSS"].split()[0]),
        "threads": int(status["Threads"]),
        "files": len(os.listdir(f"/proc/{pid}/fd")),  # noqa: PTH208 - names are all that is wanted
    }


def test_an_agent_that_nobody_polls_does_nothing_at_all(agent: TreeAgent) -> None:
    with agent:
        agent.ask()
        quiet: list[int] = []

        def asleep() -> bool:
            quiet.append(counters(agent.pid)["switches"])
            # Three seconds of looks that all see the same.
            return len(quiet) > 150 and len(set(quiet[-150:])) == 1

        agent.until(asleep, "asleep", 30.0)


def test_many_polls_leave_memory_files_and_threads_where_they_were(agent: TreeAgent) -> None:
    agent.write_config(CAPACITY + AT_ONCE)
    with agent:
        poll_many(agent.port, 5_000)
        before = counters(agent.pid)
        poll_many(agent.port, 100_000)
        after = counters(agent.pid)
    assert (after["files"], after["threads"]) == (before["files"], before["threads"])
    assert after["rss_kib"] - before["rss_kib"] < 512


def poll_many(port: int, count: int, at_once: int = 50) -> None:
    """So many whole polls, some of them side by side."""
    for _ in range(count // at_once):
        polls = [socket.create_connection(("127.0.0.1", port)) for _ in range(at_once)]
        for poll in polls:
            assert poll.recv(64).startswith(b"up ")
            poll.close()


# What can be wrong before it begins.


def fails(agent: TreeAgent, *more: str) -> tuple[int, str]:
    """Exit code, and what it said: one line, no time stamp."""
    process = agent.spawn(*more)
    code = process.wait(DEADLINE_S)
    lines = [line for line in agent.log_text().splitlines() if not line[:1].isdigit()]
    assert len(lines) == 1, agent.log_text()
    return code, lines[0]


def test_a_port_that_is_taken_is_one_line_and_exit_code_1(agent: TreeAgent) -> None:
    with socket.create_server(("127.0.0.1", agent.port)):
        assert fails(agent) == (
            1,
            f"busyweight: cannot listen on 127.0.0.1:{agent.port}: address already in use; "
            f"to see what uses it: ss -ltnp 'sport = :{agent.port}'",
        )


@pytest.mark.root("another user is played")
def test_a_port_that_is_not_permitted_is_one_line_with_the_remedy(agent: TreeAgent) -> None:
    agent.config_file.write_text('listen = ["127.0.0.1:81"]\n')
    limited = ["setpriv", "--bounding-set=-net_bind_service", *agent.argv()]
    agent.argv = lambda: limited  # type: ignore[method-assign]
    code, line = fails(agent)
    assert code == 1
    assert "CAP_NET_BIND_SERVICE" in line


def test_a_procfs_root_that_is_not_there_is_one_line_and_exit_code_1(agent: TreeAgent) -> None:
    assert fails(agent, "--procfs", "/none") == (1, "busyweight: procfs root /none: no such file or directory")


def test_options_outrank_the_configuration_file(agent: TreeAgent) -> None:
    former, agent.port = agent.port, free_port()
    agent.process = agent.spawn("--listen", f"127.0.0.1:{agent.port}")
    agent.wait_ready()
    assert refused(former)
    until(lambda: agent.ask() == b"up 75% #6/24 busy\n", "answering there", DEADLINE_S)
