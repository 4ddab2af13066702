"""A doctor beside an agent in a tree."""

import json

import pytest

from agent.tools.doctor import polls
from tests.prompt import Run
from tests.tools.asking import Asked, Doctor
from tests.tree import Agents, MortalAgent, Tree, TreeAgent


@pytest.fixture
def agent(agents: Agents, tree: Tree) -> TreeAgent:
    """With 6 of 24 busy; not started."""
    tree.workers(busy=6, idle=18)
    return agents.make(MortalAgent, f'[scan]\nprocfs = "{tree}"\n[weight]\ncapacity = 24\n')


@pytest.fixture
def doctor(here: Run, agent: TreeAgent, monkeypatch: pytest.MonkeyPatch) -> Doctor:
    """Uses the agent's own configuration and socket, and watches pollers for a short time only."""
    monkeypatch.setattr(polls, "WATCH_S", 0.3)
    monkeypatch.setattr(polls, "RARE_S", 0.3)

    def ask(*more: object) -> Asked:
        words = ["--config", agent.config_file, "--control", agent.control, *more]
        done = here("doctor", "--json", *words)
        assert done.err == ""
        return Asked(done.code, json.loads(done.out))

    return ask
