"""The operator's commands against a real `serve`, in a tree of its own instead of /proc."""

import json
import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from agent.operate.override import WAY_OUT
from agent.operate.socket import CLIENTS_MAX
from tests.missing import missing, need
from tests.real.parts import Agent, until
from tests.tree import MortalAgent, Tree

DEADLINE_S = 10.0
SAMPLE = b"up 75% #1/4 busy\n"
RELEASE_FOR = 'release_for = "500ms"'
SHORTER = f"[reply]\n{RELEASE_FOR}\n"

NOTHING = [
    "no override was active; nothing changes",
    "if HAProxy still shows a drain or maint: busyweight drain, then busyweight ready",
]


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[Agent]:
    with serving(tmp_path) as agent:
        yield agent


def prepared(home: Path, more: str = SHORTER) -> Agent:
    """An agent that is about to watch one busy worker of four."""
    tree = Tree(home / "proc")
    tree.add(7, b"sidekiq 7.3.0 shop [3 of 10 busy]")
    return MortalAgent(home, tree, f"{more}[weight]\ncapacity = 4\n")


@contextmanager
def serving(home: Path, more: str = SHORTER) -> Iterator[Agent]:
    agent = prepared(home, more)
    with agent:
        yield agent
    assert "Traceback" not in agent.log_text(), agent.evidence()


def status(agent: Agent) -> dict[str, Any]:
    told: dict[str, Any] = json.loads(agent.order("status", "--json"))
    return told


def refused(agent: Agent, *words: str) -> tuple[int, str]:
    done = agent.run(*words, "--control", str(agent.control))
    return done.returncode, done.stderr


def kill(agent: Agent) -> None:
    agent.send(signal.SIGKILL)
    agent.wait_exit(DEADLINE_S)


def again(agent: Agent) -> None:
    agent.start()
    agent.wait_ready()


@pytest.mark.parametrize("kind", ["drain", "maint"])
def test_a_lock_is_said_until_ready_which_is_said_for_a_while_and_never_again(agent: Agent, kind: str) -> None:
    told = agent.order(kind, "--reason", "kernel update")
    assert told.startswith(f"active: {kind} by ")
    line = agent.ask().decode()
    assert line.startswith(f"{kind} up #{kind} by ")
    assert line.endswith(": kernel update\n")
    assert repr(line.rstrip()) in told

    assert f"ended: {kind} by " in agent.order("ready", "--reason", "done")
    assert agent.ask() == b"ready " + SAMPLE
    agent.wait_answer(SAMPLE)
    assert agent.order("ready").splitlines() == [*NOTHING, "replying 'up 75% #1/4 busy'"]
    assert agent.ask() == SAMPLE


def test_a_weight_is_said_until_it_is_ended_and_needs_no_ready(agent: Agent) -> None:
    agent.order("weight", "40")
    assert agent.ask().startswith(b"up 40% #weight 40% by ")
    agent.order("weight", "0%", "--reason", "none at all")
    assert agent.ask().startswith(b"up 0% #weight 0% by ")
    agent.order("ready")
    assert agent.ask() == SAMPLE


@pytest.mark.parametrize(
    ("words", "end"), [(("drain",), b"ready " + SAMPLE), (("maint",), b"ready " + SAMPLE), (("weight", "5"), SAMPLE)]
)
def test_an_override_ends_by_itself_when_its_time_is_over(agent: Agent, words: tuple[str, ...], end: bytes) -> None:
    agent.order(*words, "--for", "1s")
    assert agent.ask() != end
    agent.wait_answer(end)
    agent.wait_answer(SAMPLE)


def test_without_polls_an_override_ends_by_itself_too(agent: Agent) -> None:
    agent.order("drain", "--for", "1s")
    until(lambda: "override expired: drain by" in agent.log_text(), "the end is logged", DEADLINE_S, agent.evidence)


def test_the_last_order_is_the_one_in_force(agent: Agent) -> None:
    agent.order("drain", "--for", "30m")
    assert "ended: drain by" in agent.order("maint")
    assert agent.ask().startswith(b"maint up #")
    agent.order("weight", "40%")
    assert agent.ask().startswith(b"ready up 40% #")
    override = status(agent)["override"]
    assert (override["kind"], override["weight"], override["until"]) == ("weight", 40, None)


