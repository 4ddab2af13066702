"""A real Prometheus reads a real agent: its alerts fire and end, and the dashboard's questions have answers."""

import json
import re
import subprocess
from collections.abc import Iterator, Set
from pathlib import Path

import pytest

from agent._scan import HUNG_READERS_MAX
from tests.missing import need
from tests.real.prometheus import ALERTS, FIRES_WITHIN_S, Prometheus
from tests.tree import Tree, TreeAgent

from .parts import free_port

HERE = Path(__file__).parent.parent.parent
DASHBOARD = HERE / "metrics/dashboard.json"


class Site:
    """An agent with 6 of 24 busy, polled whenever somebody looks if he polls, and the Prometheus that reads it."""

    def __init__(self, home: Path) -> None:
        self.tree = Tree(home / "proc")
        self.tree.workers(busy=6, idle=18)
        port = free_port()
        base = '[weight]\ncapacity = 24\n[reply]\non_stop = "keep"\n[scan]\ngive_up_after = "2s"\n'
        self.agent = TreeAgent(home, self.tree, f'{base}[metrics]\nlisten = "127.0.0.1:{port}"\n')
        self.prometheus = Prometheus(home, f"127.0.0.1:{port}")

    def wait(
        self,
        firing: Set[str],
        quiet: Set[str] = frozenset(),
        *,
        polls: bool = True,
    ) -> None:
        def look() -> bool:
            if polls and self.agent.running:
                self.agent.ask()
            now = self.prometheus.firing()
            return firing <= now and not quiet & now

        self.prometheus.until(look, f"firing {firing}, not {quiet}", FIRES_WITHIN_S)


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    site = Site(tmp_path)
    with site.agent, site.prometheus:
        yield site


def test_alerts_fire_when_it_is_so_and_end_when_it_is_over(site: Site) -> None:
    hidden = {"BusyweightHidden", "BusyweightUnknown"}
    site.tree.hide()
    site.wait(hidden)
    site.tree.show()
    site.wait(set(), quiet=hidden)
    site.agent.order("drain")
    site.wait({"BusyweightOverrideForgotten"})
    site.agent.order("ready")
    site.agent.stop()
    site.wait({"BusyweightGone"}, quiet={"BusyweightOverrideForgotten"})


def test_alerts_for_hanging_workers(site: Site) -> None:
    """One hanging worker is quarantined; so many that no scan ends make the sample stale."""
    quarantined, stale = {"BusyweightQuarantined"}, {"BusyweightStale"}
    pids = [site.tree.add_hanging(200)]
    site.wait(quarantined, quiet=stale)
    pids += [site.tree.add_hanging(201 + i) for i in range(HUNG_READERS_MAX)]
    site.wait(stale)
    for pid in pids:
        site.tree.heal(pid, b"irb")
    site.wait(set(), quiet=quarantined | stale)


def test_an_agent_that_nobody_polls_is_told_until_somebody_does(site: Site) -> None:
    nobody = {"BusyweightNoPolls"}
    site.wait(nobody, quiet={"BusyweightStale"}, polls=False)
    site.wait(set(), quiet=nobody)


def expressions() -> list[str]:
    dashboard = json.loads(DASHBOARD.read_text())
    found = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    found += [annotation["expr"] for annotation in dashboard["annotations"]["list"]]
    words = {"$job": "busyweight", "$instance": ".*", "$__rate_interval": "1m"}
    return [re.sub(r"\$\w+", lambda word: words[word[0]], expression) for expression in found]


def test_every_question_of_the_dashboard_has_an_answer(site: Site) -> None:
    # What is only there in write_error.
    quiet = {expression for expression in expressions() if re.search(r" > \d+$", expression)}
    assert len(expressions()) > len(quiet) + 10
    for expression in expressions():

        def answered(expression: str = expression) -> bool:
            site.agent.ask()
            result = site.prometheus.api("query", query=expression)["result"]
            return expression in quiet or bool(result)

        site.prometheus.until(answered, f"answering {expression}", FIRES_WITHIN_S)


def test_metrics_named_by_alerts_and_dashboard_are_documented() -> None:
    documented = set(re.findall(r"^\| `(\w+)`", (HERE / "docs/metrics.md").read_text(), re.MULTILINE))
    used = set(re.findall(r"\bbusyweight_\w+", ALERTS.read_text() + DASHBOARD.read_text()))
    assert {re.sub("_(sum|count)$", "", name) for name in used} <= documented


@pytest.mark.parametrize("words", [("check", "rules", str(ALERTS)), ("test", "rules", "tests/alerts_test.yml")])
def test_promtool_passes_the_alert_rules(words: tuple[str, ...]) -> None:
    argv = [need("promtool", "prometheus"), *words]
    done = subprocess.run(argv, cwd=HERE, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_unit_tests_of_the_rules_name_every_alert() -> None:
    tested = set(re.findall(r"alertname: (\w+)", (HERE / "tests/alerts_test.yml").read_text()))
    assert tested == set(re.findall(r"alert: (\w+)", ALERTS.read_text()))
