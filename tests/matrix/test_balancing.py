"""Each release's Sidekiq moves the weight in each of its HAProxys through the wheel: jobs in, shares of requests out.

In sid, experimental's HAProxy polls as well as sid's own; each change is waited for in both.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from http import HTTPStatus
from pathlib import Path

import pytest

from tests.real.parts import DEFAULTS, Agent, HAProxy, Installed, Redis, Sidekiq, free_port, get

from .trees import Haproxy, Tree

pytestmark = [pytest.mark.matrix, pytest.mark.timeout(1200)]

THREADS = 4
FOLLOW_DEADLINE_S = 5.0
HURRIED, CHECKS = 10, 1000


class Site:
    """A HAProxy with one backend of one server, which HAProxy itself plays, and the fallback for when it is full."""

    def __init__(self, home: Path, of: Haproxy, agent_port: int) -> None:
        self.web, self.public = free_port(), free_port()
        self.haproxy = HAProxy(home, self.configuration(agent_port), name=f"haproxy-{of.version}", of=of)

    def configuration(self, agent_port: int) -> str:
        return f"""{DEFAULTS}
frontend web_server
    bind 127.0.0.1:{self.web}
    http-request return status 200 content-type text/plain string served

frontend public
    bind 127.0.0.1:{self.public}
    use_backend web_all_busy if {{ nbsrv(web) eq 0 }}
    default_backend web

backend web
    balance roundrobin
    http-response set-header x-backend web
    default-server check inter 500ms weight 100 agent-check agent-inter 200ms agent-port {agent_port}
    server host 127.0.0.1:{self.web}

backend web_all_busy
    balance roundrobin
    http-response set-header x-backend web_all_busy
    server host 127.0.0.1:{self.web} weight 100 track web/host
"""

    def wait_weight(self, percent: int) -> None:
        self.haproxy.wait_weight("web", "host", percent, FOLLOW_DEADLINE_S)

    def wait_reason(self, wanted: str) -> None:
        self.haproxy.wait_server("web", "host", wanted, lambda row: wanted in row["last_agt"], FOLLOW_DEADLINE_S)

    def wait_status(self, wanted: str) -> None:
        self.haproxy.wait_server("web", "host", wanted, lambda row: wanted in row["status"], FOLLOW_DEADLINE_S)

    def served_by(self) -> str:
        """The backend that a client's request is answered by."""
        response = get(self.public)
        assert response.status == HTTPStatus.OK
        return response.headers["x-backend"]


class Stage:
    """One Sidekiq, one agent, and every HAProxy of the release."""

    def __init__(self, home: Path, debian: Tree, installed: Installed) -> None:
        self.redis = Redis(home, debian)
        self.sidekiq = Sidekiq("jobs", self.redis, threads=THREADS, debian=debian)
        self.agent = Agent(home, f'[weight]\ncount = "threads"\ncapacity = {THREADS}\n', of=installed)
        self.sites = [Site(home, of, self.agent.port) for of in debian.haproxies()]

    @contextmanager
    def playing(self) -> Iterator[None]:
        with ExitStack() as stack:
            for part in (self.redis, self.sidekiq, self.agent, *(site.haproxy for site in self.sites)):
                stack.enter_context(part)
            yield
        assert "Traceback" not in self.agent.log_text(), self.agent.evidence()

    def make(self, busy: int) -> None:
        self.sidekiq.make(busy)
        self.sidekiq.wait_title(busy)


