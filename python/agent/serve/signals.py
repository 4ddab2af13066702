"""WORLD. The signals that stop or reload the agent, handled from the moment there is an event loop.

They are blocked from the first line on (__main__.py) and unblocked here, so that none is lost and none ends the
process without a last reply.
"""

import asyncio
import signal
from collections.abc import Awaitable, Callable
from typing import TypeVar

T = TypeVar("T")

# How long to wait for what a last reply needs: the configuration says where and to whom.
PATIENCE_S = 3.0


class StoppedError(Exception):
    """A stop signal came before there was anything to stop."""


class Signals:
    """``stop`` is set by the first stop signal, ``at_once`` by the second. ``restart`` tells that it was systemd's
    RestartKillSignal: another agent is meant to follow.

    ``reload`` is called at each SIGHUP, or, for one that came before it was set, once it is set.
    """

    def __init__(self) -> None:
        loop = asyncio.get_running_loop()
        self.stop = asyncio.Event()
        self.at_once = asyncio.Event()
        self.restart = False
        self._reload: Callable[[], None] | None = None
        self._reload_came = False
        heeded = {
            signal.SIGTERM: self._stop,
            signal.SIGINT: self._stop,
            signal.SIGUSR1: self._restart,
            signal.SIGHUP: self._hang_up,
        }
        for number, heed in heeded.items():
            loop.add_signal_handler(number, heed)
        # The parent process may have blocked them too.
        signal.pthread_sigmask(signal.SIG_UNBLOCK, heeded)

    def on_reload(self, reload: Callable[[], None]) -> None:
        """What to call on SIGHUP from now on."""
        self._reload = reload
        if self._reload_came:
            self._reload_came = False
            reload()

    async def wait(self, event: asyncio.Event, timeout_s: float) -> None:
        """Waits for an event, a stop signal, or the timeout."""
        waits = {asyncio.ensure_future(each.wait()) for each in (event, self.stop)}
        await asyncio.wait(waits, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
        for wait in waits:
            wait.cancel()

    async def unless_stopped(self, work: Awaitable[T]) -> T:
        """The result of the work. After a stop signal it gets a little more time. Raises StoppedError when that is
        over."""
        working = asyncio.ensure_future(work)
        for signalled, patience_s in ((self.stop, None), (self.at_once, PATIENCE_S)):
            waiting = asyncio.ensure_future(signalled.wait())
            await asyncio.wait({working, waiting}, timeout=patience_s, return_when=asyncio.FIRST_COMPLETED)
            waiting.cancel()
        if not working.done():
            working.cancel()
            raise StoppedError
        return working.result()

    def _stop(self) -> None:
        if self.stop.is_set():
            self.at_once.set()
        self.stop.set()

    def _restart(self) -> None:
        self.restart = self.restart or not self.stop.is_set()
        self._stop()

    def _hang_up(self) -> None:
        if self._reload is None:
            self._reload_came = True
        else:
            self._reload()
