"""Real Prometheus, HAProxy and agent: the alerts on HAProxy's side fire when HAProxy does not follow the agent."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.real.prometheus import FIRES_WITHIN_S, Prometheus
from tests.tools.balancer import Balancer, version
from tests.tree import Tree, TreeAgent

from .parts import free_port

NOT_FOLLOWED, NOT_HEARD = "BusyweightWeightNotFollowed", "BusyweightNotHeard"

JOBS = """
  - job_name: busyweight
    static_configs: [{{targets: ["127.0.0.1:{agent}"], labels: {{server: web1}}}}]
  - job_name: haproxy
    static_configs: [{{targets: ["127.0.0.1:{balancer}"]}}]
"""

BALANCER = """
defaults
 mode http
 timeout connect 1s
 timeout client 5s
 timeout server 5s
frontend metrics
 bind 127.0.0.1:{metrics}
 http-request use-service prometheus-exporter
frontend www
 bind 127.0.0.1:{web}
 default_backend web
backend web
 server web1 127.0.0.1:9 weight 100 agent-check agent-port {agent} agent-inter 300ms
"""


class Watch(Prometheus):
    """Scrapes the agent and the balancer, and says which alerts fire."""

    def __init__(self, home: Path, agent: int, balancer: int) -> None:
        super().__init__(home, "")
        head = self.config.read_text().partition("scrape_configs:\n")
        self.config.write_text(head[0] + head[1] + JOBS.format(agent=agent, balancer=balancer))

    def wait(self, firing: set[str], quiet: set[str] = frozenset()) -> None:  # type: ignore[assignment]
        def look() -> bool:
            now = self.firing()
            return firing <= now and not quiet & now

        self.until(look, f"firing {firing}, not {quiet}", FIRES_WITHIN_S)


@pytest.fixture
def tree(tree: Tree) -> Tree:
    tree.workers(busy=6, idle=18)
    return tree


@pytest.fixture
def site(tmp_path: Path, tree: Tree) -> Iterator[tuple[TreeAgent, Balancer, Watch]]:
    shown, metrics = free_port(), free_port()
    config = f'[weight]\ncapacity = 24\n[metrics]\nlisten = "127.0.0.1:{shown}"\n'
    agent = TreeAgent(tmp_path, tree, config)
    balancer = Balancer(tmp_path, BALANCER.format(metrics=metrics, web=free_port(), agent=agent.port))
    with agent, balancer.running(), Watch(tmp_path, shown, metrics) as watch:
        yield agent, balancer, watch


def test_a_balancer_that_does_not_follow_the_agent_is_told_until_it_does(
    site: tuple[TreeAgent, Balancer, Watch],
) -> None:
    _, balancer, watch = site
    watch.until(lambda: balancer.stat("web", "web1")["weight"] == "75", "followed", FIRES_WITHIN_S)
    watch.wait(set(), quiet={NOT_FOLLOWED, NOT_HEARD})
    balancer.ask("disable agent web/web1; set weight web/web1 100%")
    watch.wait({NOT_FOLLOWED}, quiet={NOT_HEARD})
    balancer.ask("enable agent web/web1")
    watch.wait(set(), quiet={NOT_FOLLOWED})


@pytest.mark.skipif(version() < (3, 2), reason="this HAProxy does not show the agent's status to Prometheus")
def test_an_agent_that_does_not_answer_is_told_by_haproxy(site: tuple[TreeAgent, Balancer, Watch]) -> None:
    agent, _, watch = site
    watch.wait(set(), quiet={NOT_HEARD})
    agent.stop()
    watch.wait({NOT_HEARD})
    agent.start()
    watch.wait(set(), quiet={NOT_HEARD})
