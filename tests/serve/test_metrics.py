"""The metrics: every number matches the state that the agent was given, and nothing is served when they are off."""

import http.client
import json
import os
import platform
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from agent.serve.metrics import SCRAPES_MAX
from tests.farm import sidekiq_title
from tests.missing import need
from tests.real.parts import free_port, until
from tests.serve.running import begins_with
from tests.tree import Agents, Tree, TreeAgent

HERE = Path(__file__).parents[2]
DEADLINE_S = 10.0
EAGER = '[scan]\nfresh_for = "0ms"\nmin_gap = "0ms"\nmax_duty = "100%"\nwait_at_most = "900ms"\n'
BASE = f'{EAGER}[weight]\ncapacity = 24\n[reply]\non_stop = "keep"\n'
MAIL = '[pools.mail]\ncount = "threads"\ncapacity = "slots"\n'


class Measured(TreeAgent):
    """An agent in a tree with metrics on a port."""

    def __init__(self, home: Path, tree: Tree, config: str = BASE) -> None:
        super().__init__(home, tree)
        self.metrics_port = free_port()
        self.base = config
        self.measure(f"127.0.0.1:{self.metrics_port}")

    def measure(self, listen: str, more: str = "") -> None:
        """Takes effect with the next start, or with SIGHUP."""
        self.write_config(f'{self.base}[metrics]\nlisten = "{listen}"\n{more}')

    def get(self, path: str = "/metrics", host: str = "127.0.0.1", port: int = 0) -> tuple[int, str]:
        connection = http.client.HTTPConnection(host, port or self.metrics_port, timeout=DEADLINE_S)
        try:
            connection.request("GET", path)
            response = connection.getresponse()
            return response.status, response.read().decode()
        finally:
            connection.close()

    def scrape(self) -> dict[str, float]:
        """Samples as `name{label="value"}`, labels by name, empty ones left out."""
        status, text = self.get()
        assert status == http.client.OK
        found = {}
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                labels = ",".join(f'{k}="{v}"' for k, v in sorted(sample.labels.items()) if v)
                found[sample.name + (f"{{{labels}}}" if labels else "")] = sample.value
        return found

    def reload(self) -> None:
        def reloads() -> int:
            return sum(self.log_text().count(end) for end in ("reloaded the configuration", "reload failed"))

        before = reloads()
        self.send(signal.SIGHUP)
        self.until(lambda: reloads() > before, "done with the reload", DEADLINE_S)


@pytest.fixture
def agent(agents: Agents, tree: Tree) -> Measured:
    """With 6 of 24 busy."""
    tree.workers(busy=6, idle=18)
    return agents.make(Measured, BASE)


def closed(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) != 0


def test_the_numbers_are_those_of_the_answer(tree: Tree, agent: Measured) -> None:
    tree.add(500, b"sidekiq 7.3.0 booting")
    tree.add(501, sidekiq_title(2, suffix=" stopping"))
    agent.measure(f"127.0.0.1:{agent.metrics_port}", MAIL)
    with agent:
        assert agent.ask(b"mail\n").startswith(b"up 9")
        assert agent.ask(b"\n") == b"up 71% #7/24 busy\n"
        found = agent.scrape()
    expected = {
        'busyweight_build_info{version="0.1.0"}': 1,
        "busyweight_weight_ratio": 0.71,
        "busyweight_known": 1,
        "busyweight_busy": 7,
        "busyweight_capacity": 24,
        'busyweight_busy{pool="mail"}': 8,
        'busyweight_capacity{pool="mail"}': 250,
        'busyweight_workers{state="busy"}': 7,
        'busyweight_workers{state="idle"}': 18,
        'busyweight_threads{pool="mail",state="busy"}': 8,
        'busyweight_threads{pool="mail",state="idle"}': 242,
        "busyweight_stopping_workers": 1,
        "busyweight_unparsable_titles": 1,
        "busyweight_quarantined_processes": 0,
        "busyweight_visible": 1,
        "busyweight_processes": 27,
        'busyweight_discovery_info{discovery="sweep"}': 1,
        'busyweight_scans_total{outcome="failed"}': 0,
        'busyweight_polls_total{outcome="refused"}': 0,
        'busyweight_replies_total{outcome="measured",pool="mail"}': 1,
        'busyweight_override{kind="drain"}': 0,
        'busyweight_config_reloads_total{outcome="ok"}': 0,
        "busyweight_config_last_reload_successful": 1,
    }
    assert {name: found.get(name) for name in expected} == expected
    assert found['busyweight_scans_total{outcome="done"}'] == found["busyweight_scan_duration_seconds_count"] >= 3
    assert 0 < found["busyweight_scan_cpu_seconds_total"] <= found["busyweight_scan_duration_seconds_sum"]
    assert 0 < found["busyweight_sample_age_seconds"] < DEADLINE_S


