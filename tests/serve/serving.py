"""A server on its own event loop, and clients that poll it."""

import asyncio
import socket
import threading
from collections.abc import Callable
from typing import Self, TypeVar

import uvloop

from agent._scan import Answerer, Totals
from agent.serve.server import Address, Server, open_listeners

DEADLINE_S = 10.0
T = TypeVar("T")


class Serving:
    """A server on its own event loop in a thread; `do` runs functions there."""

    def __init__(
        self,
        ask: Callable[[], bool] = lambda: False,
        *,
        allow: list[str] | None = None,
        awaiting_line_max: int = 8,
        wait_at_most_s: float = 0.05,
        deadline_s: float = 60.0,
        pools: dict[str, bytes] | None = None,
    ) -> None:
        self._loop = uvloop.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()
        self.thread_id = self.do(threading.get_native_id)
        self.answerer = Answerer(allow or [])
        self.say(b"up 75%\n", pools)

        def make() -> Server:
            asyncio.set_event_loop(self._loop)
            return Server(
                self.answerer,
                ask,
                wait_at_most_s=wait_at_most_s,
                deadline_s=deadline_s,
                awaiting_line_max=awaiting_line_max,
            )

        self.server = self.do(make)
        self.listeners: list[socket.socket] = []

    def do(self, what: Callable[..., T], *args: object) -> T:
        async def call() -> T:
            return what(*args)

        return asyncio.run_coroutine_threadsafe(call(), self._loop).result(DEADLINE_S)

    def say(self, default: bytes, pools: dict[str, bytes] | None = None) -> None:
        self.answerer.set_replies(default, list((pools or {}).items()))

    def listen(self, *addresses: Address) -> list[Address]:
        """Where it really listens, port 0 being any."""
        opened = open_listeners(addresses or [("127.0.0.1", 0)], backlog=4096)
        for listener in opened.values():
            self.do(self.server.add, listener)
        self.listeners += opened.values()
        return [listener.getsockname()[:2] for listener in opened.values()]

    def totals(self) -> Totals:
        return self.do(self.answerer.totals)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.do(self.server.close)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


def connect(address: Address, send: bytes = b"") -> socket.socket:
    poll = socket.create_connection(address, timeout=DEADLINE_S)
    if send:
        poll.sendall(send)
    return poll


def said(poll: socket.socket) -> bytes:
    """Everything that arrives until the server closes."""
    with poll, poll.makefile("rb") as answer:
        return answer.read()


def ask(address: Address, send: bytes = b"") -> bytes:
    return said(connect(address, send))


POOLS = {"mail": b"up 20%\n", "shop": b"up 40%\n"}
