"""WORLD. The sockets: accepts polls and sends the current reply.

It knows only two questions: "what do I reply?", which the answerer was told beforehand, and "should they wait?". It
knows neither scans nor weights, creates no object per connection on the fast path, and no connection's error leaves
it.
"""

import asyncio
import errno
import os
import select
import socket
import sys
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from functools import partial
from types import MappingProxyType

from agent._scan import Answerer
from agent.config.values import show_address
from agent.config.words import os_error
from agent.operate.listener import ListenerWatch

# How many polls are answered before the event loop's other work gets its turn.
BATCH = 64

# How long to pause a listener that cannot accept, so that it does not spin.
STUCK_PAUSE_S = 0.05

Address = tuple[str, int]


class ListenError(OSError):
    """A listening socket cannot be opened. The text names the address and the remedy."""


def open_listener(
    address: Address, backlog: int | None, *, v6only: bool = False, beside: Iterable[socket.socket] = ()
) -> socket.socket:
    """Binds and listens; without a ``backlog`` it only binds, to check whether that is possible. ``[::]`` serves both
    families unless ``v6only``.

    ``beside`` are our own sockets that this one will replace: they may share its port until they are closed, so that
    no poll finds it closed. Raises ListenError.
    """
    host, port = address
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # Only during the bind, so that another agent of the same user still gets an error that the port is in use.
    sharing = [each for each in beside if each.getsockname()[1] == port]
    try:
        listener = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, v6only)
            for each in [listener, *sharing] if sharing else []:
                each.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            listener.bind(_where(host, port))
            if backlog is not None:
                listener.listen(backlog)
        except OSError:
            listener.close()
            raise
        finally:
            for each in [listener, *sharing]:
                if each.fileno() >= 0:
                    each.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 0)
    except OSError as error:
        raise ListenError(f"cannot listen on {show_address(address)}: {_remedy(error, port)}") from None
    return listener


def _where(host: str, port: int) -> tuple[str, int] | tuple[str, int, int, int]:
    """The address for bind(2): a link-local one needs the number of its interface. Raises OSError."""
    host, _, scope = host.partition("%")
    if not scope:
        return host, port
    try:
        return host, port, 0, int(scope) if scope.isdigit() else socket.if_nametoindex(scope)
    except OSError:  # which has no number
        raise OSError(errno.ENODEV, os.strerror(errno.ENODEV)) from None


def address_of(listener: socket.socket) -> Address:
    """The address that it listens on; a link-local one includes its interface."""
    host, port, *more = listener.getsockname()
    with suppress(OSError):  # an interface that is gone has no name
        if len(more) == 2 and more[1]:
            host = f"{host}%{socket.if_indextoname(more[1])}"
    return host, port


def _remedy(error: OSError, port: int) -> str:
    why = os_error(error)
    remedies = {
        errno.EADDRINUSE: f"to see what uses it: ss -ltnp 'sport = :{port}'",
        errno.EACCES: "ports below 1024 need CAP_NET_BIND_SERVICE or a systemd socket unit",
        errno.EADDRNOTAVAIL: "no interface of this host has this address",
        errno.EAFNOSUPPORT: "IPv6 is disabled on this host: listen on an IPv4 address",
        errno.ENODEV: "no such interface on this host: see ip link",
        errno.EINVAL: f"a link-local address needs its interface, as in [fe80::1%eth0]:{port}",
    }
    remedy = remedies.get(error.errno or 0)
    return f"{why}; {remedy}" if remedy else why


def open_listeners(
    addresses: Iterable[Address], backlog: int | None, *, have: Mapping[Address, socket.socket] = MappingProxyType({})
) -> dict[Address, socket.socket]:
    """Opens all of them, except those that we already have, or none. Raises ListenError.

    A socket that we have for IPv6 only but need for both families, or the other way round, is opened again.
    """
    addresses = list(addresses)
    v4_ports = {port for host, port in addresses if ":" not in host}
    kept = {a: s for a, s in have.items() if a in addresses and _serves(s, v6only=a[1] in v4_ports)}
    leaving = [listener for address, listener in have.items() if address not in kept]
    opened: dict[Address, socket.socket] = {}
    try:
        for address in addresses:
            if address not in kept:
                v6only = address[1] in v4_ports
                opened[address] = open_listener(address, backlog, v6only=v6only, beside=leaving)
    except ListenError:
        for listener in opened.values():
            listener.close()
        raise
    return opened


def _serves(listener: socket.socket, *, v6only: bool) -> bool:
    """Whether a socket that we have is as it would be opened now."""
    if listener.family != socket.AF_INET6:
        return True
    return bool(listener.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY)) == v6only


def _waiting(listener: socket.socket) -> int:
    """How many connections wait to be accepted; for a listener tcpi_unacked is that number (tcp(7)). One batch if the
    kernel does not tell."""
    try:
        info = listener.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 28)
    except OSError:
        return BATCH
    return int.from_bytes(info[24:28], sys.byteorder)


