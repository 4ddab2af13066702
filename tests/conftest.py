"""What all tests start from: a neutral environment, and fixtures that many of them use: a tree, an agent in it, a
prompt.

It must not hide anything that a test could find: a test of a strict umask or of a full disk sets that up itself.
"""

import os
import resource
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.missing import need_root

if TYPE_CHECKING:
    from tests.prompt import Run
    from tests.tree import Agents, Tree, TreeAgent

# Others, such as the compiler and the agent, take the place for scratch files that Python finds to have room.
os.environ["TMPDIR"] = tempfile.gettempdir()

# Some tests' files are for other users to read.
os.umask(0o022)

# Crowds of clients are more files than a login may have open.
FILES = 16_384
soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, FILES)), hard))


def pytest_runtest_setup(item: pytest.Item) -> None:
    for mark in item.iter_markers("root"):
        need_root(*mark.args)


@pytest.fixture
def tree(tmp_path: Path) -> "Tree":
    """A directory that looks like /proc, with no worker in it."""
    from tests.tree import Tree

    return Tree(tmp_path / "proc")


@pytest.fixture
def agents(tmp_path: Path, tree: "Tree") -> Iterator["Agents"]:
    """Makes agents in the tree, and ends them."""
    from tests.tree import Agents

    with Agents(tmp_path, tree) as agents:
        yield agents


@pytest.fixture
def agent(agents: "Agents", tree: "Tree") -> "TreeAgent":
    """With 6 of 24 busy; a test may write another configuration before it starts it."""
    from tests.tree import TreeAgent

    tree.workers(busy=6, idle=18)
    return agents.make(TreeAgent, '[weight]\ncapacity = 24\n[reply]\non_stop = "keep"\n')


@pytest.fixture
def here(capfdbinary: pytest.CaptureFixture[bytes]) -> "Run":
    """The command line, run in this process."""
    from tests.prompt import in_this_process

    return in_this_process(capfdbinary)
