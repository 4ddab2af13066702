"""An event loop that cannot be created is reported in one line, and the agent's own errors are not mistaken for
that."""

import errno
import os
from typing import NoReturn

import pytest
import uvloop

from agent.serve import loop

NO_FILES = OSError(errno.EMFILE, os.strerror(errno.EMFILE))


class Unrunnable(uvloop.Loop):
    """An event loop that fails when run, because its own sockets could not be opened."""

    def run_until_complete(self, _future: object) -> NoReturn:
        raise NO_FILES


def no_loop() -> NoReturn:
    raise NO_FILES


async def main() -> None:
    pytest.fail("it ran")


async def broken() -> None:
    raise OSError(errno.EIO, "the agent's own")


@pytest.mark.filterwarnings("ignore:coroutine .* was never awaited")
@pytest.mark.parametrize("made", [no_loop, Unrunnable])
def test_a_loop_that_cannot_be_had_is_one_line(monkeypatch: pytest.MonkeyPatch, made: object) -> None:
    monkeypatch.setattr(uvloop, "new_event_loop", made)
    with pytest.raises(loop.NoLoopError, match=r"^cannot start: cannot create the event loop: Too many open files$"):
        loop.run(main())


def test_what_the_agent_raises_is_the_agents() -> None:
    with pytest.raises(OSError, match="the agent's own"):
        loop.run(broken())
