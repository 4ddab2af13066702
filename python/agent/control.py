"""WORLD. The operators' socket: JSON lines over a unix socket, see docs/control.md.

It knows who may command and how requests look on the wire, and nothing of what they mean:
the commands are given to it. Whatever clients do, polls do not wait: every client has one
request and one answer in memory at most, is read only when its answer is gone, and is left
when it takes too long.
"""

import asyncio
import contextlib
import errno
import json
import logging
import os
import pwd
import socket
import stat
import struct
from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agent import values

log = logging.getLogger("busyweight")

VERSION = 1
LINE_LEN_MAX = 4096
CLIENTS_MAX = 32

# Users whose refusal is logged, once each.
REFUSED_MAX = 100

# A client that says nothing, or does not read its answer, is left after so long.
IDLE_S = 30.0
ANSWER_S = 10.0

BACKLOG = 128
BURST = 16

# A listener that cannot accept is left alone for so long, or it would spin.
STUCK_PAUSE_S = 0.5

_SO_PEERGROUPS = 59  # asm-generic/socket.h; Python has no name for it
_GROUPS_MAX = 256  # as many as Python's getsockopt has room for

Request = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Peer:
    """Who is at the other end, as the kernel says (unix(7), SO_PEERCRED and SO_PEERGROUPS)."""

    pid: int
    uid: int
    gids: frozenset[int]

    @property
    def name(self) -> str:
        """The user's name, or its number where it has none."""
        try:
            return pwd.getpwuid(self.uid).pw_name
        except KeyError:
            return f"uid {self.uid}"


Command = Callable[[Request, Peer], Awaitable[dict[str, Any]]]


class ControlError(OSError):
    """There can be no socket here. The text names it and the reason."""


def peer_of(connection: socket.socket) -> Peer:
    """Who is at the other end. Raises OSError."""
    credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("iII"))
    pid, uid, gid = struct.unpack("iII", credentials)
    try:
        groups = connection.getsockopt(socket.SOL_SOCKET, _SO_PEERGROUPS, 4 * _GROUPS_MAX)
    except OSError:
        groups = b""  # in more groups than there is room for: the first one counts
    return Peer(pid, uid, frozenset({gid, *struct.unpack(f"{len(groups) // 4}I", groups)}))


def open_socket(path: Path) -> socket.socket:
    """Listens at ``path``, for everyone; who may command is decided by who they are.

    What a dead agent left there is replaced; a live one's socket, or anything that is no
    socket, is left alone. Raises ControlError.
    """
    try:
        if not path.parent.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.parent.chmod(0o755)  # a strict umask must not keep the group out
        _make_room(path)
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        try:
            listener.bind(str(path))
            path.chmod(0o666)
            listener.listen(BACKLOG)
        except OSError:
            listener.close()
            raise
    except OSError as error:
        why = error.strerror or str(error)
        raise ControlError(f"control socket {path}: {why[:1].lower()}{why[1:]}") from None
    return listener


def _make_room(path: Path) -> None:
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise FileExistsError(errno.EEXIST, "something that is no socket is there; it is left alone")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as probe:
        try:
            probe.connect(str(path))
        except (ConnectionRefusedError, FileNotFoundError):
            path.unlink(missing_ok=True)
        except BlockingIOError:
            raise FileExistsError(errno.EADDRINUSE, "another agent has it; it is left alone") from None
        else:
            pid = peer_of(probe).pid
            raise FileExistsError(errno.EADDRINUSE, f"another agent (pid {pid}) has it; it is left alone")


