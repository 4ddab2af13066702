"""What the control socket's commands do in the running agent. Access control is up to the socket."""

import asyncio
import contextlib
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from agent._scan import Scanner
from agent.config import values
from agent.operate import override
from agent.operate.orders import OverrideService
from agent.operate.session import Command, Peer, Request
from agent.operate.socket import ControlSocket, ControlSocketError
from agent.operate.status import Status, workers
from agent.operate.threads import NoThreadError, run_in_thread
from agent.sampling import host

log = logging.getLogger("busyweight")

# More would make the answer large, and nobody reads more at once.
WORKERS_MAX = 1000
WORKERS_USUAL = 200

# The name service (LDAP, sssd) may take a minute; a command does not wait for that.
NAME_WITHIN_S = 1.0


class ControlCommands:
    """Opens the socket at ``path``; ``gid`` is the group that may use it. If there can be no socket, the agent serves
    without one. ``status``, ``scanner``, ``pools`` (their names) and ``reply`` (the default pool's, if there is one)
    return the state at the time of the call.
    """

    def __init__(
        self,
        path: Path,
        gid: int | None,
        overrides: OverrideService,
        *,
        status: Callable[[], Status],
        scanner: Callable[[], Scanner],
        pools: Callable[[], list[str]],
        reply: Callable[[], bytes | None],
    ) -> None:
        self._overrides = overrides
        self._tell_status = status
        self._scanner = scanner
        self._pools = pools
        self._reply = reply
        self._socket: ControlSocket | None = None
        self._asked: dict[int, asyncio.Future[str]] = {}
        commands = {
            "status": self._status,
            "workers": self._workers,
            **{kind: self._orderer(kind) for kind in (*override.OVERRIDE_KINDS, "ready")},
        }
        try:
            self._socket = ControlSocket(path, commands, gid)
        except ControlSocketError as error:
            log.warning("%s; running without a control socket", error)
        else:
            log.info("control socket: %s", path)

    def allow_group(self, gid: int | None) -> None:
        """The group that may use the socket has changed."""
        if self._socket:
            self._socket.gid = gid

    def close(self) -> None:
        """Ends the socket."""
        if self._socket:
            self._socket.close()

    async def _status(self, request: Request, _: Peer) -> dict[str, Any]:
        _only(request)
        return {"status": self._tell_status().as_values()}

    async def _workers(self, request: Request, _: Peer) -> dict[str, Any]:
        _only(request, "most")
        try:
            most = values.integer(1, WORKERS_MAX)(request.get("most", WORKERS_USUAL))
        except values.Wrong as wrong:
            raise values.Wrong(f"most: allowed: {wrong}") from None
        scanner, pools = self._scanner(), self._pools()
        return await run_in_thread(lambda: workers(scanner, pools, most))

    def _orderer(self, kind: str) -> Command:
        async def order(request: Request, peer: Peer) -> dict[str, Any]:
            words = dict(request)
            who = _who(peer, await self._name(peer.uid), words.pop("sudo_user", None))
            done = await self._overrides.order(override.read_order(kind, words), who)
            reply = self._reply()
            return done | {"reply": None if reply is None else reply.decode()}

        return order

    async def _name(self, uid: int) -> str:
        """The user's name, or the uid if it has none or the lookup takes too long."""
        name = str(uid)
        with contextlib.suppress(NoThreadError):
            # One lookup per user at a time, so that no more threads hang than there are operators.
            asked = self._asked[uid] = self._asked.get(uid) or run_in_thread(lambda: host.user_name(uid))
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
    """Who sends the command. Root may say on whose behalf it acts, as sudo(8) does."""
    if sudo_user is not None and peer.uid == 0:
        try:
            name = str(values.reason(sudo_user))[:32]
        except values.Wrong:
            name = ""
        if name and name != own:
            return f"{name} ({own})"
    return own[:32]
