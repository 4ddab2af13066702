"""What the control socket's commands do: the operator's desk in the running agent."""

import asyncio
import contextlib
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agent.config import values
from agent.operate import override, status
from agent.operate.session import Command, Peer, Request
from agent.operate.socket import Control, ControlError
from agent.operate.threads import NoThreadError, aside
from agent.sampling import host

if TYPE_CHECKING:
    from agent.serve.daemon import Daemon

log = logging.getLogger("busyweight")

# More are in nobody's interest at once, and would make the answer large.
WORKERS_MAX = 1000
WORKERS_USUAL = 200

# Who knows users' names (LDAP, sssd) may take a minute; an order does not wait for that.
NAME_WITHIN_S = 1.0


class Desk:
    """Opens the socket at ``path``; without one the agent serves all the same."""

    def __init__(self, daemon: "Daemon", path: Path) -> None:
        self.path = path
        self._daemon = daemon
        self._control: Control | None = None
        self._asked: dict[int, asyncio.Future[str]] = {}
        commands = {
            "status": self._status,
            "workers": self._workers,
            **{kind: self._orderer(kind) for kind in (*override.KINDS, "ready")},
        }
        try:
            self._control = Control(path, commands, daemon.gid)
        except ControlError as error:
            log.warning("%s; serves without", error)
        else:
            log.info("takes orders at %s", path)

    def configure(self) -> None:
        """Who may command may have changed."""
        if self._control:
            self._control.gid = self._daemon.gid

    def close(self) -> None:
        """Ends the socket."""
        if self._control:
            self._control.close()

    async def _status(self, request: Request, _: Peer) -> dict[str, Any]:
        _only(request)
        return {"status": status.report(self._daemon)}

    async def _workers(self, request: Request, _: Peer) -> dict[str, Any]:
        _only(request, "most")
        try:
            most = values.integer(1, WORKERS_MAX)(request.get("most", WORKERS_USUAL))
        except values.Wrong as wrong:
            raise values.Wrong(f"most: allowed: {wrong}") from None
        scanner = self._daemon.sampler.scanner
        pools = [name for name, _ in self._daemon.speaker.rules]
        return await aside(lambda: status.workers(scanner, pools, most))

    def _orderer(self, kind: str) -> Command:
        async def order(request: Request, peer: Peer) -> dict[str, Any]:
            words = dict(request)
            who = _who(peer, await self._name(peer.uid), words.pop("sudo_user", None))
            done = await self._daemon.orders.order(override.read_order(kind, words), who)
            return done | {"reply": self._daemon.said[0].line.decode() if self._daemon.said else None}

        return order

    async def _name(self, uid: int) -> str:
        """The user's name, or its number where it has none, or none that can be told soon."""
        name = str(uid)
        with contextlib.suppress(NoThreadError):
            # One question about each at a time, so that no more threads hang than there are operators.
            asked = self._asked[uid] = self._asked.get(uid) or aside(lambda: host.user_name(uid))
            done, _ = await asyncio.wait({asked}, timeout=NAME_WITHIN_S)
            if done:
                self._asked.pop(uid, None)
                name = asked.result()
        return f"uid {name}" if name == str(uid) else name


def _only(request: Mapping[str, Any], *allowed: str) -> None:
    for key in request:
        if key not in allowed:
            raise values.Wrong(f"unknown key {key[:80]!r}; allowed: {', '.join(allowed) or 'none'}")


def _who(peer: Peer, own: str, sudo_user: object) -> str:
    """Who commands. Root may say on whose behalf, as sudo(8) does."""
    if sudo_user is not None and peer.uid == 0:
        try:
            name = str(values.reason(sudo_user))[:32]
        except values.Wrong:
            name = ""
        if name and name != own:
            return f"{name} ({own})"
    return own[:32]
