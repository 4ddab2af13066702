"""What `busyweight doctor` reports about the metrics port: this agent's, another agent's, another program's, or
closed."""

import signal
import socket
from pathlib import Path

import pytest

from agent.tools.doctor import metrics
from tests.real.parts import free_port
from tests.tools.asking import DEADLINE_S, Doctor, Impostor
from tests.tree import MortalAgent, Tree, TreeAgent


def publish(agent: TreeAgent, port: int) -> str:
    """Takes effect with the next start, or with SIGHUP. Returns the address."""
    agent.write_config(f'[scan]\nprocfs = "{agent.tree}"\n[metrics]\nlisten = "127.0.0.1:{port}"\n')
    return f"127.0.0.1:{port}"


def test_metrics_that_are_off_are_not_looked_for(agent: TreeAgent, doctor: Doctor) -> None:
    with agent:
        assert doctor().states("metrics") == []


def test_metrics_that_were_turned_on_are_a_fail_until_the_agent_has_heard_of_it(
    agent: TreeAgent, doctor: Doctor
) -> None:
    with agent:
        shown = publish(agent, free_port())
        said = doctor().said("metrics")
        assert said.startswith(
            f"fail nothing listens on {shown}: the agent runs with an older or a different configuration"
        )
        assert said.endswith("-> systemctl reload busyweight")
        agent.send(signal.SIGHUP)
        agent.until(lambda: "reloaded the configuration" in agent.log_text(), "reloaded", DEADLINE_S)
        assert doctor().said("metrics") == f"ok {shown} serves this agent's metrics -> "


def test_metrics_of_another_agent_are_a_fail(tmp_path: Path, agent: TreeAgent, doctor: Doctor, tree: Tree) -> None:
    other = MortalAgent(tmp_path / "other", tree)
    shown = publish(other, free_port())
    with agent, other:
        publish(agent, int(shown.partition(":")[2]))
        said = doctor().said("metrics")
        assert said.startswith(f"fail {shown} serves another agent's metrics -> another program uses the port")
        unknown = doctor("--control", tmp_path / "none").said("metrics")
        assert unknown.startswith(f"warn {shown} answers with busyweight's metrics, but it is unknown")


def test_without_an_agent_a_metrics_port_is_a_fail_with_what_starts_it(agent: TreeAgent, doctor: Doctor) -> None:
    shown = publish(agent, free_port())
    assert doctor().said("metrics") == f"fail nothing listens on {shown} -> start it: systemctl start busyweight"


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (b"HTTP/1.0 200 OK\r\n\r\nhello", "does not answer with busyweight's metrics (HTTP 200)"),
        (b"HTTP/1.0 503 No\r\n\r\nno status\n", "serves none: no status -> the agent is hung"),
        (b"up 75% #6/24 busy\n", "does not speak HTTP -> another program uses the port"),
        (None, "does not speak HTTP -> another program uses the port"),
    ],
)
def test_what_is_not_an_agents_metrics_is_a_fail(
    agent: TreeAgent, doctor: Doctor, answer: bytes | None, expected: str
) -> None:
    with Impostor(answer) as impostor:
        shown = publish(agent, impostor.port)
        assert doctor().said("metrics").startswith(f"fail {shown} {expected}")


def test_a_metrics_port_that_does_not_answer_is_a_fail(
    agent: TreeAgent, doctor: Doctor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(metrics, "TIMEOUT_S", 0.05)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        shown = publish(agent, silent.getsockname()[1])
        assert doctor().said("metrics").startswith(f"fail {shown} does not answer within 0.05 s")
