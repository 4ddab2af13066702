"""WORLD. One client of the control socket: lines of JSON in and out, see docs/control.md.

It keeps at most one request and one answer in memory, reads on only when the answer is sent, and disconnects a client
that takes too long. It does not know what the commands mean.
"""

import asyncio
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
        self._unsent = memoryview(b"")
        self._last = False
        self._task: asyncio.Task[None] | None = None
        self._deadline: asyncio.TimerHandle | None = None
        self._listen()

    def close(self) -> None:
        """Disconnects the client."""
        if self._socket.fileno() < 0:
            return
        self._left(self)
        if self._deadline:
            self._deadline.cancel()
        self._loop.remove_reader(self._socket)
        self._loop.remove_writer(self._socket)
        self._socket.close()

    def _patience(self, seconds: float, then: Callable[[], None]) -> None:
        if self._deadline:
            self._deadline.cancel()
        self._deadline = self._loop.call_later(seconds, then)

    def _listen(self) -> None:
        self._patience(IDLE_S, self._idle)
        self._watch(self._loop.add_reader, self._readable)

    def _watch(self, add: Callable[..., None], then: Callable[[], None]) -> None:
        try:
            add(self._socket, then)
        except OSError:  # the kernel has no room for one more watch
            self.close()

    def _idle(self) -> None:
        if self._read:
            self._answer(failure(f"no end of the line within {IDLE_S:g} s"), last=True)
        else:
            self.close()

    def _readable(self) -> None:
        try:
            data = self._socket.recv(LINE_LEN_MAX + 1 - len(self._read))
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            self.close()
            return
        self._read += data
        if b"\n" in data:
            self._next()
        elif not data and self._read:
            self._answer(failure("incomplete line: the newline is missing"), last=True)
        elif not data:
            self.close()
        elif len(self._read) > LINE_LEN_MAX:
            self._answer(failure(f"the line is longer than {LINE_LEN_MAX} bytes"), last=True)

    def _next(self) -> None:
        """Carries out the first line read."""
        self._loop.remove_reader(self._socket)
        if self._deadline:
            self._deadline.cancel()
        line, _, self._read = self._read.partition(b"\n")
        self._task = self._loop.create_task(self._carry_out(bytes(line)))

    async def _carry_out(self, line: bytes) -> None:
        try:
            name, request = parse(line, self._commands)
            command = self._commands[name]
            answer = {"ok": True} | await command(request, self._peer)
        except values.Wrong as wrong:
            answer = failure(str(wrong))
        except Exception as error:  # a bug in one command must not end the agent
            log.error("control: %s", repr(error))  # noqa: TRY400 - one line
            answer = failure(f"the agent failed: {error!r}")
        self._task = None
        self._answer(answer)

    def _answer(self, answer: dict[str, Any], *, last: bool = False) -> None:
        if self._socket.fileno() < 0:
            return
        self._loop.remove_reader(self._socket)
        self._unsent = memoryview(encode(answer))
        self._last = last
        self._patience(ANSWER_S, self.close)
        self._writable()

    def _writable(self) -> None:
        try:
            sent = self._socket.send(self._unsent)
        except (BlockingIOError, InterruptedError):
            sent = 0
        except OSError:
            self.close()
            return
        self._unsent = self._unsent[sent:]
        if self._unsent:
            self._watch(self._loop.add_writer, self._writable)
            return
        self._loop.remove_writer(self._socket)
        if self._last:
            self.close()
        elif b"\n" in self._read:
            self._next()
        else:
            self._listen()


def parse(line: bytes, known: Collection[str]) -> tuple[str, dict[str, Any]]:
    """A request's command, which is one of the known ones, and its other keys. Raises values.Wrong."""
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
