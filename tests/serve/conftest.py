"""An agent in a tree of its own."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.tree import Tree, TreeAgent

from .running import AT_ONCE, CAPACITY, Notified


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    return Tree(tmp_path / "proc")


@pytest.fixture
def agent(tmp_path: Path, tree: Tree) -> Iterator[TreeAgent]:
    """With 6 of 24 busy; a test may write another configuration before it starts it."""
    tree.workers(busy=6, idle=18)
    agent = TreeAgent(tmp_path, tree, CAPACITY + AT_ONCE)
    yield agent
    agent.stop()
    assert "Traceback" not in agent.log_text(), agent.evidence()


@pytest.fixture
def notified(tmp_path: Path, agent: TreeAgent) -> Iterator[Notified]:
    notified = Notified(tmp_path)
    agent.environ["NOTIFY_SOCKET"] = str(notified.path)
    yield notified
    notified.close()
