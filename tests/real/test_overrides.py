"""The operator's overrides reach every server of a real HAProxy that polls one agent, and are ended on every one of
them, whatever happens to the agent meanwhile."""

import json
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from .parts import DEFAULTS, HAProxy, Mortal, free_port, until

BACKENDS = ("web", "api", "mail")
DEADLINE_S = 10.0
POLLS = 5  # so many more of every server are time enough for a wrong word to show


class Stage:
    """One agent without workers, and three backends that poll it, with one server each."""

    def __init__(self, home: Path, health: str) -> None:
        (home / "procfs" / "1").mkdir(parents=True)
        (home / "procfs" / "1" / "comm").write_text("init\n")
        scan = f'[scan]\nprocfs = "{home / "procfs"}"\ndiscovery = "sweep"\n[weight]\ncapacity = 4\n'
        self.agent = Mortal(home, f'{scan}[reply]\nhealth = "{health}"\nrelease_for = "1s"\n')
        web = free_port()
        backends = "".join(
            f"backend {name}\n    default-server weight 100 agent-check agent-inter 100ms\n"
            f"    server host 127.0.0.1:{web} agent-port {self.agent.port}\n"
            for name in BACKENDS
        )
        front = f"frontend server\n    bind 127.0.0.1:{web}\n    http-request return status 200\n"
        self.haproxy = HAProxy(home, DEFAULTS + front + backends)

    def wait_all(self, what: str, condition: Callable[[dict[str, str]], bool]) -> None:
        for name in BACKENDS:
            self.haproxy.wait_server(name, "host", what, condition, DEADLINE_S)

    def wait_status(self, status: str) -> None:
        self.wait_all(f"being {status}", lambda row: row["status"].startswith(status))

    def statuses(self) -> list[str]:
        return [self.haproxy.server(name, "host")["status"].removesuffix(" (agent)") for name in BACKENDS]

    def wait_polls(self) -> None:
        """Until every server has asked some more times."""
        polls = len(BACKENDS) * POLLS
        wanted = self.answered() + polls
        until(lambda: self.answered() >= wanted, f"{polls} more polls", DEADLINE_S, self.agent.evidence)

    def answered(self) -> int:
        answered: int = json.loads(self.agent.order("status", "--json"))["polls"]["answered"]
        return answered

    def wait_ready_is_over(self) -> None:
        until(lambda: not self.agent.ask().startswith(b"ready"), "ready is over", DEADLINE_S, self.agent.evidence)

    def kill(self) -> None:
        self.agent.send(signal.SIGKILL)
        self.agent.wait_exit(DEADLINE_S)

    def start(self) -> None:
        self.agent.start()
        self.agent.wait_ready()


@pytest.fixture(params=["up", "none"])
def stage(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Stage]:
    stage = Stage(tmp_path, request.param)
    with stage.agent, stage.haproxy:
        stage.wait_all("up at full weight", lambda row: row["weight"] == "100" and "agent" not in row["status"])
        yield stage
    assert "Traceback" not in stage.agent.log_text()


@pytest.mark.parametrize(("kind", "status"), [("drain", "DRAIN"), ("maint", "MAINT")])
def test_all_servers_follow_an_order_and_all_come_back(stage: Stage, kind: str, status: str) -> None:
    stage.agent.order(kind, "--reason", "kernel update")
    stage.wait_status(status)
    stage.agent.order("ready")
    stage.wait_status("no check")


def test_all_servers_come_back_when_the_time_is_over(stage: Stage) -> None:
    stage.agent.order("drain", "--for", "2s")
    stage.wait_status("DRAIN")
    stage.wait_status("no check")


def test_all_servers_follow_a_weight_and_all_come_back(stage: Stage) -> None:
    stage.agent.order("weight", "40")
    stage.wait_all("at 40", lambda row: row["weight"] == "40")
    stage.agent.order("ready")
    stage.wait_all("at 100", lambda row: row["weight"] == "100")


def test_a_weight_after_a_drain_ends_the_drain_on_all_servers(stage: Stage) -> None:
    stage.agent.order("drain")
    stage.wait_status("DRAIN")
    stage.agent.order("weight", "40")
    stage.wait_all("back at 40", lambda row: row["weight"] == "40" and row["status"] == "no check")


def test_what_an_operator_sets_in_haproxy_itself_stays(stage: Stage) -> None:
    stage.agent.order("drain")
    stage.wait_status("DRAIN")
    stage.agent.order("ready")
    stage.wait_status("no check")
    stage.wait_ready_is_over()
    stage.haproxy.change("set server api/host state maint")
    stage.agent.order("weight", "40")
    stage.agent.order("ready")
    stage.wait_polls()
    assert stage.statuses() == ["no check", "MAINT", "no check"]


def test_a_drain_is_logged_by_haproxy_once_however_often_it_is_said(stage: Stage) -> None:
    stage.agent.order("drain", "--reason", "kernel update")
    stage.wait_status("DRAIN")
    logged = len(stage.haproxy.log_text().splitlines())
    stage.wait_polls()
    assert len(stage.haproxy.log_text().splitlines()) == logged


def test_haproxys_page_shows_who_drained_and_why(tmp_path: Path) -> None:
    stage = Stage(tmp_path, "up")
    with stage.agent, stage.haproxy:
        stage.agent.order("drain", "--for", "30m", "--reason", "kernel update")
        stage.wait_all(
            "telling who and why",
            lambda row: "drain by " in row["last_agt"] and row["last_agt"].endswith(": kernel update)"),
        )


def test_a_killed_agent_that_comes_back_still_drains(stage: Stage) -> None:
    stage.agent.order("drain")
    stage.wait_status("DRAIN")
    stage.kill()
    stage.start()
    stage.wait_polls()
    assert stage.statuses() == ["DRAIN"] * 3
    stage.agent.order("ready")
    stage.wait_status("no check")


def test_a_ready_interrupted_by_a_kill(stage: Stage) -> None:
    """A ready that no server got before the kill reaches all of them after the restart."""
    stage.agent.order("drain")
    stage.wait_status("DRAIN")
    stage.haproxy.send(signal.SIGSTOP)
    try:
        stage.agent.order("ready")
        stage.kill()
    finally:
        stage.haproxy.send(signal.SIGCONT)
    assert stage.statuses() == ["DRAIN"] * 3
    stage.start()
    stage.wait_status("no check")


def test_a_drain_whose_time_ran_out_while_the_agent_was_dead_is_taken_back(stage: Stage) -> None:
    stage.agent.order("drain", "--for", "2s")
    end_s = time.time() + 2
    stage.wait_status("DRAIN")
    stage.kill()
    until(lambda: time.time() > end_s, "the time is over", DEADLINE_S)
    stage.start()
    stage.wait_status("no check")


def test_a_drain_outlasts_a_stop(stage: Stage) -> None:
    stage.agent.order("drain")
    stage.wait_status("DRAIN")
    stage.agent.send(signal.SIGTERM)
    assert stage.agent.wait_exit(DEADLINE_S) == 0
    assert stage.statuses() == ["DRAIN"] * 3