class Server:
    """Serves any number of listening sockets, which it then owns.

    At most ``awaiting_line_max`` connections may wait, for ``deadline_s`` each, with their agent-send line still
    missing. ``ask`` is called once per batch of polls, unless the answerer was told that its replies are settled for
    now. It returns whether waiting could lead to a better reply. Then no more polls are accepted, so that they wait
    in the kernel's backlog and cost nothing, until :meth:`resume` or for ``wait_at_most_s``, once per resume.
    """

    def __init__(
        self,
        answerer: Answerer,
        ask: Callable[[], bool],
        *,
        wait_at_most_s: float,
        deadline_s: float,
        awaiting_line_max: int,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._answerer = answerer
        self.ask = ask
        self.wait_at_most_s = wait_at_most_s
        self.deadline_s = deadline_s
        self.awaiting_line_max = awaiting_line_max
        self._listeners: dict[socket.socket, ListenerWatch] = {}
        self._hold_timer: asyncio.TimerHandle | None = None
        self._waited = False
        self._awaiting_line: dict[int, asyncio.TimerHandle] = {}
        self._waiting_since_turn: int | None = None

    def add(self, listener: socket.socket) -> None:
        """Serves this socket too."""
        watch = ListenerWatch(self._loop, listener, partial(self._readable, listener), STUCK_PAUSE_S)
        self._listeners[listener] = watch
        if self._hold_timer is None:
            watch.start()

    def remove(self, listener: socket.socket) -> None:
        """Stops serving it. Polls in its backlog are answered first."""
        self._answer(listener, BATCH * BATCH)
        # The watch is closed first: systemd may hold a duplicate that keeps the socket alive.
        self._listeners.pop(listener).close()
        # The descriptor is gone whatever close(2) returns.
        with suppress(OSError):
            listener.close()

    def close(self) -> None:
        """Closes everything. Pollers whose line is still missing get the default reply."""
        for listener in list(self._listeners):
            self.remove(listener)
        for fd in list(self._awaiting_line):
            self._expire(fd)
        if self._hold_timer:
            self._hold_timer.cancel()

    def resume(self) -> None:
        """There is a new reply: pollers that wait, or whose wait has timed out, get it without waiting for the
        next."""
        had_waited, self._waited = self._waited, False
        if self._hold_timer is not None:
            self._hold_timer.cancel()
            self._accept_again()
        elif not had_waited:
            return
        for listener, watch in self._listeners.items():
            if not watch.backing_off:
                # Only these: polls that arrive in response to a reply are new.
                self._answer(listener, _waiting(listener))

    def answers(self) -> bool:
        """Whether polls get replies; to be called now and then, some seconds apart.

        False if a listener no longer listens, or if polls wait now and waited at the last call, and none was answered
        in between.
        """
        try:
            if not all(each.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN) for each in self._listeners):
                return False
        except OSError:
            return False
        waiting = select.poll()
        for each in self._listeners:
            waiting.register(each.fileno(), select.POLLIN)
        totals = self._answerer.totals()
        turns = totals.answered + totals.refused + totals.disconnected
        left_waiting_at, self._waiting_since_turn = self._waiting_since_turn, turns if waiting.poll(0) else None
        return self._waiting_since_turn is None or self._waiting_since_turn != left_waiting_at

    def _await_line(self, fd: int) -> None:
        try:
            self._loop.add_reader(fd, self._line, fd)
        except OSError:
            self._expire(fd)

    def _readable(self, listener: socket.socket) -> None:
        if not self._answerer.settled():
            if not self._answerer.accept_allowed(listener.fileno(), BATCH):
                return
            if self.ask() and not self._waited and self.wait_at_most_s > 0:
                for watch in self._listeners.values():
                    watch.stop()
                self._hold_timer = self._loop.call_later(self.wait_at_most_s, self._give_up_waiting)
                return
        self._answer(listener, BATCH)

    def _answer(self, listener: socket.socket, most: int) -> None:
        """Answers the polls in the backlog, and watches those whose line is still missing."""
        end, owing = self._answerer.serve_batch(listener.fileno(), most)
        for fd in owing:
            self._awaiting_line[fd] = self._loop.call_later(self.deadline_s, self._expire, fd)
            self._await_line(fd)
        while len(self._awaiting_line) > self.awaiting_line_max:
            # The one that has waited longest is evicted: a balancer sends its line with the connection.
            self._expire(next(iter(self._awaiting_line)), evicted=True)
        if end < 0:
            self._listeners[listener].back_off()

    def _give_up_waiting(self) -> None:
        # The scan hangs or takes long. All polls are answered at once until it ends.
        self._waited = True
        self._accept_again()

    def _accept_again(self) -> None:
        self._hold_timer = None
        for watch in self._listeners.values():
            watch.start()
        for listener in list(self._listeners)[:1]:
            # The one that was accepted to check its address.
            self._answer(listener, 0)

    def _line(self, fd: int) -> None:
        # The answerer closes the descriptor when it is done, so the event loop's reader is removed first.
        self._loop.remove_reader(fd)
        if self._answerer.readable(fd):
            self._awaiting_line.pop(fd).cancel()
        else:
            self._await_line(fd)

    def _expire(self, fd: int, *, evicted: bool = False) -> None:
        self._loop.remove_reader(fd)
        self._awaiting_line.pop(fd).cancel()
        self._answerer.expire(fd, evicted=evicted)
