"""WORLD. One client of the control socket: lines of JSON in and out, see docs/control.md.

It keeps at most one request and one answer in memory, reads on only when the answer is sent, and disconnects a client
that takes too long. It does not know what the commands mean.
"""

import asyncio
import contextlib
import json
import logging
import socket
from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

from agent.config import values

log = logging.getLogger("busyweight")

VERSION = 1
LINE_LEN_MAX = 4096

# How long a client may send nothing, or not read its answer, before it is disconnected.
IDLE_S = 30.0
ANSWER_S = 10.0

Request = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Peer:
    """The process at the other end, as the kernel reports it (unix(7), SO_PEERCRED and SO_PEERGROUPS)."""

    pid: int
    uid: int
    gids: frozenset[int]


Command = Callable[[Request, Peer], Awaitable[dict[str, Any]]]


def failure(why: str) -> dict[str, Any]:
    """The answer to a failed request."""
    return {"ok": False, "error": why}


def encode(answer: dict[str, Any]) -> bytes:
    """An answer on the wire."""
    return json.dumps({"version": VERSION} | answer).encode() + b"\n"


class Session:
    """One connection: reads a line, has it carried out, writes the answer, and so on.

    ``commands`` are called with a request's other keys and may raise values.Wrong. ``left`` is called once, when the
    connection is closed.
    """

    def __init__(
        self,
        connection: socket.socket,
        peer: Peer,
        commands: Mapping[str, Command],
        left: Callable[["Session"], None],
    ) -> None:
        self._socket = connection
        self._peer = peer
        self._commands = commands
        self._left = left
        self._loop = asyncio.get_running_loop()
        self._read = bytearray()
        self._carrying_out = False
        self._closing = False
        self._task = self._loop.create_task(self._serve())
        self._task.add_done_callback(self._over)

    def close(self) -> None:
        """Disconnects the client, after a command that is already being carried out."""
        self._closing = True
        if not self._carrying_out:
            self._task.cancel()

    def _over(self, _: "asyncio.Task[None]") -> None:
        self._left(self)
        # The descriptor is gone whatever close(2) returns.
        with contextlib.suppress(OSError):
            self._socket.close()

    async def _serve(self) -> None:
        # An OSError: the client is gone, does not read, or the kernel has no room for another watch.
        with contextlib.suppress(OSError):
            while await self._exchange():
                pass

    async def _exchange(self) -> bool:
        """One request and its answer. Returns whether another one may follow."""
        try:
            line = await self._line()
        except values.Wrong as wrong:
            await self._send(failure(str(wrong)))
            return False
        if line is None:
            return False
        self._carrying_out = True
        answer = await self._carry_out(line)
        self._carrying_out = False
        if self._closing:
            return False
        await self._send(answer)
        return True

    async def _line(self) -> bytes | None:
        """The next line; None if the client has closed or is idle. Raises Wrong if the line does not end."""
        try:
            async with asyncio.timeout(IDLE_S):
                while b"\n" not in self._read:
                    if len(self._read) > LINE_LEN_MAX:
                        raise values.Wrong(f"the line is longer than {LINE_LEN_MAX} bytes")
                    data = await self._loop.sock_recv(self._socket, LINE_LEN_MAX + 1 - len(self._read))
                    if not data and self._read:
                        raise values.Wrong("incomplete line: the newline is missing")
                    if not data:
                        return None
                    self._read += data
        except TimeoutError:
            if self._read:
                raise values.Wrong(f"no complete line within {IDLE_S:g} s") from None
            return None
        line, _, self._read = self._read.partition(b"\n")
        return bytes(line)

    async def _carry_out(self, line: bytes) -> dict[str, Any]:
        try:
            name, request = parse(line, self._commands)
            return {"ok": True} | await self._commands[name](request, self._peer)
        except values.Wrong as wrong:
            return failure(str(wrong))
        except Exception as error:  # a bug in one command must not end the agent
            log.error("control: %s", repr(error))  # noqa: TRY400 - one line
            return failure(f"the agent failed: {error!r}")

    async def _send(self, answer: dict[str, Any]) -> None:
        """Raises TimeoutError if the client does not read it in time."""
        async with asyncio.timeout(ANSWER_S):
            await self._loop.sock_sendall(self._socket, encode(answer))


def parse(line: bytes, known: Collection[str]) -> tuple[str, dict[str, Any]]:
    """A request's command, which must be known, and its other keys. Raises values.Wrong."""
    try:
        request = json.loads(line)
    except (ValueError, RecursionError):
        raise values.Wrong("not one line of JSON in UTF-8") from None
    if not isinstance(request, dict):
        raise values.Wrong('not a JSON object such as {"version": 1, "command": "status"}')
    version, name = request.pop("version", VERSION), request.pop("command", None)
    if version != VERSION or isinstance(version, bool):
        raise values.Wrong(f"version {ascii(version)[:80]} of the protocol is not supported; allowed: {VERSION}")
    if not isinstance(name, str):
        raise values.Wrong('no "command" in the request')
    if name not in known:
        raise values.Wrong(f"unknown command {name[:80]!r}; allowed: {', '.join(known)}")
    return name, request
