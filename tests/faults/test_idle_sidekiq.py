"""An idle Sidekiq never counts as busy, whatever its pollers and schedulers do, in ten minutes.

Sidekiqs of every available version run together (`make test`: this machine's own, for some seconds). At the end each
gets a job that uses CPU and is seen, so it would have been seen before.
"""

import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.cgroups import cgroup
from tests.faults import SOAK, amount
from tests.matrix import trees
from tests.real.parts import Agent, Redis, Sidekiq

HERE = Path(__file__).parent
SEEN_DEADLINE_S = 20.0

CONFIG = """
[workers]
cgroups = ["{below}"]
[scan]
fresh_for = "125ms"
[weight]
capacity = 10
"""


class Idle(Sidekiq):
    """A Sidekiq with schedulers and no job, in a cgroup."""

    READY_DEADLINE_S = 60.0

    def __init__(self, name: str, redis: Redis, below: Path, debian: trees.Tree | None) -> None:
        super().__init__(name, redis, threads=10, debian=debian)
        self.below = below
        self.looks, self.told = self.home / "looks", self.home / "told"

    def argv(self) -> list[str]:
        return [self.program, "-r", str(HERE / "idle.rb"), "-q", self.name, "-C", str(self.config_file), *self.tag]

    def environment(self) -> dict[str, str]:
        return super().environment() | {"LOOKS": str(self.looks), "TOLD": str(self.told)}

    def start(self) -> None:
        super().start()
        (self.below / "cgroup.procs").write_text(str(self.pid))


def debians() -> list[trees.Tree | None]:
    """Which Sidekiqs: this machine's; in the soak, those of every available Debian."""
    if not SOAK or trees.missing_for_trees():
        return [None]
    return [*trees.get_all()[0]]


@pytest.fixture
def idle(tmp_path: Path) -> Iterator[tuple[Agent, list[Idle]]]:
    with ExitStack() as stack:
        below = stack.enter_context(cgroup("busyweight-idle"))
        sidekiqs = []
        for number, debian in enumerate(debians()):
            redis = stack.enter_context(Redis(tmp_path / str(number), debian))
            sidekiqs.append(stack.enter_context(Idle(f"idle{number}", redis, below, debian)))
        agent = Agent(tmp_path, CONFIG.format(below=f"/{below.name}"))
        yield stack.enter_context(agent), sidekiqs


@pytest.mark.timeout(1200)
def test_idle_sidekiq_is_never_counted(idle: tuple[Agent, list[Idle]]) -> None:
    agent, sidekiqs = idle
    at_rest = b"up 100% #0/10 busy\n"
    agent.wait_answer(at_rest, SEEN_DEADLINE_S)  # they have booted
    looked = [len(sidekiq.looks.read_bytes()) for sidekiq in sidekiqs]
    counted = []
    end_s = time.monotonic() + amount(6, 600)
    while time.monotonic() < end_s:
        reply = agent.ask()
        if reply != at_rest:
            counted.append(reply)
        time.sleep(0.05)
    assert not counted
    for sidekiq, before in zip(sidekiqs, looked, strict=True):
        assert len(sidekiq.looks.read_bytes()) - before > amount(2, 300), "its scheduler hardly ran"
    for number, sidekiq in enumerate(sidekiqs, start=1):
        sidekiq.hold(kind="Burning")
        sidekiq.until(lambda: f" #{number}/10 busy" in agent.ask().decode(), "seen", SEEN_DEADLINE_S)  # noqa: B023
    for sidekiq in sidekiqs:
        sidekiq.told.touch()
