"""WORLD. Notifications to systemd, the sockets that it passes, and those that it keeps for the next agent.

sd_notify(3) and sd_listen_fds(3) are a datagram and two environment variables; no library is
needed. Without systemd every call does nothing.
"""

import asyncio
import os
import socket
import time
from array import array
from collections.abc import Callable, Mapping, MutableMapping

# How long a stop takes in addition to the release.
STOP_SLACK_S = 10.0

# sd_listen_fds(3): passed sockets start here.
LISTEN_FDS_START = 3

# The name prefix of a socket that a previous agent had systemd keep; the rest of the name is its address.
KEPT = "kept-"


# Retry intervals for what could not be sent.
RETRY_S = 0.05
RETRY_S_MAX = 10.0


class Notifier:
    """Talks to the service manager by ``NOTIFY_SOCKET``. Never raises, never blocks.

    The manager's queue may be full, or the manager away for a moment; then notifications stay pending, in order,
    until they are sent. A pending status or watchdog notification is replaced by a newer one.
    """

    def __init__(self, environ: Mapping[str, str] = os.environ) -> None:
        path = environ.get("NOTIFY_SOCKET", "")
        self._address = "\0" + path[1:] if path.startswith("@") else path
        self._status = ""
        self._due: list[tuple[bytes, socket.socket | None]] = []
        self._retry: asyncio.TimerHandle | None = None
        self._retry_s = RETRY_S
        self._socket = (
            socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
            if path
            else None
        )

    def _send(self, *lines: str, passing: socket.socket | None = None) -> None:
        if self._socket is not None:
            self._due.append(("\n".join(lines).encode(), passing))
            self._flush()

    def _flush(self) -> None:
        assert self._socket is not None  # noqa: S101 - for the type checker; who is due has one
        if self._retry:
            self._retry.cancel()
            self._retry = None
        while self._due:
            message, passing = self._due[0]
            rights = [] if passing is None else [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array("i", [passing.fileno()]))]
            try:
                self._socket.sendmsg([message], rights, 0, self._address)
            except OSError:
                self._retry = asyncio.get_running_loop().call_later(self._retry_s, self._flush)
                self._retry_s = min(2 * self._retry_s, RETRY_S_MAX)
                return
            del self._due[0]
            self._retry_s = RETRY_S

    def _withdraw(self, kind: bytes) -> None:
        self._due = [each for each in self._due if not each[0].startswith(kind)]

    def ready(self) -> None:
        """The service answers polls; also the end of a reload."""
        self._send("READY=1")

    def reloading(self) -> None:
        """A reload starts. Type=notify-reload requires the timestamp."""
        self._send("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")

    def stopping(self, for_s: float) -> None:
        """The stop starts, and takes this long."""
        self._send("STOPPING=1", f"EXTEND_TIMEOUT_USEC={round((for_s + STOP_SLACK_S) * 1_000_000)}")

    def status(self, text: str) -> None:
        """One line for ``systemctl status``; sent only when it changed."""
        if text != self._status:
            self._status = text
            self._withdraw(b"STATUS=")
            self._send(f"STATUS={text}")

    def pet(self) -> None:
        """Notifies the watchdog."""
        self._withdraw(b"WATCHDOG=")
        self._send("WATCHDOG=1")

    def no_pet(self) -> None:
        """The agent is not healthy: a pending watchdog notification is withdrawn."""
        self._withdraw(b"WATCHDOG=")

    def keep(self, listener: socket.socket, name: str) -> None:
        """systemd holds this socket until the service is stopped for good, and passes it to the next agent."""
        self._send("FDSTORE=1", f"FDNAME={KEPT}{name}", passing=listener)

    def keep_no_more(self, name: str) -> None:
        """systemd need not keep it any longer."""
        kept = f"FDNAME={KEPT}{name}".encode()
        self._due = [each for each in self._due if each[1] is None or not each[0].endswith(b"\n" + kept)]
        self._send("FDSTOREREMOVE=1", f"FDNAME={KEPT}{name}")

    def close(self) -> None:
        """Drops all pending notifications."""
        if self._retry:
            self._retry.cancel()
        self._due.clear()


class Watchdog:
    """Notifies systemd's watchdog as long as ``well`` returns True; does nothing without a watchdog."""

    def __init__(self, notifier: Notifier, well: Callable[[], bool]) -> None:
        self._notifier = notifier
        self._well = well
        self._timer: asyncio.TimerHandle | None = None

    def begin(self) -> None:
        """Starts notifying, if the service manager asks for it."""
        period_s = watchdog_s()
        if period_s is not None:
            self._pet(period_s)

    def _pet(self, period_s: float) -> None:
        if self._well():
            self._notifier.pet()
        else:
            self._notifier.no_pet()
        self._timer = asyncio.get_running_loop().call_later(period_s, self._pet, period_s)

    def close(self) -> None:
        """Stops notifying."""
        if self._timer:
            self._timer.cancel()


def watchdog_s(environ: Mapping[str, str] = os.environ, pid: int | None = None) -> float | None:
    """Seconds between notifications (half of systemd's timeout), or None without a watchdog."""
    meant = environ.get("WATCHDOG_PID")
    if meant and meant != str(pid or os.getpid()):
        return None
    try:
        usec = int(environ.get("WATCHDOG_USEC", "0"))
    except ValueError:
        return None
    return usec / 2_000_000 if usec > 0 else None


def passed_sockets(environ: MutableMapping[str, str] = os.environ) -> list[tuple[str, socket.socket]]:
    """The listening stream sockets that systemd passed, set up for the event loop: each with the name under which it
    was kept, or "" for one of a socket unit. They are passed once."""
    if environ.pop("LISTEN_PID", "") != str(os.getpid()):
        return []
    try:
        count = int(environ.get("LISTEN_FDS", "0"))
    except ValueError:
        return []
    names = dict(enumerate(environ.get("LISTEN_FDNAMES", "").split(":"), LISTEN_FDS_START))
    sockets = []
    for fd in range(LISTEN_FDS_START, LISTEN_FDS_START + count):
        os.set_inheritable(fd, False)
        try:
            passed = socket.socket(fileno=fd)
        except OSError:
            continue
        if passed.type == socket.SOCK_STREAM and passed.family in (socket.AF_INET, socket.AF_INET6):
            passed.setblocking(False)
            name = names.get(fd, "")
            sockets.append((name.removeprefix(KEPT) if name.startswith(KEPT) else "", passed))
        else:
            passed.detach()
    return sockets