class Control:
    """Serves the socket at ``path``. ``commands`` are called with a request's other keys and
    may raise values.Wrong; ``gid`` is the group that may command, if any."""

    def __init__(self, path: Path, commands: Mapping[str, Command], gid: int | None) -> None:
        self.path = path
        self.gid = gid
        self.commands = commands
        self.clients: set[Client] = set()
        self._refused: set[int] = set()
        self._loop = asyncio.get_running_loop()
        self._listener = open_socket(path)
        self._inode = _inode(path)
        self._loop.add_reader(self._listener, self._accept)
        self._resting: asyncio.TimerHandle | None = None

    def close(self) -> None:
        """Ends it, and takes the socket away if it still is this one."""
        self._loop.remove_reader(self._listener)
        if self._resting:
            self._resting.cancel()
        self._listener.close()
        for client in list(self.clients):
            client.close()
        if _inode(self.path) == self._inode:
            self.path.unlink(missing_ok=True)

    def _accept(self) -> None:
        for _ in range(BURST):
            try:
                connection, _ = self._listener.accept()
            except (BlockingIOError, ConnectionAbortedError, InterruptedError):
                return
            except OSError:
                self._loop.remove_reader(self._listener)
                self._resting = self._loop.call_later(STUCK_PAUSE_S, self._rested)
                return
            connection.setblocking(False)
            self._welcome(connection)

    def _rested(self) -> None:
        self._resting = None
        self._loop.add_reader(self._listener, self._accept)

    def _welcome(self, connection: socket.socket) -> None:
        try:
            peer = peer_of(connection)
        except OSError:
            connection.close()
            return
        if why := self._refusal(peer):
            # A new connection's buffer has room for a line.
            with contextlib.suppress(OSError):
                connection.send(encode(failure(why)))
            connection.close()
            return
        self.clients.add(Client(self, connection, peer))

    def _refusal(self, peer: Peer) -> str | None:
        if peer.uid not in (0, os.geteuid()) and (self.gid is None or self.gid not in peer.gids):
            group = "" if self.gid is None else f", and members of group {self.gid}"
            own = "" if os.geteuid() == 0 else f", user {os.geteuid()} (the agent's)"
            if peer.uid not in self._refused and len(self._refused) < REFUSED_MAX:
                self._refused.add(peer.uid)
                log.warning("control: refused %s (uid %d, pid %d)", peer.name, peer.uid, peer.pid)
            return (
                f"refused: {peer.name} (uid {peer.uid}) may not command this agent; root{own}{group} may. "
                "See [control] group in the configuration"
            )
        if len(self.clients) >= CLIENTS_MAX:
            return f"refused: {CLIENTS_MAX} clients are connected already; try again later"
        return None


def _inode(path: Path) -> tuple[int, int] | None:
    try:
        found = path.lstat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def failure(why: str) -> dict[str, Any]:
    """The answer to a request that comes to nothing."""
    return {"ok": False, "error": why}


def encode(answer: dict[str, Any]) -> bytes:
    """An answer on the wire."""
    return json.dumps({"version": VERSION} | answer).encode() + b"\n"


class Client:
    """One connection: reads a line, has it carried out, writes the answer, and so on."""

    def __init__(self, control: Control, connection: socket.socket, peer: Peer) -> None:
        self._control = control
        self._socket = connection
        self._peer = peer
        self._loop = asyncio.get_running_loop()
        self._read = bytearray()
        self._unsent = memoryview(b"")
        self._last = False
        self._task: asyncio.Task[None] | None = None
        self._deadline: asyncio.TimerHandle | None = None
        self._listen()

    def close(self) -> None:
        """Leaves the client."""
        if self._socket.fileno() < 0:
            return
        self._control.clients.discard(self)
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
        self._loop.add_reader(self._socket, self._readable)

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
            self._answer(failure("the line has no end: a newline is missing"), last=True)
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
            name, request = parse(line, self._control.commands)
            command = self._control.commands[name]
            answer = {"ok": True} | await command(request, self._peer)
        except values.Wrong as wrong:
            answer = failure(str(wrong))
        except Exception as error:  # one command's fault must not end the agent
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
            self._loop.add_writer(self._socket, self._writable)
            return
        self._loop.remove_writer(self._socket)
        if self._last:
            self.close()
        elif b"\n" in self._read:
            self._next()
        else:
            self._listen()


def parse(line: bytes, known: Collection[str]) -> tuple[str, dict[str, Any]]:
    """A request's command, which is one of the known, and its other keys. Raises values.Wrong."""
    try:
        request = json.loads(line)
    except (ValueError, RecursionError):
        raise values.Wrong("not a line of JSON in UTF-8") from None
    if not isinstance(request, dict):
        raise values.Wrong('not a JSON object such as {"version": 1, "command": "status"}')
    version, name = request.pop("version", VERSION), request.pop("command", None)
    if version != VERSION or isinstance(version, bool):
        raise values.Wrong(f"version {str(version)[:80]} of the protocol is not known here; allowed: {VERSION}")
    if not isinstance(name, str):
        raise values.Wrong('no "command" in the request')
    if name not in known:
        raise values.Wrong(f"unknown command {name[:80]!r}; allowed: {', '.join(known)}")
    return name, request
