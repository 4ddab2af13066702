"""Workers that the name filter hides are reported, and no weight relies on their absence."""

from pathlib import Path

import pytest

from agent._scan import Selector, hidden_by_name
from agent.sampling.outsiders import described
from tests.farm import sidekiq_title
from tests.tree import Tree, TreeAgent

from .running import AT_ONCE, CAPACITY, DEADLINE_S, begins_with

SOON = """
from agent.serve import outsiders
outsiders.FIRST_AFTER_S = 0
"""


@pytest.fixture
def hidden(tree: Tree) -> Tree:
    tree.add(200, sidekiq_title(3), comm="wrapper")
    tree.add(201, sidekiq_title(3), comm="rbx", uid=7)
    return tree


def test_those_with_a_workers_title_and_a_foreign_name_are_found_for_each_pool(hidden: Tree) -> None:
    hidden.workers(busy=1)
    hidden.add(202, sidekiq_title(3), comm="processor", ppid=100)
    hidden.add(203, b"vim sidekiq 7.0.0 [1 of 2 busy]", comm="vim")
    selectors = [Selector("sidekiq"), Selector("sidekiq", comm=["wrap*"], users=[7]), Selector("postgres")]
    assert hidden_by_name(str(hidden), selectors) == [(200, "wrapper", 1), (201, "rbx", 3)]


def test_they_are_described_by_number_name_and_pid() -> None:
    assert described([(7, "rbx")]) == "1 worker is called rbx (pids 7)"
    many = described([(pid, "rbx" if pid % 2 else "wrapper") for pid in range(1, 8)])
    assert many == "7 workers are called rbx or wrapper (pids 1, 2, 3, 4, 5 ...)"


def test_where_all_workers_are_hidden_the_state_is_unknown_and_said_why(hidden: Tree, tmp_path: Path) -> None:
    agent = TreeAgent(tmp_path, hidden, CAPACITY + AT_ONCE)
    begins_with(agent, SOON)
    with agent:
        agent.wait_answer(b"up #workers.comm hides all 2 workers\n", DEADLINE_S)
        hidden.workers(busy=6)
        agent.wait_answer(b"up 75% #6/24 busy\n", DEADLINE_S)
    assert agent.log_text().count("called rbx or wrapper (pids 200, 201)") == 1
