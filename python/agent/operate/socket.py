"""WORLD. The control socket: opens it, and decides who may use it, see docs/control.md.

It does not know what the commands mean: they are passed in. Whatever clients do, polls do not wait.
"""

import asyncio
import contextlib
import errno
import logging
import os
import socket
import stat
import struct
from collections.abc import Mapping
from pathlib import Path

from agent.config import paths
from agent.config.words import os_error
from agent.operate.listener import ListenerWatch
from agent.operate.session import Command, Peer, Session, encode, failure

log = logging.getLogger("busyweight")

CLIENTS_MAX = 32

# Users whose refusal is logged, once each.
REFUSED_MAX = 100

BACKLOG = 128
BURST = 16

# How long to pause a listener that cannot accept, so that it does not spin.
STUCK_PAUSE_S = 0.5

_SO_PEERGROUPS = 59  # asm-generic/socket.h; Python has no name for it
_GROUPS_MAX = 256  # as many as Python's getsockopt has room for


class ControlSocketError(OSError):
    """The socket cannot be opened. The text says which and why."""


def peer_of(connection: socket.socket) -> Peer:
    """The process at the other end. Raises OSError."""
    credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("iII"))
    pid, uid, gid = struct.unpack("iII", credentials)
    try:
        groups = connection.getsockopt(socket.SOL_SOCKET, _SO_PEERGROUPS, 4 * _GROUPS_MAX)
    except OSError:
        groups = b""  # in more groups than fit: only the first one counts
    return Peer(pid, uid, frozenset({gid, *struct.unpack(f"{len(groups) // 4}I", groups)}))


def open_socket(path: Path) -> socket.socket:
    """Listens at ``path``, for everyone; access is decided by the peer's credentials.

    It replaces the socket of a dead agent, but neither that of a running one nor anything that is not a socket.
    Raises ControlSocketError.
    """
    try:
        if not path.parent.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.parent.chmod(0o755)  # a strict umask must not keep the group out
        _make_room(path)
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        try:
            with paths.short_name(path) as name:
                listener.bind(name)
            path.chmod(0o666)
            listener.listen(BACKLOG)
        except OSError:
            listener.close()
            raise
    except OSError as error:
        raise ControlSocketError(f"control socket {path}: {os_error(error)}") from None
    return listener


def _make_room(path: Path) -> None:
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise FileExistsError(errno.EEXIST, "the path exists and is not a socket; leaving it alone")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as probe:
        try:
            with paths.short_name(path) as name:
                probe.connect(name)
        except (ConnectionRefusedError, FileNotFoundError):
            path.unlink(missing_ok=True)
        except BlockingIOError:
            raise FileExistsError(errno.EADDRINUSE, "in use by another agent; leaving it alone") from None
        else:
            pid = peer_of(probe).pid
            raise FileExistsError(errno.EADDRINUSE, f"in use by another agent (pid {pid}); leaving it alone")


class ControlSocket:
    """Serves the socket at ``path``. ``commands`` are called with a request's other keys and may raise values.Wrong;
    ``gid`` is the group that may use it, if any."""

    def __init__(self, path: Path, commands: Mapping[str, Command], gid: int | None) -> None:
        self.path = path
        self.gid = gid
        self.commands = commands
        self.clients: set[Session] = set()
        self._refused: set[int] = set()
        self._listener = open_socket(path)
        self._inode = _inode(path)
        self._watch = ListenerWatch(asyncio.get_running_loop(), self._listener, self._accept, STUCK_PAUSE_S)
        self._watch.start()

    def close(self) -> None:
        """Closes it, and removes the socket file if it is still this one."""
        self._watch.close()
        with contextlib.suppress(OSError):
            self._listener.close()
        for client in list(self.clients):
            client.close()
        if _inode(self.path) == self._inode:
            with contextlib.suppress(OSError):
                self.path.unlink()

    def _accept(self) -> None:
        for _ in range(BURST):
            try:
                connection, _ = self._listener.accept()
            except (BlockingIOError, ConnectionAbortedError, InterruptedError):
                return
            except OSError:
                self._watch.back_off()
                return
            self._welcome(connection)

    def _welcome(self, connection: socket.socket) -> None:
        try:
            connection.setblocking(False)
            peer = peer_of(connection)
        except OSError:
            with contextlib.suppress(OSError):
                connection.close()
            return
        if why := self._refusal(peer):
            # A new connection's buffer has space for a line.
            with contextlib.suppress(OSError), connection:
                connection.send(encode(failure(why)))
            return
        self.clients.add(Session(connection, peer, self.commands, self.clients.discard))

    def _refusal(self, peer: Peer) -> str | None:
        # Only by number: the name service may take a minute, and anybody may connect.
        if peer.uid not in (0, os.geteuid()) and (self.gid is None or self.gid not in peer.gids):
            group = "" if self.gid is None else f", and members of group {self.gid}"
            own = "" if os.geteuid() == 0 else f", user {os.geteuid()} (the agent's)"
            if peer.uid not in self._refused and len(self._refused) < REFUSED_MAX:
                self._refused.add(peer.uid)
                log.warning("control: refused uid %d (pid %d)", peer.uid, peer.pid)
            return (
                f"refused: uid {peer.uid} may not control this agent; root{own}{group} may. "
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
