"""The last weights that HAProxy got: kept over restarts, and treated as unknown if the file is invalid."""

import json
import signal
from pathlib import Path

import pytest

from agent.operate.heard import HeardFile
from tests.farm import sidekiq_title
from tests.tree import Agents, Tree, TreeAgent

DEADLINE_S = 10.0
SLOW = '[scan]\nfresh_for = "0ms"\nmin_gap = "0ms"\nmax_duty = "100%"\n[weight]\ncapacity = 6\nrise = "0.001%/s"\n'
KEEP = '[reply]\non_stop = "keep"\n'


@pytest.fixture
def agent(agents: Agents, tree: Tree) -> TreeAgent:
    """Full, with six workers."""
    tree.workers(busy=6)
    return agents.make(TreeAgent, SLOW + KEEP)


def free(agent: TreeAgent) -> None:
    for pid in range(100, 106):
        agent.tree.retitle(pid, sidekiq_title(0))


@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGTERM])
def test_a_slow_rise_goes_on_over_a_restart(agent: TreeAgent, number: signal.Signals) -> None:
    with agent:
        assert agent.ask() == b"up 0% #6/6 busy\n"
        agent.send(number)
        assert agent.wait_exit(DEADLINE_S) == 0
    free(agent)
    with agent:
        assert agent.ask() == b"up 0% #0/6 busy, rising\n"


def test_a_slow_rise_goes_on_over_a_crash(agent: TreeAgent) -> None:
    file = agent.home / "state/heard.json"
    with agent:
        assert agent.ask() == b"up 0% #6/6 busy\n"
        agent.until(lambda: file.exists() and json.loads(file.read_text())["heard"] == {"": 0}, "kept", DEADLINE_S)
        agent.send(signal.SIGKILL)
        agent.wait_exit(DEADLINE_S)
    free(agent)
    with agent:
        assert agent.ask() == b"up 0% #0/6 busy, rising\n"


def test_after_a_release_nothing_rises(agent: TreeAgent) -> None:
    agent.write_config(SLOW + '[reply]\nrelease_for = "10ms"\n')
    with agent:
        assert agent.ask() == b"up 0% #6/6 busy\n"
        agent.send(signal.SIGTERM)
        assert agent.wait_exit(DEADLINE_S) == 0
    free(agent)
    with agent:
        assert agent.ask() == b"up 100% #0/6 busy\n"


def test_where_nothing_rises_slowly_nothing_is_kept(agent: TreeAgent) -> None:
    (agent.home / "state").mkdir()
    file = agent.home / "state/heard.json"
    file.write_text('{"version": 1, "heard": {"": 7}}')
    agent.write_config(SLOW.replace("0.001%/s", "off") + KEEP)
    with agent:
        agent.until(lambda: not file.exists(), "gone", DEADLINE_S)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{}",
        "7",
        "not JSON",
        '{"version": 2, "heard": {}}',
        '{"version": 1, "heard": {"": "x"}}',
        '{"version": 1, "heard": {"": 700}}',
        '{"version": 1, "heard": {"": NaN}}',
        '{"version": 1, "heard": [1]}',
        '{"version": 1, "heard": null}',
        "[" * 100_000,
    ],
)
def test_a_record_that_cannot_be_believed_is_none(tmp_path: Path, text: str) -> None:
    (tmp_path / "heard.json").write_text(text)
    assert HeardFile(tmp_path).load() is None


def test_a_damaged_record_makes_weights_rise_from_the_floor(agent: TreeAgent) -> None:
    (agent.home / "state").mkdir()
    (agent.home / "state/heard.json").write_text("{")
    free(agent)
    with agent:
        assert agent.ask() == b"up 0% #0/6 busy, rising\n"
        assert "weights rise from their floor" in agent.log_text()
