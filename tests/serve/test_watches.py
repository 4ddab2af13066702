"""A kernel without room for another watch: the watch is added later, and not forgotten."""

import asyncio
import errno
import http.client
import os
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import uvloop

from agent._scan import Answerer, Snapshot
from agent.operate.session import Peer, Request
from agent.operate.socket import ControlSocket
from agent.sampling.sampler import Sampler
from agent.serve.metrics import Endpoint
from agent.serve.server import Server, open_listener
from agent.tools import client
from tests.tree import Tree, scanner

DEADLINE_S = 10.0


class Scarce(uvloop.Loop):
    """An event loop whose next watches fail."""

    failures = 0

    def add_reader(self, *arguments: Any) -> None:  # type: ignore[override]  # whatever they are
        if self.failures:
            self.failures -= 1
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        super().add_reader(*arguments)


def run(test: Callable[[Scarce], Awaitable[None]], *, failures: int) -> None:
    """The test on a loop whose first watches fail; all of these must have been tried by its end."""

    async def within() -> None:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, Scarce)
        loop.failures = failures
        await asyncio.wait_for(test(loop), DEADLINE_S)
        assert loop.failures == 0

    with asyncio.Runner(loop_factory=Scarce) as runner:
        runner.run(within())


def test_a_listener_is_watched_later() -> None:
    def poll(port: int) -> bytes:
        with socket.create_connection(("127.0.0.1", port), DEADLINE_S) as connection:
            return connection.makefile("rb").read()

    async def serve(loop: Scarce) -> None:
        answerer = Answerer([])
        answerer.set_replies(b"up 75%\n", [])
        server = Server(answerer, lambda: False, wait_at_most_s=0.0, deadline_s=1.0, awaiting_line_max=8)
        listener = open_listener(("127.0.0.1", 0), 16)
        server.add(listener)
        assert await loop.run_in_executor(None, poll, listener.getsockname()[1]) == b"up 75%\n"
        server.close()

    run(serve, failures=3)


def test_scans_end_that_are_not_watched(tmp_path: Path) -> None:
    tree = Tree(tmp_path / "proc")
    tree.workers(busy=2, idle=1)

    async def sample(loop: Scarce) -> None:
        ended: asyncio.Queue[Snapshot | None] = asyncio.Queue()
        sampler = Sampler(scanner(tree), lambda snapshot, _: ended.put_nowait(snapshot))
        for _ in range(4):
            sampler.start()
            snapshot = await ended.get()
            assert snapshot is not None
            assert snapshot.pools[0].busy_processes == 2
        sampler.close()

    run(sample, failures=2)


def test_the_control_socket_is_watched_later(tmp_path: Path) -> None:
    async def echo(request: Request, _: Peer) -> dict[str, Any]:
        return {"request": dict(request)}

    async def command(loop: Scarce) -> None:
        served = ControlSocket(tmp_path / "control.sock", {"echo": echo}, None)
        assert (await loop.run_in_executor(None, client.ask, served.path, "echo"))["ok"]
        served.close()

    run(command, failures=2)


def test_metrics_are_watched_later() -> None:
    def get(port: int) -> int:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=DEADLINE_S)
        # The one page that needs no status.
        connection.request("GET", "/favicon.ico")
        with connection.getresponse() as response:
            return response.status

    async def scrape(loop: Scarce) -> None:
        endpoint = Endpoint(open_listener(("127.0.0.1", 0), 16), dict, wanted=("127.0.0.1", 0))
        assert await loop.run_in_executor(None, get, endpoint.address[1]) == http.client.OK
        endpoint.close()

    run(scrape, failures=2)