def test_every_pool_says_the_override(tmp_path: Path) -> None:
    with serving(tmp_path, SHORTER + "[pools.mail]\n") as agent:
        assert agent.ask(b"mail\n") == SAMPLE
        agent.order("drain")
        assert agent.ask(b"mail\n") == agent.ask(b"other\n")
        assert agent.ask(b"mail\n").startswith(b"drain up #")
        agent.order("ready")
        assert agent.ask(b"mail\n") == b"ready " + SAMPLE


def test_where_no_health_is_said_an_override_says_none_either(tmp_path: Path) -> None:
    with serving(tmp_path, f'[reply]\nhealth = "none"\n{RELEASE_FOR}\n') as agent:
        agent.order("drain", "--reason", "kernel update")
        assert agent.ask() == b"drain\n"
        assert "kernel update" in agent.order("status")
        agent.order("weight", "40")
        assert agent.ask() == b"ready 40%\r\n"
        agent.order("ready")
        agent.wait_answer(b"75%\r\n")


def test_who_when_why_and_until_when_are_in_status_and_log(agent: Agent) -> None:
    before = time.time()
    agent.order("drain", "--for", "30m", "--reason", "kernel update")
    override = status(agent)["override"]
    assert before <= override["since"] <= time.time()
    assert override["until"] == pytest.approx(override["since"] + 1800)
    assert 0 < override["left_s"] <= 1800
    assert (override["kind"], override["why"]) == ("drain", "kernel update")
    assert override["who"]
    shown = agent.order("status")
    assert f"override   drain by {override['who']}, since " in shown
    assert ": kernel update" in shown
    logged = [line for line in agent.log_text().splitlines() if "override active: drain" in line]
    assert len(logged) == 1
    assert f"drain by {override['who']} since " in logged[0]
    assert logged[0].endswith(": kernel update")


