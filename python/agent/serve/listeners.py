"""The listening sockets in force: opened at the start, exchanged at a reload, or passed by systemd.

It knows addresses and sockets. What is answered on them is the server's and the answerer's.
"""

import logging
import socket
from collections.abc import Iterable

from agent.config import values
from agent.config.schema import Config
from agent.serve.server import Address, Server, open_listeners

log = logging.getLogger("busyweight")


class Listeners:
    """Those of ``server``. ``passed`` are what systemd passed; they replace ``listen``."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._sockets: dict[Address, socket.socket] = {}
        self._passed = False

    def open(self, config: Config, passed: Iterable[socket.socket]) -> None:
        """Polls are answered from now on. Raises ListenError."""
        given = {listener.getsockname()[:2]: listener for listener in passed}
        self._passed = bool(given)
        self._add(given or open_listeners(config.listen, config.limits.backlog))
        self._warn_of_passed(config)

    def prepare(self, config: Config) -> dict[Address, socket.socket]:
        """The sockets that a new configuration wants beside or instead of those in force. They are
        the caller's until :meth:`switch`. Raises ListenError."""
        if self._passed:
            return {}  # they are systemd's to add and to remove
        return open_listeners(config.listen, config.limits.backlog, have=self._sockets)

    def switch(self, config: Config, opened: dict[Address, socket.socket]) -> None:
        """Takes what :meth:`prepare` opened. Sockets that stay are not touched, so no poll is lost."""
        wanted = tuple(self._sockets) if self._passed else config.listen
        gone = [address for address in self._sockets if address not in wanted or address in opened]
        leaving = [self._sockets.pop(address) for address in gone]
        self._add(opened)
        for listener in leaving:
            self._server.remove(listener)
        for listener in self._sockets.values():
            listener.listen(config.limits.backlog)
        self._warn_of_passed(config)

    def to_follow(self) -> dict[Address, socket.socket] | None:
        """The sockets that another agent would have to open itself; None where systemd passes them."""
        return None if self._passed else dict(self._sockets)

    def addresses(self) -> list[Address]:
        """Where polls are answered."""
        return [listener.getsockname()[:2] for listener in self._sockets.values()]

    def _add(self, opened: dict[Address, socket.socket]) -> None:
        for address, listener in opened.items():
            self._sockets[address] = listener
            self._server.add(listener)
            log.info("listening on %s", values.show_address(listener.getsockname()[:2]))

    def _warn_of_passed(self, config: Config) -> None:
        if self._passed and set(self._sockets) != set(config.listen):
            shown = ", ".join(values.show_address(address) for address in config.listen)
            log.warning("the sockets that systemd passed replace listen = %s", shown)