@pytest.fixture(scope="module")
def stage(alone: None, tree: Tree, installed: Installed, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    stage = Stage(tmp_path_factory.mktemp(f"stage-{tree.release}"), tree, installed)
    with stage.playing():
        yield stage


@pytest.mark.cell("HAProxy, by real jobs", "configuration accepted without a warning")
def test_haproxy_has_nothing_to_say_about_the_configuration(stage: Stage) -> None:
    for site in stage.sites:
        said = site.haproxy.check()
        assert "WARNING" not in said.upper(), said


@pytest.mark.cell("HAProxy, by real jobs", "weight follows the jobs, down and up")
def test_weight_follows_the_jobs(stage: Stage) -> None:
    for busy, percent in ((1, 75), (3, 25), (0, 100)):
        stage.make(busy)
        for site in stage.sites:
            site.wait_weight(percent)
            site.wait_reason(f"({busy}/{THREADS} busy)")
            assert site.served_by() == "web"


@pytest.mark.cell("HAProxy, by real jobs", "full: out of the pool, the fallback answers; and back")
def test_full_host_leaves_the_pool_and_comes_back(stage: Stage) -> None:
    stage.make(THREADS)
    for site in stage.sites:
        site.wait_weight(0)
        assert site.served_by() == "web_all_busy"
    stage.make(0)
    for site in stage.sites:
        site.wait_weight(100)
        assert site.served_by() == "web"


@pytest.mark.cell("HAProxy, by real jobs", "drain, maint, weight and ready by an operator's word")
def test_operators_words_are_obeyed(stage: Stage) -> None:
    for command, status in ((("drain",), "DRAIN"), (("maint",), "MAINT"), (("ready",), "UP")):
        stage.agent.order(*command)
        for site in stage.sites:
            site.wait_status(status)
    stage.agent.order("weight", "40%")
    for site in stage.sites:
        site.wait_weight(40)
    stage.agent.order("ready")
    for site in stage.sites:
        site.wait_weight(100)


def polls(agent: Agent) -> dict[str, int]:
    """What came of the polls so far, by the agent's own count."""
    counted: dict[str, int] = json.loads(agent.order("status", "--json"))["polls"]
    return counted


def wait_answered(agent: Agent, wanted: int) -> None:
    agent.until(lambda: polls(agent)["answered"] >= wanted, f"asked {wanted} times", 60.0)


@pytest.mark.cell("HAProxy, by real jobs", "1,000 agent-checks at 20 ms, and none fails")
def test_hurried_checks_all_get_their_line(stage: Stage, tree: Tree, tmp_path: Path) -> None:
    for of in tree.haproxies():
        server = f"weight 100 agent-check agent-inter 20ms agent-port {stage.agent.port}"
        servers = f"server-template host 1-{HURRIED} 127.0.0.1:9 {server}"
        text = f"{DEFAULTS}option log-health-checks\ntimeout check 2s\nbackend web\n{servers}\n"
        before = polls(stage.agent)
        with HAProxy(tmp_path, text, name=f"hurried-{of.version}", of=of) as hurried:
            wait_answered(stage.agent, before["answered"] + CHECKS)
            rows = hurried.servers("web").values()
            # HAProxy puts "* " before the status while the next check is under way.
            seen = {(row["weight"], row["agent_status"].removeprefix("* ")) for row in rows}
            assert seen == {("100", "L7OK")}, of.version
            assert "failed" not in hurried.log_text(), hurried.evidence()
        after = polls(stage.agent)
        lost = {name for name in ("evicted", "refused") if after[name] != before[name]}
        assert not lost, (of.version, before, after)


@pytest.mark.cell("HAProxy, by real jobs", "killed agent: the last weight stays, nobody goes down; back at once")
def test_killed_agent_takes_nobody_down(stage: Stage) -> None:
    stage.agent.order("weight", "40%")
    for site in stage.sites:
        site.wait_weight(40)
    assert stage.agent.process is not None
    stage.agent.process.kill()
    stage.agent.wait_exit(5.0)
    for site in stage.sites:
        site.haproxy.wait_server(
            "web", "host", "unheard", lambda row: row["agent_status"].endswith("L4CON"), FOLLOW_DEADLINE_S
        )
        assert site.haproxy.server("web", "host")["status"] == "UP"
        assert site.haproxy.weight("web", "host") == 40
        assert site.served_by() == "web"
    stage.agent.start()
    stage.agent.wait_ready()
    stage.agent.order("ready")
    for site in stage.sites:
        site.wait_weight(100)