def test_replies_are_counted_by_what_they_rest_on(tree: Tree, agent: Measured) -> None:
    with agent:
        first = agent.scrape()['busyweight_replies_total{outcome="measured"}']
        agent.ask()
        tree.hide()
        agent.wait_answer(b"up #cannot see processes\n")
        hidden = agent.scrape()
        tree.show()
        agent.wait_answer(b"up 75% #6/24 busy\n")
        agent.order("weight", "40%", "--for", "1h")
        assert agent.ask().startswith(b"up 40%")
        ordered = agent.scrape()
    assert hidden["busyweight_visible"] == hidden["busyweight_known"] == 0
    assert "busyweight_weight_ratio" not in hidden
    assert hidden['busyweight_replies_total{outcome="unknown"}'] >= 1
    assert (
        ordered['busyweight_replies_total{outcome="unknown"}'] >= hidden['busyweight_replies_total{outcome="unknown"}']
    )
    assert ordered['busyweight_replies_total{outcome="ordered"}'] == 1
    assert ordered['busyweight_replies_total{outcome="measured"}'] >= first + 2
    assert ordered['busyweight_override{kind="weight"}'] == 1
    assert ordered["busyweight_override_end_timestamp_seconds"] > ordered["process_start_time_seconds"] + 3000
    assert ordered["busyweight_weight_ratio"] == 0.4
    answered = sum(value for name, value in ordered.items() if name.startswith("busyweight_replies_total"))
    assert answered == ordered['busyweight_polls_total{outcome="answered"}']


def test_refused_and_silent_pollers_are_counted(agent: Measured) -> None:
    refused, silent = 'busyweight_polls_total{outcome="refused"}', 'busyweight_missing_lines_total{reason="timed_out"}'
    agent.base = 'allow = ["192.0.2.0/24"]\n' + BASE
    agent.measure(f"127.0.0.1:{agent.metrics_port}")
    with agent:
        before = agent.scrape()[refused]
        assert agent.ask() == b""
        assert agent.scrape()[refused] == before + 1
        agent.base = BASE + '[limits]\ndeadline = "50ms"\n'
        agent.measure(f"127.0.0.1:{agent.metrics_port}", MAIL)
        agent.reload()
        # With the first sample of its own the pool is there.
        agent.until(lambda: agent.ask(b"mail\n") == b"up 98% #6/240 busy\n", "knowing the pool", DEADLINE_S)
        before = agent.scrape()[silent]
        assert agent.ask() == b"up 75% #6/24 busy\n"
        assert agent.scrape()[silent] == before + 1


def test_a_reload_adds_moves_and_removes_the_listener_or_leaves_it_and_says_why(agent: Measured) -> None:
    first, second = agent.metrics_port, free_port()
    agent.measure("")
    with agent:
        assert closed(first)
        agent.measure(f"127.0.0.1:{first}")
        agent.reload()
        assert agent.scrape()['busyweight_config_reloads_total{outcome="ok"}'] == 1
        agent.measure(f"[::]:{second}")
        agent.reload()
        assert closed(first)
        assert agent.get(host="::1", port=second)[0] == http.client.OK
        assert agent.get(port=second)[0] == http.client.OK
        agent.measure(f"127.0.0.1:{agent.port}")
        agent.reload()
        agent.metrics_port = second
        found = agent.scrape()
        assert found['busyweight_config_reloads_total{outcome="ok"}'] == 3
        trouble = f"metrics: cannot listen on 127.0.0.1:{agent.port}: address already in use"
        assert f"warning: {trouble}" in agent.log_text()
        assert trouble in agent.order("status")
        agent.measure("")
        agent.reload()
        assert closed(second)
        assert agent.ask() == b"up 75% #6/24 busy\n"


def test_whoever_connects_holds_neither_the_polls_nor_a_thread_for_each(agent: Measured) -> None:
    with agent:
        idle = [socket.create_connection(("127.0.0.1", agent.metrics_port)) for _ in range(SCRAPES_MAX)]
        threads = Path(f"/proc/{agent.pid}/task")
        agent.until(lambda: len(list(threads.iterdir())) >= 1 + SCRAPES_MAX, "holding the scrapers", DEADLINE_S)
        held = len(list(threads.iterdir()))
        for _ in range(20):
            with socket.create_connection(("127.0.0.1", agent.metrics_port)) as crowd:
                crowd.settimeout(DEADLINE_S)
                assert crowd.recv(1) == b""
        assert len(list(threads.iterdir())) <= held
        assert agent.ask() == b"up 75% #6/24 busy\n"
        for each in idle:
            each.sendall(b"\xff\0 / what\r\n\r\n")
            each.close()

        def answered() -> bool:
            try:
                return agent.get()[0] == http.client.OK
            except (http.client.HTTPException, OSError):
                return False

        agent.until(answered, "scraped again", DEADLINE_S)


def test_who_never_finishes_a_request_is_sent_away(agent: Measured) -> None:
    begins_with(agent, "from agent.serve import metrics; metrics.DEADLINE_S = 1.0")
    with agent, socket.create_connection(("127.0.0.1", agent.metrics_port), timeout=30.0) as slow:
        slow.sendall(b"GET /metrics HTTP/1.1\r\nX: ")
        assert slow.recv(1) == b""