def test_root_is_named_together_with_who_used_sudo(agent: Agent, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SUDO_USER", "alice")
    agent.order("drain")
    who = status(agent)["override"]["who"]
    assert who == "alice (root)" if os.geteuid() == 0 else "alice" not in who


def test_status_shows_what_is_said_and_what_it_rests_on(agent: Agent) -> None:
    agent.ask()
    told = status(agent)
    assert (told["reply"], told["weight"], told["known"]) == (SAMPLE.decode(), 75, True)
    assert told["agent"]["pid"] == agent.pid
    assert told["agent"]["state"] == "serving"
    assert told["pools"][0]["counts"]["workers"] == 1
    assert told["sample"]["discovery"] == "sweep"
    assert told["sample"]["visible"]
    assert told["polls"]["answered"] >= 1
    assert told["polls"]["listening"] == [f"127.0.0.1:{agent.port}"]
    assert [p["address"] for p in told["polls"]["pollers"]] == ["127.0.0.1"]
    assert (told["config"]["file"], told["config"]["reload"]) == (str(agent.config_file), None)
    assert told["config"]["reloads"]["failed"] == 0
    assert told["override"] is None
    assert told["state_file"]["write_error"] is None
    shown = agent.order("status")
    assert "reply      'up 75% #1/4 busy' for " in shown
    assert "workers    1: 1 busy, 3 of 10 threads\n" in shown
    assert f"listening  127.0.0.1:{agent.port}\n" in shown
    assert "override   none\n" in shown


def test_status_keeps_the_weights_of_late(agent: Agent) -> None:
    agent.order("weight", "40")
    until(lambda: status(agent)["history"][-1][1] == 40, "the weight is in the history", DEADLINE_S)


def test_workers_are_listed_on_request(agent: Agent) -> None:
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(DEADLINE_S)
        connection.connect(str(agent.control))
        connection.sendall(b'{"command": "workers"}\n{"command": "workers", "most": 0}\n')
        with connection.makefile("rb") as lines:
            found, wrong = json.loads(next(lines)), json.loads(next(lines))
    assert found["count"] == 1
    assert found["workers"][0]["pid"] == 7
    assert found["workers"][0]["readings"] == {"": [3, 10, False]}
    assert wrong["error"] == "most: allowed: a whole number from 1 to 1000"


def test_a_reload_of_a_wrong_file_shows_in_status_and_changes_nothing(agent: Agent) -> None:
    agent.order("drain")
    right = agent.config_file.read_text()
    agent.write_config("[weight]\nfloor = 7\n")
    agent.send(signal.SIGHUP)
    until(lambda: status(agent)["config"]["reload"], "the reload has ended", DEADLINE_S)
    told = status(agent)["config"]["reload"]
    assert not told["ok"]
    allowed = 'allowed: a whole percentage from "0%" to "100%"'
    assert told["faults"] == [f"{agent.config_file}: weight.floor: found 7; {allowed}"]
    shown = agent.order("status")
    assert "RELOAD FAILED" in shown
    assert told["faults"][0] in shown
    assert agent.ask().startswith(b"drain up #")

    agent.config_file.write_text(right)
    agent.send(signal.SIGHUP)
    until(lambda: status(agent)["config"]["reload"]["ok"], "the reload went well", DEADLINE_S)
    assert agent.ask().startswith(b"drain up #")


@pytest.mark.parametrize(
    ("words", "allowed"),
    [
        (("weight", "101"), 'allowed: a whole percentage from "0%" to "100%", with or without the sign'),
        (("weight", "half"), "allowed: a whole percentage"),
        (("weight",), "PERCENT"),
        (("drain", "--for", "0s"), 'allowed: a duration from "1s" to "365d", such as "30m"'),
        (("drain", "--for", "soon"), "allowed: a duration"),
        (("drain", "--reason", "a\nb"), "allowed: one line of at most 200 printable characters"),
        (("drain", "now"), "unrecognized arguments: now"),
    ],
)
def test_a_wrong_order_exits_2_and_says_what_is_allowed(agent: Agent, words: tuple[str, ...], allowed: str) -> None:
    code, told = refused(agent, *words)
    assert code == 2
    assert allowed in told
    assert agent.ask() == SAMPLE


@pytest.mark.parametrize("words", [("status",), ("drain",), ("weight", "40"), ("ready",)])
def test_without_an_agent_a_command_exits_1_and_says_so(tmp_path: Path, words: tuple[str, ...]) -> None:
    code, told = refused(Agent(tmp_path), *words)
    assert code == 1
    assert told.startswith("busyweight: no agent at ")
    assert len(told.splitlines()) == 1


def test_a_second_agent_leaves_the_socket_alone_names_it_and_serves_without(agent: Agent, tmp_path: Path) -> None:
    second = prepared(tmp_path / "second")
    second.control = agent.control
    with second:
        assert f"in use by another agent (pid {agent.pid}); leaving it alone" in second.log_text()
        assert second.ask() == SAMPLE
    assert status(agent)["agent"]["pid"] == agent.pid


def test_clients_that_misbehave_hold_up_neither_polls_nor_operators(agent: Agent) -> None:
    with ExitStack() as stack:
        for _ in range(CLIENTS_MAX - 1):
            deaf = stack.enter_context(socket.socket(socket.AF_UNIX))
            deaf.connect(str(agent.control))
            deaf.setblocking(False)
            with pytest.raises(BlockingIOError):
                while True:
                    deaf.send(b'{"command": "status"}\n' * 100)
        assert agent.ask() == SAMPLE
        assert status(agent)["reply"] == SAMPLE.decode()


# Its end.


def test_stopping_says_the_override_instead_of_the_release_and_forgets_nothing(agent: Agent) -> None:
    agent.order("drain", "--reason", "kernel update")
    said = agent.ask()
    agent.send(signal.SIGTERM)
    until(lambda: "stopping: replying 'drain up #" in agent.log_text(), "stopping", DEADLINE_S, agent.evidence)
    assert agent.wait_exit(DEADLINE_S) == 0
    assert "100%" not in agent.log_text()
    assert not agent.control.exists()
    again(agent)
    assert agent.ask() == said


def test_stopping_takes_a_drain_back_together_with_the_release(tmp_path: Path) -> None:
    with serving(tmp_path, '[reply]\nrelease_for = "1h"\n') as agent:
        agent.order("drain")
        agent.order("ready")
        agent.send(signal.SIGTERM)
        agent.wait_answer(b"ready up 100% #stopping\n")
        assert status(agent)["agent"]["state"] == "stopping"
        agent.order("drain")
        assert agent.ask().startswith(b"drain up #")
        agent.send(signal.SIGTERM)
        assert agent.wait_exit(DEADLINE_S) == 0


def test_stopping_takes_a_drain_back_even_where_the_weight_is_kept(tmp_path: Path) -> None:
    with serving(tmp_path, f'[reply]\non_stop = "keep"\n{RELEASE_FOR}\n') as agent:
        agent.order("drain")
        agent.order("ready", "--for", "1h")
        agent.send(signal.SIGTERM)
        agent.until(lambda: status(agent)["agent"]["state"] == "stopping", "stopping", DEADLINE_S)
        assert agent.ask() == b"ready " + SAMPLE
        agent.send(signal.SIGTERM)
        assert agent.wait_exit(DEADLINE_S) == 0


def test_a_ready_that_a_stop_has_said_is_owed_no_more(tmp_path: Path) -> None:
    with serving(tmp_path, f'[reply]\non_stop = "keep"\n{RELEASE_FOR}\n') as agent:
        agent.order("drain")
        agent.order("ready")
        agent.send(signal.SIGTERM)
        assert agent.wait_exit(DEADLINE_S) == 0
        assert not (agent.home / "state" / "override.json").exists()


@pytest.mark.parametrize("words", [("drain",), ("maint", "--for", "30m"), ("weight", "40")])
def test_an_override_survives_kill_9(agent: Agent, words: tuple[str, ...]) -> None:
    agent.order(*words, "--reason", "kernel update")
    said, override = agent.ask(), status(agent)["override"]
    kill(agent)
    again(agent)
    assert agent.ask() == said
    after = status(agent)["override"]
    assert {**after, "left_s": None} == {**override, "left_s": None}
    assert after["left_s"] is None or after["left_s"] <= override["left_s"]


def test_a_ready_that_is_owed_survives_kill_9_and_is_paid_once(agent: Agent) -> None:
    agent.order("drain")
    agent.order("ready", "--for", "30m")
    assert agent.ask() == b"ready " + SAMPLE
    kill(agent)
    again(agent)
    assert agent.ask() == b"ready " + SAMPLE
    agent.wait_answer(SAMPLE)
    until(lambda: not list((agent.home / "state").iterdir()), "nothing is owed on disk", DEADLINE_S)
    kill(agent)
    again(agent)
    assert agent.ask() == SAMPLE


def test_what_ran_out_while_the_agent_was_away_is_taken_back(agent: Agent) -> None:
    agent.order("drain", "--for", "1s")
    end_s = status(agent)["override"]["until"]
    kill(agent)
    until(lambda: time.time() > end_s, "the time is over", DEADLINE_S)
    again(agent)
    assert "override expired while the agent was down: drain by" in agent.log_text()
    agent.wait_answer(b"ready " + SAMPLE)
    agent.wait_answer(SAMPLE)


# Its disk.


def test_a_damaged_state_file_is_set_aside_and_told(agent: Agent) -> None:
    agent.order("drain")
    kill(agent)
    state = agent.home / "state" / "override.json"
    state.write_bytes(state.read_bytes()[:30])
    again(agent)
    assert agent.ask() == SAMPLE
    for told in (agent.log_text(), agent.order("status")):
        assert f"{state}: not valid JSON, or truncated; set aside as " in told
        assert WAY_OUT in told


def test_a_drain_lost_with_the_state_file(agent: Agent) -> None:
    """An ordered ready takes it back, once."""
    agent.order("drain")
    kill(agent)
    (agent.home / "state" / "override.json").write_bytes(b"")
    again(agent)
    assert agent.ask() == SAMPLE, "never by itself"
    assert "sending ready to every poll for " in agent.order("ready", "--reason", "all well")
    assert agent.ask() == b"ready " + SAMPLE
    assert "ends any override from before the start: all well" in agent.log_text()
    agent.wait_answer(SAMPLE)
    assert WAY_OUT not in agent.order("status")
    assert agent.order("ready").splitlines()[:2] == NOTHING
    assert agent.ask() == SAMPLE


def test_an_impossible_state_directory(tmp_path: Path) -> None:
    """The agent warns once, and overrides work in memory."""
    agent = prepared(tmp_path)
    (agent.home / "state").write_text("in the way")
    with agent:
        assert agent.log_text().count("overrides will not survive a restart") == 1
        assert agent.log_text().count(str(agent.home / "state")) == 1
        done = agent.run("drain", "--control", str(agent.control))
        assert done.returncode == 0
        assert f"warning: {agent.home / 'state'}: file exists: the override is in memory only" in done.stderr
        assert agent.ask().startswith(b"drain up #")
        assert "overrides are in memory only" in agent.order("status")
        (agent.home / "state").unlink()
        agent.order("drain", "--reason", "once more")
        assert status(agent)["state_file"]["write_error"] is None


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of one page, as the agent's state directory."""
    directory = tmp_path / "agent" / "state"
    directory.mkdir(parents=True)
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4k", "none", directory], check=False)
    if mounted.returncode:
        missing("a disk for the test cannot be mounted: run the tests as root")
    try:
        yield directory
    finally:
        subprocess.run(["umount", directory], check=True)


def test_a_full_disk_is_told_and_overrides_work_in_memory(small_disk: Path, tmp_path: Path) -> None:
    with serving(tmp_path) as agent:
        (small_disk / "log").write_bytes(b"x" * 4096)
        done = agent.run("drain", "--control", str(agent.control))
        assert done.returncode == 0
        assert "no space left on device: the override is in memory only" in done.stderr
        assert agent.ask().startswith(b"drain up #")
        assert "no space left on device" in agent.log_text()
        assert "no space left on device" in agent.order("status")
        # What becomes possible before the agent stops is made up for.
        (small_disk / "log").unlink()
        agent.send(signal.SIGTERM)
        agent.wait_exit(DEADLINE_S)
        again(agent)
        assert agent.ask().startswith(b"drain up #")


def test_a_drain_that_a_full_disk_forgot_is_taken_back_as_ready_says(small_disk: Path, tmp_path: Path) -> None:
    with serving(tmp_path) as agent:
        (small_disk / "log").write_bytes(b"x" * 4096)
        agent.order("drain")
        kill(agent)
        again(agent)
        assert agent.order("ready").splitlines()[:2] == NOTHING
        assert agent.ask() == SAMPLE
        agent.order("drain")
        agent.order("ready")
        assert agent.ask() == b"ready " + SAMPLE


def test_a_read_only_disk_is_told_and_overrides_work_in_memory(small_disk: Path, tmp_path: Path) -> None:
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    with serving(tmp_path) as agent:
        assert agent.log_text().count("overrides will not survive a restart") == 1
        done = agent.run("maint", "--control", str(agent.control))
        assert done.returncode == 0
        assert "read-only file system: the override is in memory only" in done.stderr
        assert agent.ask().startswith(b"maint up #")
        kill(agent)
        again(agent)
        assert agent.ask() == SAMPLE
        assert WAY_OUT in agent.order("status")
        agent.order("ready")
        assert agent.ask() == b"ready " + SAMPLE
        agent.wait_answer(SAMPLE)
        agent.order("ready")
        assert agent.ask() == SAMPLE


def test_without_polls_a_waiting_override_wakes_the_agent_not_once(agent: Agent) -> None:
    strace = need("strace", "strace")
    agent.order("drain", "--for", "30m")
    until(lambda: status(agent)["scanner"]["scanning"] is False, "no scan is running", DEADLINE_S)
    trace = agent.home / "strace"
    watching = subprocess.Popen([strace, "-f", "-o", trace, "-p", str(agent.pid)], stderr=subprocess.PIPE)
    assert watching.stderr is not None
    try:
        assert b"attached" in watching.stderr.readline()
        with pytest.raises(subprocess.TimeoutExpired):
            watching.wait(2)
    finally:
        watching.terminate()
        watching.communicate()
    calls = [line for line in trace.read_text().splitlines() if "detached" not in line]
    assert [line for line in calls if "epoll" not in line and "futex" not in line] == []
    assert len(calls) <= 3, calls
