"""The notifications that systemd would get."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.tree import TreeAgent

from .running import Notified


@pytest.fixture
def notified(tmp_path: Path, agent: TreeAgent) -> Iterator[Notified]:
    notified = Notified(tmp_path)
    agent.environ["NOTIFY_SOCKET"] = str(notified.path)
    yield notified
    notified.close()
