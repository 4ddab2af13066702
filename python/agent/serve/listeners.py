"""The current listening sockets: opened at the start, replaced at a reload, or passed by systemd.

It knows addresses and sockets. The server and the answerer reply on them.
"""

import logging
import socket
from collections.abc import Iterable

from agent.config import values
from agent.config.schema import Config
from agent.config.words import os_error
from agent.serve.server import Address, Server, address_of, open_listeners
from agent.serve.systemd import Notifier

log = logging.getLogger("busyweight")


def _name(address: Address) -> str:
    """An address with only the characters that sd_notify(3) allows in a name."""
    return values.show_address(address).replace(":", "_")


def _told(address: Address, listener: socket.socket) -> Address:
    """A socket's address, or the one asked for if the kernel does not tell."""
    try:
        return address_of(listener)
    except OSError:
        return address


def _resize(address: Address, listener: socket.socket, backlog: int) -> None:
    """Changes a listening socket's backlog. If the kernel refuses, the previous one stays."""
    try:
        listener.listen(backlog)
    except OSError as error:
        log.warning(
            "cannot change the backlog of %s: %s; keeping the previous one",
            values.show_address(address),
            os_error(error),
        )


class Listeners:
    """The listeners of ``server``. ``passed`` are those from systemd's socket unit; they override ``listen``.

    systemd keeps all others for the next agent (``notify``), so that during a restart no poll is refused, and no
    other program can take the port.
    """

    def __init__(self, server: Server, notify: Notifier) -> None:
        self._server = server
        self._notify = notify
        self._sockets: dict[Address, socket.socket] = {}
        self._passed = False

    def open(self, config: Config, passed: Iterable[tuple[str, socket.socket]]) -> None:
        """Answers polls from now on. ``passed`` are sockets, each with the name under which a previous agent had
        systemd keep it, if it did. Raises ListenError."""
        passed = list(passed)
        kept = {name: listener for name, listener in passed if name}
        given = {address_of(listener): listener for name, listener in passed if not name}
        self._passed = bool(given)
        have = {} if given else {a: kept[_name(a)] for a in config.listen if _name(a) in kept}
        opened = given or open_listeners(config.listen, config.limits.backlog, have=have)
        stay = {address: listener for address, listener in have.items() if address not in opened}
        for name, listener in kept.items():
            if listener not in stay.values():
                self._notify.keep_no_more(name)
                listener.close()
        for address, listener in stay.items():
            _resize(address, listener, config.limits.backlog)
        self._add({address: opened.get(address) or stay[address] for address in (given or config.listen)})
        self._keep(opened)
        self._warn_of_passed(config)

    def prepare(self, config: Config) -> dict[Address, socket.socket]:
        """The sockets that a new configuration needs in addition to, or instead of, the current ones. The caller owns
        them until :meth:`switch`. Raises ListenError."""
        if self._passed:
            return {}  # only systemd adds and removes those
        return open_listeners(config.listen, config.limits.backlog, have=self._sockets)

    def switch(self, config: Config, opened: dict[Address, socket.socket]) -> None:
        """Uses what :meth:`prepare` opened. Sockets that stay are not touched, so no poll is lost."""
        wanted = tuple(self._sockets) if self._passed else config.listen
        gone = {
            address: self._sockets.pop(address)
            for address in list(self._sockets)
            if address not in wanted or address in opened
        }
        self._add(opened)
        for address, listener in gone.items():
            self._notify.keep_no_more(_name(address))
            self._server.remove(listener)
        self._keep(opened)
        for address, listener in self._sockets.items():
            _resize(address, listener, config.limits.backlog)
        self._warn_of_passed(config)

    def _keep(self, opened: dict[Address, socket.socket]) -> None:
        if not self._passed:
            for address, listener in opened.items():
                self._notify.keep(listener, _name(address))

    def keep_no_more(self) -> None:
        """Tells systemd to keep no sockets: no other agent follows."""
        if not self._passed:
            for address in self._sockets:
                self._notify.keep_no_more(_name(address))

    def to_follow(self) -> dict[Address, socket.socket] | None:
        """The sockets that the next agent would have to open itself; None if systemd passes them."""
        return None if self._passed else dict(self._sockets)

    def addresses(self) -> list[Address]:
        """Where polls are answered."""
        return [_told(address, listener) for address, listener in self._sockets.items()]

    def _add(self, opened: dict[Address, socket.socket]) -> None:
        for address, listener in opened.items():
            self._sockets[address] = listener
            self._server.add(listener)
            log.info("listening on %s", values.show_address(_told(address, listener)))

    def _warn_of_passed(self, config: Config) -> None:
        if self._passed and set(self._sockets) != set(config.listen):
            shown = ", ".join(values.show_address(address) for address in config.listen)
            log.warning("the sockets passed by systemd override listen = %s", shown)