def waits_without_end(pid: int) -> bool:
    """Whether the main thread sleeps in epoll with no time set: 281 is epoll_pwait, 232 epoll_wait."""
    call = Path(f"/proc/{pid}/syscall").read_text().split()
    return call[0] in ("281", "232") and int(call[4], 16) & 0xFFFFFFFF == 0xFFFFFFFF


@pytest.mark.skipif(platform.machine() != "x86_64", reason="the numbers of system calls are x86-64's")
def test_between_scrapes_there_is_no_timer_and_no_thread(agent: Measured) -> None:
    with agent:
        agent.ask()
        threads = Path(f"/proc/{agent.pid}/task")
        before = len(list(threads.iterdir()))
        agent.scrape()
        agent.until(lambda: waits_without_end(agent.pid), "asleep without end", DEADLINE_S)
        assert len(list(threads.iterdir())) == before


RUN = "import sys; from agent import cli; code = cli.main(); print('prometheus_client' in sys.modules, code)"


@pytest.mark.parametrize("on", [False, True])
def test_the_library_is_imported_only_where_metrics_are_on(agent: Measured, on: bool) -> None:
    if not on:
        agent.measure("")
    process = subprocess.Popen(
        [sys.executable, "-c", RUN, *agent.argv()[1:]], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    try:
        until(lambda: not closed(agent.port), "it answers", DEADLINE_S)
        process.send_signal(signal.SIGUSR1)
        assert process.communicate(timeout=DEADLINE_S)[0] == f"{on} 0\n"
    finally:
        process.kill()
        process.wait()


def test_without_the_library_the_agent_serves_and_says_what_metrics_need(agent: Measured) -> None:
    begins_with(agent, "sys.modules['prometheus_client'] = None")
    with agent:
        assert agent.ask() == b"up 75% #6/24 busy\n"
        assert closed(agent.metrics_port)
        trouble = (
            f'metrics.listen = "127.0.0.1:{agent.metrics_port}" needs the library prometheus-client: '
            "pip install 'busyweight[metrics]', or apt install python3-prometheus-client"
        )
        assert f"warning: {trouble}; running without metrics" in agent.log_text()
        status = json.loads(agent.order("status", "--json"))
        assert status["metrics"] == {"listening": None, "trouble": trouble}


def test_a_port_for_metrics_that_is_taken_keeps_nobody_waiting_and_is_tried_again(agent: Measured) -> None:
    begins_with(agent, "from agent.serve import exporter; exporter.RETRY_S = 0.05")
    with socket.create_server(("127.0.0.1", agent.metrics_port)) as taken:
        agent.start()
        agent.wait_ready()
        assert agent.ask() == b"up 75% #6/24 busy\n"
        assert agent.log_text().count("address already in use") == 1
        taken.close()
        agent.until(lambda: not closed(agent.metrics_port), "there", DEADLINE_S)
    assert agent.scrape()["busyweight_known"] == 1
    assert json.loads(agent.order("status", "--json"))["metrics"] == {
        "listening": f"127.0.0.1:{agent.metrics_port}",
        "trouble": None,
    }


def test_a_library_that_is_slow_to_import_keeps_no_poll_waiting(agent: Measured, tmp_path: Path) -> None:
    """Its import hangs until somebody opens the pipe."""
    gate, came = tmp_path / "gate", tmp_path / "came"
    os.mkfifo(gate)
    (tmp_path / "prometheus_client.py").write_text(
        f"open({str(came)!r}, 'w').close()\nopen({str(gate)!r})\nraise ImportError('broken')\n"
    )
    begins_with(agent, f"sys.path.insert(0, {str(tmp_path)!r})")
    metrics_port = agent.metrics_port
    agent.measure("")
    with agent:
        agent.measure(f"127.0.0.1:{metrics_port}")
        agent.send(signal.SIGHUP)
        agent.until(came.exists, "importing", DEADLINE_S)
        assert agent.ask() == b"up 75% #6/24 busy\n"
        assert "reloaded" not in agent.log_text()
        gate.write_text("")
        agent.until(lambda: "metrics: broken; running without metrics" in agent.log_text(), "told", DEADLINE_S)
        agent.until(lambda: "reloaded the configuration" in agent.log_text(), "reloaded", DEADLINE_S)


def rows(text: str) -> list[str]:
    """The metrics of a scrape as a table of Markdown has them."""
    found = []
    for family in text_string_to_metric_families(text):
        if family.name.startswith("busyweight_"):
            labels = sorted({label for sample in family.samples for label in sample.labels})
            name = family.name + ("_total" if family.type == "counter" else "")
            shown = ", ".join(f"`{label}`" for label in labels)
            found.append(f"| `{name}` | {family.type} | {shown} | {family.documentation} |")
    return found


def test_the_documentation_lists_every_metric_and_promtool_finds_no_fault(agent: Measured) -> None:
    promtool = need("promtool", "prometheus")
    with agent:
        agent.ask()
        text = agent.get()[1]
    documented = (HERE / "docs/metrics.md").read_text().splitlines()
    assert [line for line in documented if line.startswith("| `busyweight_")] == rows(text)
    done = subprocess.run([promtool, "check", "metrics"], input=text, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")
