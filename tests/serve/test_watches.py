"""A kernel that has no room for one more watch: a listener is watched later, and is not left for ever."""

import asyncio
import errno
import os
import socket

import uvloop

from agent._scan import Answerer
from agent.serve.server import Server, open_listener

DEADLINE_S = 10.0


class Scarce:
    """An event loop whose first watches fail."""

    def __init__(self, loop: asyncio.AbstractEventLoop, failures: int) -> None:
        self._loop, self.failures = loop, failures

    def add_reader(self, *arguments: object) -> None:
        if self.failures:
            self.failures -= 1
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self._loop.add_reader(*arguments)  # type: ignore[arg-type]

    def __getattr__(self, name: str) -> object:
        return getattr(self._loop, name)


def test_a_listener_that_could_not_be_watched_is_watched_when_it_can_be() -> None:
    def poll(port: int) -> bytes:
        with socket.create_connection(("127.0.0.1", port), DEADLINE_S) as connection:
            return connection.makefile("rb").read()

    async def serve() -> None:
        loop = asyncio.get_running_loop()
        answerer = Answerer([])
        answerer.set_replies(b"up 75%\n", [])
        server = Server(answerer, lambda: False, wait_at_most_s=0.0, deadline_s=1.0, awaiting_line_max=8)
        server._loop = scarce = Scarce(loop, 3)  # type: ignore[assignment]
        listener = open_listener(("127.0.0.1", 0), 16)
        server.add(listener)
        assert await loop.run_in_executor(None, poll, listener.getsockname()[1]) == b"up 75%\n"
        assert scarce.failures == 0
        server.close()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve())
